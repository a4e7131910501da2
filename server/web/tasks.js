// Task lists in Markdown: a rule for markdown-it that makes a box of [ ] and [x] at the start of an item.

const MARK = /^\[([ xX])\]\s/;

/** A plugin: makes tokens of the type checkbox, whose meta is {checked}. Each item is looked at once. */
export function tasks(parser) {
  parser.core.ruler.after("inline", "tasks", ({ tokens, Token }) => {
    tokens.forEach((token, index) => {
      const item = tokens[index - 2];
      const mark = token.type === "inline" && item?.type === "list_item_open" && MARK.exec(token.content);
      if (!mark || token.children[0].type !== "text") return;
      token.children[0].content = token.children[0].content.slice(3);
      const box = new Token("checkbox", "input", 0);
      box.meta = { checked: mark[1] !== " " };
      token.children.unshift(box);
      item.meta = { isTask: true };
    });
  });
}
