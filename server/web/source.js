// The state of the server, as GET /v1/status tells it; where there is no such route, made of what others say.

import { json, request } from "./api.js";

const MAX_SAMPLES = 300;

export class Source {
  #isThere = true;
  #samples = [];

  /** The status now. Raises ApiError, and TypeError when nobody answers. */
  async read() {
    if (this.#isThere) {
      try {
        return await json("/v1/status");
      } catch (error) {
        if (error.status !== 404) throw error;
        this.#isThere = false;
      }
    }
    return this.#gather();
  }

  async #gather() {
    const [health, models, text] = await Promise.all([
      fetch("/health", { cache: "no-store" }).then((response) => response.json()),
      json("/v1/models"),
      request("/metrics", { accept: "text/plain" }).then((response) => response.text()),
    ]);
    const metrics = parseMetrics(text);
    const states = models.data.map((model, index) => modelState(model, index === 0 ? health : null, metrics));
    const sum = (name) => [...(metrics.get(name)?.values() ?? [])].reduce((total, value) => total + value, 0);
    const now = Date.now() / 1000;
    this.#samples = [...this.#samples, {
      at: now,
      num_loaded: states.filter(({ state }) => state === "ready").length,
      resident_bytes: sum("bramley:kv_cache_bytes") + sum("bramley:prefix_cache_bytes"),
      running: sum("vllm:num_requests_running"),
      queued: sum("vllm:num_requests_waiting"),
      prompt_tokens: sum("vllm:prompt_tokens_total"),
      generated_tokens: sum("vllm:generation_tokens_total"),
      queried_tokens: sum("vllm:prefix_cache_queries_total"),
      cached_tokens: sum("vllm:prefix_cache_hits_total"),
    }].slice(-MAX_SAMPLES);
    return {
      state: health.status === "draining" ? "draining" : "ok",
      memory: null, models: states, pulls: [], now, history: { samples: this.#samples },
    };
  }
}

function modelState({ id, context_length }, health, metrics) {
  const value = (name) => metrics.get(name)?.get(id) ?? 0;
  const isLoading = health?.status === "loading";
  const states = { ok: "ready", draining: "draining", loading: "loading", failed: "failed", stuck: "stuck" };
  return {
    id,
    state: states[health?.status] ?? (context_length ? "ready" : "unloaded"),
    reason: health?.error?.message ?? "",
    context_length,
    done_bytes: isLoading ? health.done_bytes : 0,
    total_bytes: isLoading ? health.total_bytes : 0,
    memory: { kv_bytes: value("bramley:kv_cache_bytes"), kv_limit_bytes: value("bramley:kv_cache_limit_bytes"), prefix_bytes: value("bramley:prefix_cache_bytes") },
    requests: { running: value("vllm:num_requests_running"), queued: value("vllm:num_requests_waiting"), waiting: 0 },
    prefix: { queried_tokens: value("vllm:prefix_cache_queries_total"), cached_tokens: value("vllm:prefix_cache_hits_total") },
  };
}

/** Prometheus' text format as name -> model -> value; other labels are summed over. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!parts) continue;
    const model = /model_name="((?:[^"\\]|\\.)*)"/.exec(parts[2] ?? "")?.[1].replace(/\\(.)/g, (_, each) => (each === "n" ? "\n" : each)) ?? "";
    if (!found.has(parts[1])) found.set(parts[1], new Map());
    const models = found.get(parts[1]);
    models.set(model, (models.get(model) ?? 0) + Number(parts[3]));
  }
  return found;
}
