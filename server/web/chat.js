// The chat page: conversations on the left, one in the middle, the question below. Puts the other modules together.

import { hear } from "./answer.js";
import { Conversations } from "./conversations.js";
import { asCurl } from "./curl.js";
import { copy, drawIcons, el, iconButton, tell } from "./dom.js";
import { mayAskAgain } from "./key.js";
import { AnswerView, questionView } from "./message.js";
import { Models } from "./models.js";
import { Sampling } from "./sampling.js";
import { explain } from "./waiting.js";

const $ = (id) => document.getElementById(id);
const CHAT = "/v1/chat/completions";

drawIcons();
const conversations = new Conversations();
const models = new Models($("model"), $("state"));
const sampling = new Sampling($("settings"));
let current = conversations.begin();
let running = null; // the AbortController of the answer under way

// --- One conversation ---

/** What the next answer is asked with, besides the messages. */
function asked() {
  return { model: models.chosen, system: sampling.system, fields: sampling.fields };
}

function requestFor(messages, { model, system, fields }) {
  const turns = messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  return { model, messages: [...(system ? [{ role: "system", content: system }] : []), ...turns], ...fields };
}

async function ask(text) {
  if (running || !text.trim()) return;
  current.messages.push({ role: "user", content: text });
  await answer();
}

/** Drop the messages from a place on, and go on from there. */
async function again(index, text) {
  if (running) return;
  current.messages.length = index;
  if (text !== undefined) current.messages.push({ role: "user", content: text });
  await answer();
}

async function answer() {
  mayAskAgain();
  const conversation = current;
  const message = { role: "assistant", content: "", asked: asked() };
  const body = requestFor(conversation.messages, message.asked);
  conversation.messages.push(message);
  save(conversation);
  drawConversation();
  const view = $("messages").lastElementChild.view;
  const controller = new AbortController();
  setRunning(controller);
  scrollDown(true);
  const draw = () => {
    view.draw(running === controller);
    if (conversation !== current) return;
    drawContext(message.usage);
    scrollDown(false);
  };
  const isOver = () => running !== controller || message.content !== "" || Boolean(message.reasoning);
  explain(body.model, (words) => view.explain(words), isOver, () => message.prefill);
  try {
    await hear(message, body, controller.signal, onceAFrame(draw));
  } catch (error) {
    message.error = error.name === "TypeError" ? "The server cannot be reached." : error.message;
  }
  setRunning(null);
  draw();
  save(conversation);
  speak(message);
  models.refresh();
}

function save(conversation) {
  if (!conversations.keep(conversation)) tell("This browser has no room to keep the conversation");
  drawList();
}

function speak({ error, ending }) {
  $("spoken").textContent = error ? "" : ending === "stopped" ? "Stopped" : "The answer is complete";
}

function stop() {
  running?.abort();
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  // Read out when it is whole: a live region that grows by the token is noise.
  $("messages").setAttribute("aria-busy", String(controller !== null));
  if (controller) $("spoken").textContent = "The model is answering";
}

function open(conversation) {
  stop();
  current = conversation;
  drawConversation();
  drawList();
  showSidebar(false);
  scrollDown(true);
}

// --- What is seen ---

function drawConversation() {
  const { messages } = current;
  $("empty").hidden = messages.length > 0;
  $("messages").replaceChildren(...messages.map((message, index) => messageView(message, index)));
  drawContext(messages.findLast((message) => message.usage)?.usage);
}

function messageView(message, index) {
  if (message.role === "user") return questionView(message, { onEdit: (text) => again(index, text) });
  const view = new AnswerView(message, {
    onAgain: () => again(index),
    onCurl: () => copy(asCurl(CHAT, requestFor(current.messages.slice(0, index), message.asked ?? asked())), "Command"),
  });
  view.draw(false);
  view.root.view = view;
  return view.root;
}

function drawList() {
  $("conversations").replaceChildren(...conversations.all.map((each) => {
    const button = el("button", { type: "button", className: "conversation", title: each.title, on: { click: () => open(each) } }, each.title);
    if (each.id === current.id) button.setAttribute("aria-current", "true");
    const remove = iconButton("trash", `Delete: ${each.title}`, () => {
      conversations.remove(each.id);
      if (each.id === current.id) open(conversations.begin());
      else drawList();
    });
    return el("li", {}, button, remove);
  }));
}

function drawContext(usage) {
  const limit = models.contextLength;
  const used = usage ? usage.prompt_tokens + usage.completion_tokens : 0;
  $("context").value = limit ? Math.min(1, used / limit) : 0;
  $("context-text").textContent = limit ? `${used.toLocaleString()} of ${limit.toLocaleString()} tokens` : `${used.toLocaleString()} tokens`;
}

/** To the end, if asked to or if the end is in sight. */
function scrollDown(always) {
  const place = $("scroll");
  if (always || place.scrollHeight - place.scrollTop - place.clientHeight < 120) place.scrollTop = place.scrollHeight;
}

/** Not more often than there are frames, and at most half of the time: long answers take long to draw. */
function onceAFrame(work) {
  let planned = false;
  let pauseMs = 0;
  const frame = () => {
    planned = false;
    const begun = performance.now();
    work();
    pauseMs = performance.now() - begun;
  };
  return () => {
    if (planned) return;
    planned = true;
    // A page that is not seen gets no frames, but its answer is kept all the same.
    setTimeout(() => requestAnimationFrame(frame), pauseMs);
  };
}

function showSidebar(shown) {
  document.body.classList.toggle("sidebar-shown", shown);
  $("veil").hidden = !shown;
  $("menu").setAttribute("aria-expanded", String(shown));
}

// --- What is done ---

const question = $("question");

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running || !question.value.trim()) return;
  const text = question.value;
  question.value = "";
  fit();
  ask(text);
});

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

question.addEventListener("input", fit);

/** As high as its text, up to a limit of the style sheet. */
function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    stop();
    showSidebar(false);
  } else if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    question.focus();
  }
});

addEventListener("pagehide", () => {
  if (!running) return;
  current.messages.at(-1).ending = "stopped"; // unless the page comes back, and the answer with it
  conversations.keep(current);
});

$("stop").addEventListener("click", () => {
  stop();
  question.focus();
});
$("new").addEventListener("click", () => {
  open(conversations.begin());
  question.focus();
});
$("menu").addEventListener("click", () => showSidebar(!document.body.classList.contains("sidebar-shown")));
$("veil").addEventListener("click", () => showSidebar(false));
$("open-settings").addEventListener("click", () => $("settings").showModal());

drawList();
drawConversation();
question.focus();
models.follow(() => drawContext(current.messages.findLast((message) => message.usage)?.usage));
