// Conversations in this browser's own storage. Knows their shape, not how they look.

const NAME = "bramley.conversations";
const MAX_KEPT = 100;
const MAX_TITLE_CHARACTERS = 60;

/** {id, title, messages: [{role, content, reasoning?, asked?, figures?, usage?, ending?, error?}]}, the newest first. */
export class Conversations {
  #all = read();

  get all() {
    return this.#all;
  }

  begin() {
    return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), title: "New conversation", messages: [] };
  }

  /** Keep a conversation, as the newest. Returns false when the browser has no room for it at all. */
  keep(conversation) {
    const first = conversation.messages.find((message) => message.role === "user");
    if (first) conversation.title = first.content.trim().replace(/\s+/g, " ").slice(0, MAX_TITLE_CHARACTERS) || "Untitled";
    // Read again: another window may have kept others in the meantime.
    this.#all = [conversation, ...read().filter((each) => each.id !== conversation.id)].slice(0, MAX_KEPT);
    return this.#write();
  }

  remove(id) {
    this.#all = read().filter((each) => each.id !== id);
    this.#write();
  }

  /** The oldest go when there is no room. */
  #write() {
    for (let count = this.#all.length; count >= 0; count = count > 1 ? count >> 1 : count - 1) {
      try {
        localStorage.setItem(NAME, JSON.stringify(this.#all.slice(0, count)));
        return count > 0 || this.#all.length === 0;
      } catch {
        continue;
      }
    }
    return false;
  }
}

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(found) ? found.filter(isConversation) : [];
  } catch {
    return [];
  }
}

function isConversation(value) {
  return typeof value?.id === "string" && typeof value.title === "string" && Array.isArray(value.messages)
    && value.messages.every((each) => typeof each?.content === "string" && (each.role === "user" || each.role === "assistant"));
}
