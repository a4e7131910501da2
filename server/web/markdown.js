// Markdown as elements: which lines belong together. Built node by node, so that no text can become markup.

import { el } from "./dom.js";
import { inline } from "./inline.js";
import { codeBlock } from "./code.js";

// None of these can look at a line more than once from a place, whatever it holds.
const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const MAX_DEPTH = 8; // of quotes and lists in one another
const MAX_COLUMNS = 64;

/** Shows a text that grows. Only blocks that differ from the last time are made again. */
export class MarkdownView {
  #root;
  #shown = [];

  constructor(root) {
    this.#root = root;
  }

  update(text) {
    const blocks = split(lines(text));
    let same = 0;
    while (same < blocks.length && same < this.#shown.length && equal(blocks[same], this.#shown[same])) same++;
    while (this.#root.childNodes.length > same) this.#root.lastChild.remove();
    for (const block of blocks.slice(same)) this.#root.append(build(block, 0));
    this.#shown = blocks;
  }
}

function equal(block, other) {
  return block.kind === other.kind && block.closed === other.closed && block.source === other.source;
}

function lines(text) {
  return text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n");
}

/** The blocks of some lines, in order: {kind, lines, source}. */
function split(all) {
  const blocks = [];
  let at = 0;
  while (at < all.length) {
    if (isBlank(all[at])) {
      at++;
      continue;
    }
    const start = at;
    const [kind, end, more] = block(all, at);
    const own = all.slice(start, end);
    blocks.push({ kind, lines: own, source: own.join("\n"), ...more });
    at = end;
  }
  return blocks;
}

/** Which block begins at a line, the line after its last, and what else its building needs. */
function block(all, at) {
  const line = all[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(all, at, fence);
  if (HEADING.test(line)) return ["heading", at + 1];
  if (RULE.test(line)) return ["rule", at + 1];
  if (QUOTE.test(line)) return ["quote", take(all, at + 1, (next) => !isBlank(next) && (QUOTE.test(next) || !interrupts(next)))];
  if (ITEM.test(line)) return ["list", listEnd(all, at)];
  if (isTable(all, at)) return ["table", take(all, at + 2, (next) => next.includes("|") && !isBlank(next))];
  if (/^ {4}/.test(line)) return ["indented", take(all, at + 1, (next) => /^ {4}/.test(next))];
  const isMore = (next, index) => !isBlank(next) && !interrupts(next) && !isTable(all, index);
  return ["paragraph", take(all, at + 1, isMore)];
}

function take(all, at, belongs) {
  while (at < all.length && belongs(all[at], at)) at++;
  return at;
}

function fenced(all, at, [, mark, words]) {
  const [language] = words.trim().split(" ", 1);
  const isEnd = (line) => line.trim().length >= mark.length && line.trim().split("").every((each) => each === mark[0]);
  const end = take(all, at + 1, (line) => !isEnd(line));
  return ["code", Math.min(end + 1, all.length), { language, closed: end < all.length }];
}

function interrupts(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

function isBlank(line) {
  return line.trim() === "";
}

function isTable(all, at) {
  if (!all[at].includes("|") || !all[at + 1]?.includes("-")) return false;
  const delimiters = cells(all[at + 1]);
  return delimiters.every((cell) => /^:?-+:?$/.test(cell)) && delimiters.length === cells(all[at]).length;
}

/** A list goes on over blank lines as long as an item or an indented line follows. */
function listEnd(all, at) {
  const ordered = /\d/.test(ITEM.exec(all[at])[2]);
  let end = at + 1;
  while (end < all.length) {
    const line = all[end];
    if (isBlank(line)) {
      const next = take(all, end, isBlank);
      if (next === all.length || !(/^ {2}/.test(all[next]) || isItem(all[next], ordered))) break;
      end = next;
    } else if (/^ {2}/.test(line) || isItem(line, ordered) || !(interrupts(line) || isBlank(all[end - 1]))) end++;
    else break;
  }
  return end;
}

function isItem(line, ordered) {
  const found = ITEM.exec(line);
  return found !== null && !RULE.test(line) && /\d/.test(found[2]) === ordered;
}

function build(block, depth) {
  if (depth >= MAX_DEPTH) return el("p", {}, block.source);
  return BUILDERS[block.kind](block, depth);
}

function inner(all, depth) {
  return split(all).map((block) => build(block, depth + 1));
}

const BUILDERS = {
  code: ({ lines, language, closed }) => codeBlock(lines.slice(1, closed ? -1 : undefined).join("\n"), language),
  indented: ({ lines }) => codeBlock(lines.map((line) => line.slice(4)).join("\n"), ""),
  rule: () => el("hr"),
  heading: ({ source }) => {
    const [, marks, text] = HEADING.exec(source);
    // One lower than written: the page has its own first heading.
    return el(`h${Math.min(marks.length + 1, 6)}`, {}, inline((text ?? "").replace(/\s#+\s*$/, "")));
  },
  quote: ({ lines }, depth) => el("blockquote", {}, inner(lines.map((line) => line.replace(QUOTE, "")), depth)),
  paragraph: ({ lines }) => el("p", {}, inline(lines.map((line) => line.replace(/^ +/, "")).join("\n"))),
  list: buildList,
  table: buildTable,
};

function buildList({ lines }, depth) {
  const first = ITEM.exec(lines[0]);
  const base = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= base + 1 && !RULE.test(line)) items.push([line.slice(found[0].length)]);
    else items.at(-1).push(line);
  }
  const list = el(ordered ? "ol" : "ul", {}, items.map((item) => el("li", {}, itemNodes(item, depth))));
  const start = parseInt(first[2], 10);
  if (ordered && start !== 1) list.start = start;
  return list;
}

function itemNodes([head, ...rest], depth) {
  const indents = rest.map((line) => line.search(/\S/)).filter((each) => each >= 2);
  const indent = indents.reduce((least, each) => Math.min(least, each), 6);
  const all = [head, ...rest.map((line) => (line.search(/\S/) >= indent ? line.slice(indent) : line.trimStart()))];
  const nodes = inner(all, depth);
  // An item of one paragraph is just its text: that is how tight lists look.
  return nodes.flatMap((node, index) => (node.tagName === "P" && (index === 0 || nodes.length === 1) ? [...node.childNodes] : [node]));
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1").split(/(?<!\\)\|/).slice(0, MAX_COLUMNS).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function buildTable({ lines: [head, delimiters, ...rows] }) {
  const sides = cells(delimiters).map((cell) => `${cell.startsWith(":") ? "l" : ""}${cell.endsWith(":") ? "r" : ""}`);
  const classes = { lr: "centre", r: "right" };
  const row = (line, tag) => {
    const texts = cells(line);
    return el("tr", {}, sides.map((side, index) => el(tag, { className: classes[side] ?? "" }, inline(texts[index] ?? ""))));
  };
  const table = el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, rows.map((line) => row(line, "td"))));
  return el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, table);
}
