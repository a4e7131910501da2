// A block of code with its language and a button that copies it. highlight.js colours it, and its result becomes nodes.

import { copy, el, iconButton } from "./dom.js";
import hljs from "./vendor/highlightjs-cdn-assets/highlight.min.js";
import dart from "./vendor/highlightjs-cdn-assets/languages/dart.min.js";
import dockerfile from "./vendor/highlightjs-cdn-assets/languages/dockerfile.min.js";
import haskell from "./vendor/highlightjs-cdn-assets/languages/haskell.min.js";
import julia from "./vendor/highlightjs-cdn-assets/languages/julia.min.js";
import latex from "./vendor/highlightjs-cdn-assets/languages/latex.min.js";
import nginx from "./vendor/highlightjs-cdn-assets/languages/nginx.min.js";
import powershell from "./vendor/highlightjs-cdn-assets/languages/powershell.min.js";
import scala from "./vendor/highlightjs-cdn-assets/languages/scala.min.js";

const MAX_COLOURED_CHARACTERS = 20_000;

for (const [name, grammar] of Object.entries({ dart, dockerfile, haskell, julia, latex, nginx, powershell, scala })) hljs.registerLanguage(name, grammar);

export function codeBlock(text, language) {
  const button = iconButton("copy", "Copy code", () => copy(text, "Code"));
  const name = language.slice(0, 30);
  const head = el("div", { className: "code-head" }, el("span", {}, name || "code"), button);
  const body = el("pre", { tabIndex: 0, role: "region", "aria-label": name ? `Code, ${name}` : "Code" }, el("code", {}, coloured(text, name)));
  return el("div", { className: "code-block" }, head, body);
}

function coloured(text, language) {
  if (!hljs.getLanguage(language) || text.length > MAX_COLOURED_CHARACTERS) return [text];
  // The tree that its string of markup is made from: the page parses no markup.
  return hljs.highlight(text, { language, ignoreIllegals: true })._emitter.rootNode.children.map(scoped);
}

/** title.function becomes the classes hljs-title and function_, as in highlight.js' own style sheets. */
function scoped(part) {
  if (typeof part === "string") return part;
  const [first, ...rest] = (part.scope ?? "").split(".");
  const className = part.scope && !part.scope.startsWith("language:") ? [`hljs-${first}`, ...rest.map((each) => `${each}_`)].join(" ") : "";
  return el("span", { className }, part.children.map(scoped));
}
