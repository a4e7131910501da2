// The tokens of markdown-it as nodes. Text goes in as text, and of a token's attributes only the ones named here are used.

import { codeBlock } from "./code.js";
import { el } from "./dom.js";
import { typeset } from "./mathematics.js";

const PLAIN = new Set(["p", "blockquote", "ul", "li", "em", "strong", "s", "thead", "tbody", "tr"]);
const SIDES = { "text-align:right": "right", "text-align:center": "centre" };

/** An element with a node for each block. `after` gets what is to be done to nodes once they are sanitised; `prefix` begins every id. */
export function build(tokens, after, prefix) {
  const root = el("div");
  fill(root, tokens, { after, prefix });
  return root;
}

function fill(root, tokens, context) {
  const open = [root];
  for (const token of tokens) {
    if (token.hidden) continue; // the paragraphs of a list without empty lines
    if (token.type === "inline") fill(open.at(-1), token.children, context);
    else if (token.nesting < 0) open.pop();
    else {
      const [node, inner] = [make(token, context, open.at(-1))].flat();
      open.at(-1).append(node);
      if (token.nesting > 0) open.push(inner ?? node);
    }
  }
}

/** A node, or a node and the one inside it that is filled. */
function make(token, context, parent) {
  const maker = MAKERS[token.type];
  if (maker) return maker(token, context, parent);
  if (token.nesting === 0) return token.content;
  return el(PLAIN.has(token.tag) ? token.tag : "span");
}

const MAKERS = {
  softbreak: () => el("br"),
  hardbreak: () => el("br"),
  hr: () => el("hr"),
  code_inline: ({ content }) => el("code", {}, content),
  code_block: ({ content }, context) => code(content, "", context),
  fence: ({ content, info }, context) => code(content, info.trim().split(/\s/, 1)[0], context),
  // One lower than written: the page has its own first heading.
  heading_open: ({ tag }) => el(`h${Math.min(Number(tag[1]) + 1, 6)}`),
  ordered_list_open: (token) => (token.attrGet("start") === null ? el("ol") : el("ol", { start: token.attrGet("start") })),
  list_item_open: (token) => classed("li", token.meta?.isTask && "task"),
  checkbox: ({ meta: { checked } }) =>
    el("input", { type: "checkbox", disabled: true, defaultChecked: checked, "aria-label": checked ? "Done" : "To do" }),
  table_open: () => {
    const table = el("table");
    return [el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, table), table];
  },
  th_open: (token) => classed("th", SIDES[token.attrGet("style")]),
  td_open: (token) => classed("td", SIDES[token.attrGet("style")]),
  link_open: (token) => link(token.attrGet("href")),
  image: (token, _, parent) => (parent.closest("a") ? token.content : fromImage(token)),
  math_inline: ({ meta }, context) => formula("span", meta, context),
  math_block: ({ meta }, context) => formula("div", meta, context),
  footnote_ref: ({ meta }, { after, prefix }) => {
    const node = el("a", {}, String(meta.id + 1));
    after.push(() => Object.assign(node, { href: `#${prefix}note-${meta.id}`, id: `${prefix}mark-${meta.id}-${meta.subId ?? 0}` }));
    return el("sup", {}, node);
  },
  footnote_block_open: () => {
    const list = el("ol");
    return [el("section", { className: "footnotes", "aria-label": "Footnotes" }, list), list];
  },
  footnote_open: ({ meta }, { after, prefix }) => {
    const node = el("li");
    after.push(() => Object.assign(node, { id: `${prefix}note-${meta.id}` }));
    return node;
  },
  footnote_anchor: ({ meta }, { after, prefix }) => {
    const node = el("a", { "aria-label": "Back to the text" }, "↩\uFE0E");
    after.push(() => Object.assign(node, { href: `#${prefix}mark-${meta.id}-${meta.subId ?? 0}` }));
    return node;
  },
};

function classed(tag, className) {
  return className ? el(tag, { className }) : el(tag);
}

function code(content, language, { after }) {
  const text = content.replace(/\n$/, "");
  const node = el("pre", {}, el("code", {}, text));
  after.push(() => node.replaceWith(codeBlock(text, language)));
  return node;
}

function formula(tag, meta, { after }) {
  const node = el(tag, { className: meta.display ? "math display source" : "math source" }, meta.source);
  if (meta.isWhole) after.push(() => typeset(node, meta));
  return node;
}

/** A link that opens elsewhere and tells nothing of this page. */
function link(href) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer" });
}

/** An image as a link to it: showing it would ask another host. */
function fromImage(token) {
  const node = link(token.attrGet("src"));
  node.append(token.content || token.attrGet("src"));
  return node;
}
