// The status page: looks once a second and draws what it sees.

import { request } from "./api.js";
import { el, tell } from "./dom.js";
import { mayAskAgain } from "./key.js";
import { Source } from "./source.js";
import { Timeline } from "./timeline.js";

const PAUSE_MS = 1000;
const SHORT_SECONDS = 0.8;
const $ = (id) => document.getElementById(id);

const WORDS = {
  ready: "ready", unloaded: "loads when asked", loading: "loading", waiting: "waits for memory",
  draining: "finishing", stuck: "does not answer", failed: "failed",
};
const COLOURS = { ready: "ready", loading: "loading", waiting: "loading", draining: "loading", stuck: "away", failed: "away" };

// What a person may do with a model in a state.
const MOVES = { unloaded: "load", failed: "load", ready: "unload" };

const whole = (value) => Math.round(value).toLocaleString();
const charts = {
  rate: new Timeline($("rate"), { name: "Tokens per second", series: ["written"], format: whole }),
  requests: new Timeline($("requests"), { name: "Requests", series: ["running", "waiting"], format: whole }),
  hits: new Timeline($("hits"), { name: "Prompt tokens found in the cache", series: ["found"], format: (value) => `${whole(value)} %` }),
  memory: new Timeline($("memory"), { name: "Memory", series: ["in use"], format: bytes }),
};

function draw(status) {
  const { samples } = status.history;
  const last = samples.at(-1);
  const times = samples.map(({ at }) => at);
  const column = (name) => samples.map((sample) => sample[name]);
  const [written, read] = [rates(samples, "generated_tokens"), rates(samples, "prompt_tokens")];
  // Prompts are counted when they are whole: drawn as a line they would be spikes that hide everything else.
  charts.rate.draw(times, [written], { now: whole(written.at(-1) ?? 0), unit: `written, ${whole(read.at(-1) ?? 0)} read`, top: 10 });
  charts.requests.draw(times, [column("running"), column("queued")], { now: whole(last.running), unit: last.queued ? `running, ${whole(last.queued)} waiting` : "running", top: 2 });
  const share = sumOfShares(status.models);
  charts.hits.draw(times, [shares(samples)], { now: share === null ? "–" : `${whole(share)} %`, unit: share === null ? "nothing asked yet" : "since loading", top: 100 });
  const budget = status.memory?.budget_bytes ?? 0;
  charts.memory.draw(times, [column("resident_bytes")], { now: bytes(last.resident_bytes), unit: budget ? `of ${bytes(budget)} for models` : "keys and values", top: 0 });
  show($("models"), status.models.map((model) => modelCard(model, status.memory !== null)));
  $("pulls-section").hidden = status.pulls.length === 0;
  show($("pulls"), status.pulls.map(pullCard));
  $("about").textContent = about(status);
  say(status.state === "ok" ? "ready" : "loading", status.state === "ok" ? "Answering" : "Shutting down");
}

/** Put cards into a place, and leave alone what is as it was: a selection or a focus in them holds. */
function show(place, cards) {
  while (place.children.length > cards.length) place.lastElementChild.remove();
  cards.forEach((card, index) => (place.children[index] ? update(place.children[index], card) : place.append(card)));
}

function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const isAlike = old.childNodes.length === fresh.childNodes.length && old.cloneNode(false).isEqualNode(fresh.cloneNode(false));
  if (isAlike && old.childNodes.length) [...fresh.childNodes].forEach((child, index) => update(old.childNodes[index], child));
  else old.replaceWith(fresh);
}

/** Per second between each sample and the one before; null for the first, and where a count began anew. */
function rates(samples, name) {
  return samples.map((sample, at) => {
    // The last one may have been taken right after the one before: too short a time to tell a rate of.
    const before = sample.at - samples[at - 1]?.at < SHORT_SECONDS && at > 1 ? samples[at - 2] : samples[at - 1];
    const more = before ? sample[name] - before[name] : -1;
    return more < 0 || sample.at <= before.at ? null : more / (sample.at - before.at);
  });
}

/** Percent of looked-up tokens that were found between samples; where nobody asked, as before. */
function shares(samples) {
  let share = null;
  return samples.map((sample, at) => {
    const asked = at ? sample.queried_tokens - samples[at - 1].queried_tokens : 0;
    if (asked > 0) share = Math.min(100, Math.max(0, (100 * (sample.cached_tokens - samples[at - 1].cached_tokens)) / asked));
    return share;
  });
}

function sumOfShares(models) {
  const sum = (name) => models.reduce((total, { prefix }) => total + prefix[name], 0);
  return sum("queried_tokens") ? (100 * sum("cached_tokens")) / sum("queried_tokens") : null;
}

function modelCard(model, canMove) {
  const { memory, requests } = model;
  const facts = [
    requests.running && ["running", requests.running],
    requests.queued + requests.waiting && ["waiting", requests.queued + requests.waiting],
    model.context_length && ["context", model.context_length.toLocaleString()],
    memory.resident_bytes ? ["memory", bytes(memory.resident_bytes)] : model.size_bytes && ["files", bytes(model.size_bytes)],
    memory.kv_bytes && ["keys and values", memory.kv_limit_bytes ? `${bytes(memory.kv_bytes)} of ${bytes(memory.kv_limit_bytes)}` : bytes(memory.kv_bytes)],
    memory.prefix_bytes && ["kept prefixes", bytes(memory.prefix_bytes)],
    model.idle_seconds > 1 && ["idle", duration(model.idle_seconds)],
    model.unload_in_seconds && ["unloads in", duration(model.unload_in_seconds)],
  ].filter(Boolean);
  const notes = [model.default && "default", model.pinned && "stays loaded", model.kind, ...(model.aliases ?? []).filter((alias) => alias !== model.id)].filter(Boolean);
  return el("article", { className: "card model" },
    el("div", {}, el("h3", {}, model.id), notes.length ? el("p", {}, notes.join(" · ")) : null),
    el("dl", { className: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))))),
    el("div", { className: "now" },
      el("span", { className: `state ${COLOURS[model.state] ?? ""}` }, WORDS[model.state] ?? model.state),
      canMove && model.state in MOVES ? moveButton(model.id, MOVES[model.state]) : null),
    model.reason ? el("p", { className: "reason" }, model.reason) : null,
    model.state === "loading" ? progress(model, `Loading ${model.id}`) : null);
}

function moveButton(id, move) {
  const words = `${move[0].toUpperCase()}${move.slice(1)}`;
  const button = el("button", { type: "button", "aria-label": `${words} ${id}` }, words);
  button.addEventListener("click", async () => {
    button.disabled = true;
    mayAskAgain();
    try {
      await request(`/v1/models/${id.split("/").map(encodeURIComponent).join("/")}/${move}`, { body: {} });
    } catch (error) {
      tell(error.status ? error.message : "The server does not answer");
    }
    button.disabled = false;
  });
  return button;
}

function pullCard(pull) {
  const size = pull.total_bytes ? `${bytes(pull.done_bytes)} of ${bytes(pull.total_bytes)}` : bytes(pull.done_bytes);
  return el("article", { className: "card model" },
    el("h3", {}, pull.id),
    el("span", { className: "facts" }, size),
    el("span", { className: `state ${pull.state === "running" ? "loading" : ""}` }, pull.state === "running" ? "downloading" : "interrupted"),
    progress(pull, `Downloading ${pull.id}`));
}

function progress({ done_bytes, total_bytes }, label) {
  const bar = el("progress", { max: 1, "aria-label": label });
  if (total_bytes) bar.value = done_bytes / total_bytes;
  return bar;
}

function about({ version, started, now, memory }) {
  const words = [];
  if (version) words.push(`Bramley ${version}`);
  if (started) words.push(`up for ${duration(now - started)}`);
  if (memory) words.push(`${bytes(memory.reserved_bytes)} of ${bytes(memory.budget_bytes)} set aside for models`, `the machine has ${bytes(memory.available_bytes)} of ${bytes(memory.system_bytes)} free`);
  return words.join(" · ");
}

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (value >= 1000 && power < units.length - 1) {
    value /= 1000;
    power++;
  }
  return `${value >= 100 || power === 0 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function say(kind, words) {
  $("state").className = `state ${kind}`;
  if ($("state").textContent !== words) $("state").textContent = words;
}

const source = new Source();
for (;;) {
  if (!document.hidden) {
    try {
      draw(await source.read());
    } catch (error) {
      say("away", error.status ? error.message : "The server does not answer");
    }
  }
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}
