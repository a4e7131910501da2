// Emphasis, code and links within a line of Markdown, as nodes. Every character is looked at a bounded number of times.

import { el } from "./dom.js";

const LINK = /!?\[([^[\]\n]{0,500})\]\(\s{0,9}<?([^()<>\s]{1,2000}(?:\([^()<>\s]{0,500}\))?)>?(?:\s{1,9}"[^"\n]{0,500}")?\s{0,9}\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`\\]{1,2000}/iy;
const BREAK = /(?: {2,}|\\)?\n/y;
const TICKS = /`+/y;
const ESCAPED = /\\([!-/:-@[-`{-~])/y;
const PLAIN = /[^\\`*_~[!h\n ]+| +(?! *\n)|./sy;
const MARKS = ["***", "**", "*", "__", "_", "~~"];
const MAX_DEPTH = 6;

/** The nodes of a text. */
export function inline(text, depth = 0) {
  const nodes = [];
  const absent = new Set(); // marks that do not occur again: not worth another look
  let plain = "";
  let at = 0;
  const push = (node) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
  };
  while (at < text.length) {
    const found = special(text, at, depth, absent);
    if (found) {
      if (typeof found.node === "string") plain += found.node;
      else push(found.node);
      at = found.end;
    } else {
      PLAIN.lastIndex = at;
      const run = PLAIN.exec(text)[0];
      plain += run;
      at += run.length;
    }
  }
  if (plain) nodes.push(plain);
  return nodes;
}

/** What begins at a place, if it is more than a character: {node, end}. */
function special(text, at, depth, absent) {
  switch (text[at]) {
    case "\\":
    case " ":
    case "\n":
      return escaped(text, at) ?? lineBreak(text, at);
    case "`":
      return code(text, at, absent);
    case "!":
    case "[":
      return link(text, at, depth);
    case "h":
      return address(text, at);
    case "*":
    case "_":
    case "~":
      return emphasis(text, at, depth, absent);
    default:
      return null;
  }
}

function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function escaped(text, at) {
  const found = match(ESCAPED, text, at);
  return found && { node: found[1], end: at + 2 };
}

function lineBreak(text, at) {
  const found = match(BREAK, text, at);
  return found && { node: el("br"), end: at + found[0].length };
}

function code(text, at, absent) {
  const ticks = match(TICKS, text, at)[0];
  const literal = { node: ticks, end: at + ticks.length };
  if (absent.has(ticks)) return literal;
  for (let end = text.indexOf(ticks, literal.end); end !== -1;) {
    const run = match(TICKS, text, end)[0];
    if (run.length === ticks.length) {
      const inside = text.slice(literal.end, end).replace(/\n/g, " ");
      const content = /^ .*\S.* $/.test(inside) ? inside.slice(1, -1) : inside;
      return { node: el("code", {}, content), end: end + ticks.length };
    }
    end = text.indexOf(ticks, end + run.length);
  }
  absent.add(ticks);
  return literal;
}

/** A link, and an image as a link to it: showing it would ask another host. */
function link(text, at, depth) {
  const found = match(LINK, text, at);
  if (!found) return null;
  const [whole, label, target] = found;
  const node = depth < MAX_DEPTH ? anchor(target, inline(label || target, MAX_DEPTH)) : null;
  return { node: node ?? whole, end: at + whole.length };
}

function address(text, at) {
  if (at > 0 && /\w/.test(text[at - 1])) return null;
  const found = match(ADDRESS, text, at);
  const whole = found?.[0].replace(/[.,;:!?)\]*_]+$/, "");
  const node = whole && anchor(whole, [whole]);
  return node ? { node, end: at + whole.length } : null;
}

/** A link that opens elsewhere and tells nothing of this page; null for what is no address of the web or of mail. */
function anchor(target, children) {
  if (!/^(?:https?:\/\/|mailto:)/i.test(target) || !URL.canParse(target)) return null;
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, children);
}

function emphasis(text, at, depth, absent) {
  const mark = MARKS.find((each) => text.startsWith(each, at));
  if (!mark) return { node: text[at], end: at + 1 };
  const literal = { node: mark, end: at + mark.length };
  const opens = /\S/.test(text[literal.end] ?? " ") && !(mark[0] === "_" && /\w/.test(text[at - 1] ?? ""));
  const end = opens && depth < MAX_DEPTH && !absent.has(mark) ? closing(text, literal.end, mark) : -1;
  if (end === -1) {
    if (opens) absent.add(mark);
    return literal;
  }
  return { node: emphasised(mark, inline(text.slice(literal.end, end), depth + 1)), end: end + mark.length };
}

/** Where a mark ends what it began: behind a character that is no space, and not as a part of a longer mark. */
function closing(text, from, mark) {
  for (let end = text.indexOf(mark, from); end !== -1;) {
    let run = mark.length;
    while (text[end + run] === mark[0]) run++;
    const isWord = mark[0] === "_" && /\w/.test(text[end + run] ?? "");
    if (end > from && /\S/.test(text[end - 1]) && !isWord && (run === mark.length || run > 2)) return end + run - mark.length;
    end = text.indexOf(mark, end + run);
  }
  return -1;
}

function emphasised(mark, children) {
  if (mark === "***") return el("strong", {}, el("em", {}, children));
  if (mark === "~~") return el("s", {}, children);
  return el(mark.length === 2 ? "strong" : "em", {}, children);
}
