// One answer: asks for it, hears it as it comes, and measures it. Knows no elements.

import { events } from "./api.js";

/** Fill a message with what the model says; `onChange` is called whenever there is more of it.
 *
 * While the prompt is prefilled, message.prefill holds the tokens so far and in all.
 * Times are seconds: firstSeconds from the question to the first token, rate tokens per second after it. */
export async function hear(message, body, signal, onChange) {
  const asked = performance.now();
  const timing = { first: 0, tokensThen: 0 };
  try {
    const stream = { ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
    const note = (comment) => (message.prefill = prefilled(comment));
    for await (const event of events("/v1/chat/completions", stream, signal, note)) {
      delete message.prefill;
      take(message, event);
      measure(message, event, asked, timing);
      onChange();
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    message.ending = "stopped";
  } finally {
    delete message.prefill;
  }
}

/** `prefill 512/8860 tokens` as numbers; undefined for a comment about anything else. */
function prefilled(comment) {
  const found = /^prefill (\d+)\/(\d+) tokens$/.exec(comment);
  return found ? { done: Number(found[1]), total: Number(found[2]) } : undefined;
}

function take(message, event) {
  if (event.usage) message.usage = event.usage;
  const choice = event.choices?.[0];
  if (!choice) return;
  message.content += choice.delta?.content ?? "";
  const thought = choice.delta?.reasoning_content ?? choice.delta?.reasoning;
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  if (choice.finish_reason) message.ending = choice.finish_reason;
}

function measure(message, event, asked, timing) {
  const delta = event.choices?.[0]?.delta;
  const hasText = Boolean(delta?.content || delta?.reasoning_content || delta?.reasoning);
  const tokens = message.usage?.completion_tokens ?? 0;
  const now = performance.now();
  if (hasText && !timing.first) {
    Object.assign(timing, { first: now, tokensThen: tokens });
    message.figures = { firstSeconds: (now - asked) / 1000, rate: null };
  } else if (hasText && tokens > timing.tokensThen && now > timing.first) {
    message.figures.rate = ((tokens - timing.tokensThen) * 1000) / (now - timing.first);
  }
}

/** What a person reads under an answer. */
export function summary({ usage, figures, ending }) {
  const words = [];
  if (usage) words.push(`${usage.completion_tokens} tokens`);
  if (figures) words.push(`first after ${seconds(figures.firstSeconds)}`);
  if (figures?.rate) words.push(`${figures.rate.toFixed(figures.rate < 10 ? 1 : 0)} tokens/s`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) words.push(`${cached} of ${usage.prompt_tokens} prompt tokens from the cache`);
  if (ending === "stopped") words.push("stopped");
  if (ending === "length") words.push("cut at its greatest length");
  return words.join(" · ");
}

function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}
