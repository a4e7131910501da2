// Markdown as elements: markdown-it reads it, tokens become nodes, and DOMPurify looks them over. No string becomes markup.

import { mathematics } from "./mathematics.js";
import { tasks } from "./tasks.js";
import { build } from "./tokens.js";
import DOMPurify from "./vendor/dompurify/purify.es.mjs";
import MarkdownIt from "./vendor/markdown-it/markdown-it.esm.min.mjs";
import { footnote } from "./vendor/mdit-plugin-footnote/index.js";

const ADDRESS = /^(?:https?:\/\/|mailto:)/i;
const MAX_LABEL_CHARACTERS = 100;
const HARMLESS = ["aria-label", "checked", "class", "disabled", "rel", "role", "start", "tabindex", "target", "type"];
const ALLOWED = {
  IN_PLACE: true,
  TRUSTED_TYPES_POLICY: null, // it is given nodes, and has no string to sign
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "div", "em", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol", "p", "pre", "s", "section",
    "span", "strong", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul", "#text",
  ],
  ALLOWED_ATTR: ["href", ...HARMLESS],
  ADD_URI_SAFE_ATTR: HARMLESS, // values that are no addresses
  ALLOWED_URI_REGEXP: ADDRESS,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

const parser = new MarkdownIt({ html: false, breaks: true, linkify: true, maxNesting: 40 })
  .use(footnote)
  .use(tasks)
  .use(mathematics)
  // A line of dashes under a paragraph is a list that begins more often than a heading: no text is large for a moment.
  .disable("lheading");
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
parser.validateLink = (address) => ADDRESS.test(address) && URL.canParse(address);
parser.inline.ruler.before("footnote_ref", "long_label", longLabel);

/** Shows a text that grows. Only blocks that differ from the last time are made again. */
export class MarkdownView {
  static #count = 0;
  #root;
  #shown = [];
  #prefix = `text-${MarkdownView.#count++}-`;

  constructor(root) {
    this.#root = root;
  }

  update(text) {
    const blocks = split(parser.parse(text, {}));
    const keys = blocks.map((block) => JSON.stringify(block));
    let same = 0;
    while (same < keys.length && keys[same] === this.#shown[same]) same++;
    while (this.#root.childNodes.length > same) this.#root.lastChild.remove();
    this.#root.append(...this.#nodes(blocks.slice(same).flat()));
    this.#shown = keys;
  }

  #nodes(tokens) {
    const after = [];
    const root = build(tokens, after, this.#prefix);
    DOMPurify.sanitize(root, ALLOWED);
    for (const step of after) step();
    return [...root.childNodes];
  }
}

/** The tokens of each block of the text. */
function split(tokens) {
  const blocks = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push([]);
    blocks.at(-1).push(token);
    depth += token.nesting;
  }
  return blocks;
}

/** A footnote's mark is short: what is long is text, and its end is not looked for. */
function longLabel(state, silent) {
  if (!state.src.startsWith("[^", state.pos) || state.src.slice(state.pos, state.pos + MAX_LABEL_CHARACTERS).includes("]")) return false;
  if (!silent) state.pending += "[^";
  state.pos += 2;
  return true;
}
