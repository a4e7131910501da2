// A block of code with its language and a button that copies it. Colours follow from the shape of words alone.

import { copy, el, iconButton } from "./dom.js";

const MAX_COLOURED_CHARACTERS = 20_000;
const WORDS = new Set(
  ("and as async await break case catch class const continue def default del do elif else enum except export extends"
    + " extern false finally fn for from func function if impl import in interface is lambda let loop match mod mut new nil"
    + " none None not null or pass private pub public raise return self static struct super switch this throw trait true"
    + " True False try type typeof undefined use var void while with yield SELECT FROM WHERE JOIN ON GROUP ORDER BY INSERT"
    + " INTO VALUES UPDATE SET DELETE CREATE TABLE AND OR NOT NULL then fi done esac echo").split(" "),
);
// Comment, string, number, word: in this order, and all bounded by the end of a line but long comments.
const PART = /(\/\*[\s\S]*?(?:\*\/|$)|\/\/[^\n]*|(?<=^|\s)#[^\n]*|(?<=^|\s)--[^\n]*)|("(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`[^`\n]*`?)|(\b\d[\w.]*)|([A-Za-z_$][\w$]*)/gm;
const UNCOLOURED = new Set(["text", "txt", "plain", "plaintext", "markdown", "md", "console", "output"]);

export function codeBlock(text, language) {
  const button = iconButton("copy", "Copy code", () => copy(text, "Code"));
  const name = language.slice(0, 30);
  const head = el("div", { className: "code-head" }, el("span", {}, name || "code"), button);
  const body = el("pre", { tabIndex: 0, role: "region", "aria-label": name ? `Code, ${name}` : "Code" }, el("code", {}, coloured(text, name)));
  return el("div", { className: "code-block" }, head, body);
}

function coloured(text, language) {
  if (!language || UNCOLOURED.has(language.toLowerCase()) || text.length > MAX_COLOURED_CHARACTERS) return [text];
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(PART)) {
    const kind = found[1] ? "comment" : found[2] ? "string" : found[3] ? "number" : WORDS.has(found[4]) ? "word" : null;
    if (!kind) continue;
    nodes.push(text.slice(at, found.index), el("span", { className: `code-${kind}` }, found[0]));
    at = found.index + found[0].length;
  }
  nodes.push(text.slice(at));
  return nodes;
}
