// The page about the API, drawn from the server's own /openapi.json. Every request can be tried here.

import { json, request } from "./api.js";
import { asCurl } from "./curl.js";
import { copy, el } from "./dom.js";
import { mayAskAgain } from "./key.js";
import { Schemas } from "./schema.js";

const MAX_DEPTH = 5;
const MAX_SHOWN_CHARACTERS = 20_000;
const OUTSIDE_V1 = new Set(["/", "/health", "/version", "/metrics"]);
const QUESTION = [{ role: "user", content: "What is the capital of France?" }];
const EXAMPLES = {
  "/chat/completions": { messages: QUESTION, temperature: 0 },
  "/completions": { prompt: "The capital of France is", max_tokens: 8, temperature: 0 },
  "/responses": { input: "What is the capital of France?", temperature: 0 },
  "/responses/input_tokens": { input: "What is the capital of France?" },
  "/messages": { max_tokens: 50, messages: QUESTION },
  "/messages/count_tokens": { messages: QUESTION },
  "/embeddings": { input: ["an apple", "a pear"] },
  "/rerank": { query: "What is the capital of France?", documents: ["Paris is its capital.", "It has many rivers."] },
  "/score": { text_1: "an apple", text_2: ["a pear", "a train"] },
  "/tokenize": { prompt: "What is the capital of France?" },
  "/detokenize": { tokens: [504, 1105, 273] },
  "/apply-template": { messages: QUESTION },
};
let schemas = new Schemas({});

function operation(path, method, described) {
  const address = OUTSIDE_V1.has(path) ? path : `/v1${path}`;
  const inside = el("div", { className: "inside" });
  const details = el("details", { className: "card operation" },
    el("summary", {},
      el("span", { className: `method ${method}` }, method.toUpperCase()),
      el("span", { className: "path" }, address),
      el("span", { className: "says" }, (described.description ?? described.summary ?? "").split("\n\n")[0])),
    inside);
  // Drawn when it is first opened: all of it at once would be thousands of rows.
  details.addEventListener("toggle", () => fill(inside, path, address, method, described), { once: true });
  return details;
}

function fill(inside, path, address, method, described) {
  const [, ...more] = (described.description ?? "").split("\n\n");
  inside.append(...more.map((text) => el("p", {}, text)));
  const asked = described.requestBody?.content["application/json"]?.schema;
  if (method === "post" || (method === "get" && !path.includes("{"))) inside.append(trial(address, asked && (EXAMPLES[path] ?? schemas.example(asked))));
  const parameters = (described.parameters ?? []).map(({ name, schema, required }) => [name, schema, required]);
  if (parameters.length) inside.append(el("h3", {}, "Parameters"), table(parameters, 0));
  if (asked) inside.append(el("h3", {}, "Request"), table(schemas.fields(asked), 0));
  const answered = described.responses["200"]?.content?.["application/json"]?.schema;
  const answer = answered ? schemas.fields(answered) : [];
  if (answer.length) inside.append(el("h3", {}, "Answer"), table(answer, 0));
}

function table(fields, depth) {
  return el("table", {},
    el("thead", {}, el("tr", {}, ["name", "type", "allowed"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, fields.toSorted((one, other) => other[2] - one[2]).map(([name, schema, required]) => row(name, schema, required, depth))));
}

function row(name, schema, required, depth) {
  const below = depth < MAX_DEPTH ? schemas.fields(schema) : [];
  const type = el("td", {}, schemas.type(schema));
  if (below.length) {
    const nested = el("details", { className: "nested" }, el("summary", {}, "fields"));
    nested.addEventListener("toggle", () => nested.append(table(below, depth + 1)), { once: true });
    type.append(nested);
  }
  return el("tr", {},
    el("td", {}, el("code", {}, name), required ? el("small", { className: "must more" }, "required") : null),
    type,
    el("td", {}, schemas.limits(schema)));
}

function trial(address, example) {
  const body = example === undefined ? null : el("textarea", {
    value: JSON.stringify(example, null, 2), spellcheck: false, "aria-label": "Body of the request", rows: 8,
  });
  const output = el("pre", { hidden: true, tabIndex: 0, role: "region", "aria-label": "Answer" });
  const read = () => (body ? JSON.parse(body.value) : undefined);
  const show = (text) => {
    output.hidden = false;
    output.textContent = text.length > MAX_SHOWN_CHARACTERS ? `${text.slice(0, MAX_SHOWN_CHARACTERS)} …` : text;
  };
  const guarded = (work) => async () => {
    try {
      await work();
    } catch (error) {
      show(error.message);
    }
  };
  const send = guarded(async () => {
    show("…");
    mayAskAgain();
    const response = await request(address, { body: read(), accept: "*/*" });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.startsWith("application/json");
    show(isJson ? JSON.stringify(JSON.parse(text), null, 2) : text);
  });
  const command = guarded(() => copy(asCurl(address, read()), "Command"));
  return el("div", {},
    el("h3", {}, "Try it"), body,
    el("div", { className: "actions" },
      el("button", { type: "button", className: "primary", on: { click: send } }, "Send"),
      el("button", { type: "button", on: { click: command } }, "Copy as curl")),
    output);
}

document.getElementById("base").textContent = `${location.origin}/v1`;
try {
  const described = await json("/openapi.json");
  schemas = new Schemas(described.components?.schemas ?? {});
  const all = Object.entries(described.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, each]) => operation(path, method, each)));
  document.getElementById("operations").append(...all);
} catch (error) {
  const failure = document.getElementById("failure");
  failure.textContent = error.status ? error.message : "The server does not answer.";
  failure.hidden = false;
}
