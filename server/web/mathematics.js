// Mathematics in Markdown: a rule for markdown-it that finds it, and KaTeX that sets it. Knows no other Markdown.

import "./vendor/katex/katex.min.js";

const { katex } = globalThis;
const CLOSINGS = { "$$": "$$", "\\[": "\\]", "\\(": "\\)", $: "$" };
const DISPLAYED = new Set(["$$", "\\["]);
const MAX_CHARACTERS = 4000;
const MAX_FORMULAS = 1000; // in one text: each costs a hundred nodes
const OPTIONS = {
  throwOnError: true, // what it shows of an error has a style of its own, which the page forbids
  trust: false, // no addresses, classes, ids or styles from the text
  maxSize: 40,
  maxExpand: 500,
  strict: (code) => (code === "unknownSymbol" || code === "symbolNotInFont" ? "error" : "ignore"),
};

/** A plugin: makes tokens of the types math_inline and math_block, whose meta is {source, formula, display, isWhole}. */
export function mathematics(parser) {
  parser.inline.ruler.before("escape", "math_inline", inlineRule);
  parser.block.ruler.before("fence", "math_block", blockRule, { alt: ["paragraph", "reference", "blockquote", "list"] });
}

/** Set a formula in the place of a node's text. The text stays where it is no mathematics. */
export function typeset(node, { formula, display }) {
  if (formula.length > MAX_CHARACTERS) return;
  try {
    const tree = katex.__renderToDomTree(formula, { ...OPTIONS, displayMode: display });
    dropStyleAttributes(tree);
    node.replaceChildren(tree.toNode());
    node.classList.remove("source");
  } catch {
    // The reader sees what was written.
  }
}

/** Styles that are set through the object model are allowed, and attributes are not. Only the tree for readers has them. */
function dropStyleAttributes(tree) {
  if (tree.attributes) delete tree.attributes.style;
  for (const child of tree.children ?? []) dropStyleAttributes(child);
}

// Which closing marks do not follow any more, by the state of the parser: each text is searched once for each of them.
const absent = new WeakMap();

function inlineRule(state, silent) {
  const { src, pos } = state;
  const opening = Object.keys(CLOSINGS).find((each) => src.startsWith(each, pos));
  if (!opening) return false;
  const end = closingAt(state, pos + opening.length, CLOSINGS[opening]);
  const formula = end === -1 ? "" : src.slice(pos + opening.length, end);
  if (!formula.trim() || (opening === "$" && !isNoPrice(src, pos, end))) return false;
  state.pos = end + opening.length;
  if (!silent) add(state, "math_inline", src.slice(pos, state.pos), formula, DISPLAYED.has(opening), true);
  return true;
}

function closingAt(state, from, closing) {
  if (!absent.has(state)) absent.set(state, new Set());
  if (absent.get(state).has(closing)) return -1;
  const { src, posMax } = state;
  for (let at = from; at < posMax; at += src[at] === "\\" ? 2 : 1) if (src.startsWith(closing, at)) return at;
  absent.get(state).add(closing);
  return -1;
}

/** One dollar also stands before an amount and in code: it is mathematics when it clings to what it encloses. */
function isNoPrice(src, start, end) {
  return !/[\w\\]/.test(src[start - 1] ?? "") && /[^\s]/.test(src[start + 1]) && /[^\s]/.test(src[end - 1])
    && !/\d/.test(src[end + 1] ?? "") && !src.slice(start, end).includes("`");
}

/** From a line that begins with a mark to the line that ends with the other, without an empty line between them.
 * At the end of a text, the closing mark may still be to come. */
function blockRule(state, first, end, silent) {
  const opening = state.src.slice(startOf(state, first), startOf(state, first) + 2);
  if (!DISPLAYED.has(opening) || state.sCount[first] - state.blkIndent >= 4) return false;
  const failed = (state.env.unclosedMath ??= {});
  if (first < (failed[opening] ?? 0)) return false;
  const lines = [];
  for (let line = first; line < end && !state.isEmpty(line) && state.sCount[line] >= state.blkIndent; line++) {
    const text = state.src.slice(startOf(state, line) + (line === first ? 2 : 0), state.eMarks[line]);
    const at = closingIn(text, CLOSINGS[opening]);
    const after = at === -1 ? "" : text.slice(at + 2).trim();
    if (after.length > 1 || /\w/.test(after)) return false;
    lines.push(at === -1 ? text : text.slice(0, at) + after);
    if (at !== -1) return silent || addBlock(state, first, line + 1, opening, lines, true);
  }
  const isLast = state.eMarks[first + lines.length - 1] >= state.src.trimEnd().length;
  if (isLast) return silent || addBlock(state, first, first + lines.length, opening, lines, false);
  failed[opening] = first + lines.length;
  return false;
}

function startOf(state, line) {
  return state.bMarks[line] + state.tShift[line];
}

function closingIn(text, closing) {
  for (let at = 0; at < text.length; at += text[at] === "\\" ? 2 : 1) if (text.startsWith(closing, at)) return at;
  return -1;
}

function addBlock(state, first, end, opening, lines, closed) {
  const formula = lines.join("\n");
  const token = add(state, "math_block", `${opening}${formula}${closed ? CLOSINGS[opening] : ""}`, formula, true, closed);
  token.map = [first, end];
  state.line = end;
  return true;
}

function add(state, type, source, formula, display, closed) {
  state.env.numFormulas = (state.env.numFormulas ?? 0) + 1;
  const token = state.push(type, "", 0);
  token.content = formula;
  token.meta = { source, formula, display, isWhole: closed && state.env.numFormulas <= MAX_FORMULAS };
  return token;
}
