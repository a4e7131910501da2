// Makes elements. Text goes in as text: nothing in this folder turns a string into markup.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  edit: "M4 20l1-4L16 5l3 3L8 19zM13.5 7.5l3 3",
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  redo: "M19 12a7 7 0 1 1-2.5-5.4M19 3v5h-5",
  send: "M12 20V5M5.5 11.5L12 5l6.5 6.5",
  sliders: "M4 8h8M18 8h2M4 16h2M12 16h8M12 8a3 3 0 1 0 6 0 3 3 0 0 0-6 0M6 16a3 3 0 1 0 6 0 3 3 0 0 0-6 0",
  stop: "M7 7h10v10H7z",
  terminal: "M5 7l5 5-5 5M12 18h7",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};

/** An element. Properties are set as properties; those with a dash, and `role`, as attributes; `on` holds listeners.
 * Children are nodes, texts, lists of them, or null for none. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/** A button that shows an icon, with its name for pointers and screen readers. */
export function iconButton(name, label, onClick) {
  return el("button", { type: "button", className: "quiet", title: label, "aria-label": label, on: { click: onClick } }, icon(name));
}

/** Put icons into the buttons of a page's own HTML: those with data-icon. */
export function drawIcons(root = document) {
  for (const node of root.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
}

let told = 0;

/** A short message that goes away by itself. Screen readers hear it. */
export function tell(text) {
  const place = document.getElementById("toast");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(told);
  told = setTimeout(() => place.classList.remove("shown"), 3000);
}

/** Put text on the clipboard, also where the page is not served from this machine and has no clipboard of its own. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell(`${what} copied`);
}
