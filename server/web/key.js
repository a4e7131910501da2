// The API key: asked for once, kept until the window closes, or longer if the person says so.

import { el } from "./dom.js";

const NAME = "bramley.key";

export function storedKey() {
  return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
}

function store(key, remember) {
  for (const place of [sessionStorage, localStorage]) place.removeItem(NAME);
  (remember ? localStorage : sessionStorage).setItem(NAME, key);
}

let asking = null;
let isDeclined = false;

/** A person who declined is asked again only after doing something that needs the key. */
export function mayAskAgain() {
  isDeclined = false;
}

/** Whether the person gave a key. Several that ask at the same time share one question. */
export function askForKey(wasWrong) {
  if (isDeclined) return Promise.resolve(false);
  asking ??= ask(wasWrong).then((given) => {
    asking = null;
    isDeclined = !given;
    return given;
  });
  return asking;
}

function ask(wasWrong) {
  const input = el("input", { type: "password", id: "key-input", required: true, autocomplete: "off", spellcheck: false });
  const remember = el("input", { type: "checkbox", id: "key-remember" });
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "key-title" }, "This server asks for a key"),
    el("p", {}, wasWrong ? "The key was not accepted." : "One of the API keys that the server was started with."),
    el("label", { htmlFor: "key-input" }, "API key"),
    input,
    el("label", { className: "check" }, remember, "Remember it in this browser"),
    el("div", { className: "actions" },
      el("button", { type: "button", on: { click: () => dialog.close("") } }, "Cancel"),
      el("button", { type: "submit", className: "primary", value: "given" }, "Use key")),
  );
  const dialog = el("dialog", { "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "given" && input.value.trim() !== "";
      if (given) store(input.value.trim(), remember.checked);
      dialog.remove();
      resolve(given);
    });
  });
}
