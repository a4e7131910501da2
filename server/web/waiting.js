// Why an answer has not begun yet, in words. Asks the server's status only while somebody waits.

import { Source } from "./source.js";

const PATIENCE_MS = 1200;

/** Call `say` with what is known, again and again until `isOver()`. prefill: the tokens that are prefilled, if known */
export async function explain(model, say, isOver, prefill) {
  const source = new Source();
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
    if (isOver()) return;
    try {
      const { models } = await source.read();
      const found = models.find(({ id, aliases }) => id === model || aliases?.includes(model));
      if (!isOver() && found) say(words(found, prefill()));
    } catch {
      return; // the answer itself tells what is wrong
    }
  }
}

function words({ state, done_bytes, total_bytes, requests }, prefill) {
  if (state === "loading") return `Loading the model${total_bytes ? `, ${Math.floor((100 * done_bytes) / total_bytes)} %` : ""}`;
  if (state === "waiting") return "Waiting for memory: another model is still at work";
  if (prefill) return `Reading the question: ${prefill.done.toLocaleString()} of ${prefill.total.toLocaleString()} tokens`;
  if (requests.queued) return `In the queue with ${requests.queued === 1 ? "one request" : `${requests.queued} requests`}`;
  return "Reading the question";
}
