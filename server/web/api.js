// Talks to the server this page came from. Asks for an API key when the server wants one.

import { askForKey, storedKey } from "./key.js";

/** An answer that is an error, with the server's own sentence. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A successful response. Raises ApiError; asks for a key as often as one is refused, until the person gives up. */
export async function request(path, { body, signal, accept = "application/json" } = {}) {
  const tried = storedKey();
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers: {
      accept,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(tried ? { authorization: `Bearer ${tried}` } : {}),
    },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal,
  });
  if (response.ok) return response;
  // Another request may have been told the key in the meantime.
  if (response.status === 401 && (storedKey() !== tried || (await askForKey(tried !== "")))) {
    return request(path, { body, signal, accept });
  }
  throw new ApiError(response.status, await sentence(response));
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

/** The events of a stream as objects, up to its end mark. Raises ApiError for an error event.
 *
 * onComment is called with the text of each comment, which says what a silent answer waits for. */
export async function* events(path, body, signal, onComment = () => {}) {
  const response = await request(path, { body, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ApiError(0, "The connection ended before the answer did.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) onComment(line.slice(1).trim());
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(0, event.error.message);
      yield event;
    }
  }
}

async function sentence(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}
