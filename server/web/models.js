// The model picker and the line beside it that says how the server is. Knows what /v1/models and /health say.

import { json } from "./api.js";
import { el } from "./dom.js";

const NAME = "bramley.model";
const PATIENT_MS = 5000;
const LOADING_MS = 1000;

export class Models {
  #select;
  #state;
  #all = [];

  constructor(select, state) {
    this.#select = select;
    this.#state = state;
    select.addEventListener("change", () => localStorage.setItem(NAME, select.value));
  }

  get chosen() {
    return this.#select.value;
  }

  /** In tokens; null while it is not known. */
  get contextLength() {
    return this.#all.find((model) => model.id === this.chosen)?.context_length ?? null;
  }

  /** Look again and again, for as long as the page is open; `onChange` after each look. */
  async follow(onChange) {
    for (;;) {
      const pause = document.hidden ? PATIENT_MS : await this.refresh();
      onChange();
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Look once. Returns the milliseconds after which it is worth looking again. */
  async refresh() {
    try {
      const health = await fetch("/health", { cache: "no-store" }).then((response) => response.json());
      this.#tell(health);
      this.#draw((await json("/v1/models")).data);
      return health.status === "loading" ? LOADING_MS : PATIENT_MS;
    } catch (error) {
      this.#say("away", error.status === 401 ? "A key is needed" : "The server does not answer");
      return PATIENT_MS;
    }
  }

  #tell(health) {
    if (health.status === "ok") this.#say("ready", "Ready");
    else if (health.status === "loading") {
      const share = health.total_bytes ? ` ${Math.floor((100 * health.done_bytes) / health.total_bytes)} %` : "";
      this.#say("loading", `Loading${share}`);
    } else this.#say("away", health.error?.message ?? health.status);
  }

  #say(kind, words) {
    this.#state.className = `state ${kind}`;
    if (this.#state.textContent !== words) this.#state.textContent = words;
  }

  #draw(models) {
    const before = JSON.stringify(this.#all);
    this.#all = models;
    if (JSON.stringify(models) === before) return;
    const wanted = this.#select.value || localStorage.getItem(NAME);
    this.#select.replaceChildren(...models.map(option));
    if (models.some(({ id }) => id === wanted)) this.#select.value = wanted;
  }
}

/** A model with its state; one that is known not to chat cannot be picked. */
function option({ id, context_length, capabilities }) {
  const cannot = capabilities?.chat === false;
  const state = cannot ? "does not chat" : context_length ? "loaded" : "loads when asked";
  return el("option", { value: id, disabled: cannot }, `${id} · ${state}`);
}
