// How a message looks, and the buttons under it. Knows elements; asks no server.

import { summary } from "./answer.js";
import { copy, el, iconButton } from "./dom.js";
import { MarkdownView } from "./markdown.js";

/** What a person wrote: shown as it is. onEdit gets the new text. */
export function questionView(message, { onEdit }) {
  const text = el("div", { className: "text" }, message.content);
  const tools = el("div", { className: "tools" },
    iconButton("copy", "Copy question", () => copy(message.content, "Question")),
    iconButton("edit", "Edit and ask again", () => edit(root, text, message, onEdit)));
  const root = el("article", { className: "message question", "aria-label": "You" }, text, tools);
  return root;
}

function edit(root, text, message, onEdit) {
  const area = el("textarea", { value: message.content, "aria-label": "Edit the question", rows: Math.min(12, message.content.split("\n").length + 1) });
  const close = () => form.replaceWith(text);
  const form = el("form", { className: "editing" }, area,
    el("div", { className: "actions" },
      el("button", { type: "button", on: { click: close } }, "Cancel"),
      el("button", { type: "submit", className: "primary" }, "Ask again")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) onEdit(area.value);
  });
  form.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  text.replaceWith(form);
  area.focus();
}

/** What the model writes, and what it thought before. `draw` shows its present state. */
export class AnswerView {
  #message;
  #markdown;
  #thoughts = el("div", { className: "thoughts" });
  #thinking = el("details", { className: "thinking", hidden: true }, el("summary", {}, "Thoughts"), this.#thoughts);
  #body = el("div", { className: "text markdown" });
  #reason = el("span", {});
  #waiting = el("p", { className: "waiting", "aria-label": "Waiting for the first word" }, el("i"), el("i"), el("i"), this.#reason);
  #error = el("p", { className: "error", role: "alert", hidden: true });
  #figures = el("span", { className: "figures" });
  #tools;

  constructor(message, { onAgain, onCurl }) {
    this.#message = message;
    this.#markdown = new MarkdownView(this.#body);
    this.#tools = el("div", { className: "tools" },
      iconButton("copy", "Copy answer", () => copy(message.content, "Answer")),
      iconButton("redo", "Answer again", onAgain),
      iconButton("terminal", "Copy as curl", onCurl));
    const name = el("p", { className: "name" }, message.asked?.model ?? "");
    this.root = el("article", { className: "message answer", "aria-label": `Answer of ${message.asked?.model ?? "the model"}` },
      name, this.#thinking, this.#body, this.#waiting, this.#error, el("footer", {}, this.#tools, this.#figures));
  }

  /** Why there is nothing to see yet. */
  explain(words) {
    this.#reason.textContent = words;
  }

  draw(isRunning) {
    const { content, reasoning, error } = this.#message;
    this.#markdown.update(content);
    this.#thinking.hidden = !reasoning;
    if (reasoning) this.#thoughts.textContent = reasoning;
    this.#waiting.hidden = !isRunning || Boolean(content || reasoning);
    this.#error.hidden = !error;
    if (this.#error.textContent !== (error ?? "")) this.#error.textContent = error ?? "";
    this.#figures.textContent = summary(this.#message);
    this.#tools.hidden = isRunning;
    this.root.classList.toggle("running", isRunning);
  }
}
