// How answers are drawn: the fields of the settings dialog, as fields of a request. Empty means the server's default.

import { el } from "./dom.js";

const NAME = "bramley.sampling";
const FIELDS = [
  ["temperature", "Temperature", "0 is always the likeliest word", { min: 0, max: 2, step: 0.05 }],
  ["top_p", "Top p", "Share of the likeliest", { min: 0, max: 1, step: 0.01 }],
  ["top_k", "Top k", "Number of the likeliest", { min: 0, max: 1000, step: 1 }],
  ["min_p", "Min p", "Least share of the likeliest", { min: 0, max: 1, step: 0.01 }],
  ["max_tokens", "Longest answer", "In tokens", { min: 1, max: 1_000_000, step: 1 }],
  ["seed", "Seed", "The same gives the same", { min: 0, max: 2 ** 53 - 1, step: 1 }],
  ["repetition_penalty", "Repetition penalty", "1 is none", { min: 0.01, max: 10, step: 0.01 }],
  ["presence_penalty", "Presence penalty", "0 is none", { min: -2, max: 2, step: 0.1 }],
  ["frequency_penalty", "Frequency penalty", "0 is none", { min: -2, max: 2, step: 0.1 }],
];

export class Sampling {
  #values = read();
  #form;

  /** dialog: where the fields go, into its element of the class `fields` */
  constructor(dialog) {
    this.#form = dialog.querySelector("form");
    dialog.querySelector(".fields").append(...FIELDS.map(([name, label, hint, range]) => this.#field(name, label, hint, range)));
    const system = this.#form.elements.system;
    system.value = this.#values.system ?? "";
    system.addEventListener("input", () => this.#set("system", system.value.trim() || undefined));
    this.#form.querySelector("[data-clear]").addEventListener("click", () => this.#clear());
  }

  /** The instruction before every conversation, or "". */
  get system() {
    return this.#values.system ?? "";
  }

  /** The fields of a request that the person has set. */
  get fields() {
    return Object.fromEntries(FIELDS.flatMap(([name]) => (name in this.#values ? [[name, this.#values[name]]] : [])));
  }

  #field(name, label, hint, range) {
    const input = el("input", { type: "number", name, id: `sampling-${name}`, placeholder: "default", ...range, "aria-describedby": `hint-${name}` });
    input.value = this.#values[name] ?? "";
    input.addEventListener("input", () => {
      if (input.validity.valid) this.#set(name, input.value === "" ? undefined : Number(input.value));
    });
    const words = el("span", {}, el("label", { htmlFor: input.id }, label), el("small", { id: `hint-${name}` }, hint));
    return el("div", { className: "field" }, words, input);
  }

  #set(name, value) {
    if (value === undefined) delete this.#values[name];
    else this.#values[name] = value;
    localStorage.setItem(NAME, JSON.stringify(this.#values));
  }

  #clear() {
    this.#values = {};
    localStorage.removeItem(NAME);
    this.#form.reset();
    for (const input of this.#form.querySelectorAll("input, textarea")) input.value = "";
  }
}

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(NAME) ?? "{}");
    const known = FIELDS.map(([name]) => name);
    const isGood = ([name, value]) => (known.includes(name) && typeof value === "number") || (name === "system" && typeof value === "string");
    return Object.fromEntries(Object.entries(found ?? {}).filter(isGood));
  } catch {
    return {};
  }
}
