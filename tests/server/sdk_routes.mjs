// The routes through the official JavaScript client. Usage: node sdk_routes.mjs FOLDER WRITER READER BUSY: where the
// client is installed, and base URLs as in sdk_routes.py. Prints the client's version when everything held.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, writer, reader, busy] = process.argv.slice(2);
const { OpenAI } = createRequire(join(folder, "package.json"))("openai");
const MODEL = "org/fake";
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const named = { name: "get_weather", description: "The weather of a city.", parameters: schema };
const CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>';
const script = (say, keys = {}) => JSON.stringify({ say, ...keys });
const user = (say, keys) => ({ role: "user", content: script(say, keys) });
const connect = (baseURL, maxRetries = 0) => new OpenAI({ baseURL, apiKey: "unused", maxRetries });
const client = connect(writer);

async function chatHolds() {
  const messages = [user("Hello.")];
  const whole = await client.chat.completions.create({ model: MODEL, messages });
  assert.equal(whole.choices[0].message.content, "Hello.");
  const stream = client.chat.completions.stream({ model: MODEL, messages, stream_options: { include_usage: true } });
  assert.equal(await stream.finalContent(), "Hello.");
  assert.deepEqual(await stream.totalUsage(), whole.usage);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: MODEL, messages, stream: true })) {
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(text, "Hello.");
  const get_weather = ({ city }) => script(`It is sunny in ${city}.`);
  const tools = [{ type: "function", function: { ...named, function: get_weather, parse: JSON.parse } }];
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({ model: MODEL, messages: [user(CALL)], tools, stream });
    assert.equal(await runner.finalContent(), "It is sunny in Paris.");
  }
}

async function parsedHolds() {
  const rome = script('{"city": "Rome"}');
  const format = { type: "json_schema", json_schema: { name: "place", schema, strict: true } };
  const messages = [{ role: "user", content: rome }];
  const whole = await client.chat.completions.parse({ model: MODEL, messages, response_format: format });
  assert.equal(JSON.parse(whole.choices[0].message.content).city, "Rome");
  const text = { format: { type: "json_schema", name: "place", schema, strict: true } };
  const response = await client.responses.parse({ model: MODEL, input: rome, text });
  assert.equal(response.output_parsed.city, "Rome");
}

async function responsesHold() {
  const input = script(`<think>hm</think>I look.${CALL}`);
  const tools = [{ type: "function", ...named, strict: false }];
  const stream = client.responses.stream({ model: MODEL, input, tools });
  let number = 0;
  for await (const event of stream) assert.equal(event.sequence_number, number++);
  const first = await stream.finalResponse();
  assert.deepEqual(first.output.map((item) => item.type), ["reasoning", "message", "function_call"]);
  assert.equal(first.output_text, "I look.");
  const output = { type: "function_call_output", call_id: first.output[2].call_id, output: script("Sunny.") };
  const last = await client.responses.create({ model: MODEL, previous_response_id: first.id, input: [output] });
  assert.equal(last.output_text, "Sunny.");
  assert.equal((await client.responses.retrieve(last.id)).output_text, "Sunny.");
  const items = [];
  for await (const item of client.responses.inputItems.list(last.id)) items.push(item.type);
  assert.deepEqual(items, ["function_call_output"]);
  await client.responses.delete(last.id);
  await assert.rejects(client.responses.retrieve(last.id), OpenAI.NotFoundError);
}

async function othersHold() {
  const completion = await client.completions.create({ model: MODEL, prompt: ["a", "b"], max_tokens: 50 });
  assert.deepEqual(completion.choices.map((choice) => choice.text), ["You said: a", "You said: b"]);
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepEqual(models, [MODEL]);
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
  if (client.decisions) {
    const choices = [{ value: "a" }, { value: true }];
    const questions = [{ type: "choice", instructions: "Which?", choices }];
    assert.equal((await client.decisions.create({ model: MODEL, input: "x", questions })).answers[0].choice, true);
  }
  const vectors = connect(reader);
  const packed = await vectors.embeddings.create({ model: "tiny", input: "w11 w12" });
  const plain = await vectors.embeddings.create({ model: "tiny", input: "w11 w12", encoding_format: "float" });
  packed.data[0].embedding.forEach((value, place) => assert.ok(Math.abs(value - plain.data[0].embedding[place]) < 1e-6));
}

async function errorsHold() {
  const gone = { model: "gone", messages: [user("x")] };
  await assert.rejects(client.chat.completions.create(gone), { status: 404, code: "model_not_found", param: "model" });
  const failing = [user("text", { fail_after: 2 })];
  const stream = await client.chat.completions.create({ model: MODEL, messages: failing, stream: true });
  await assert.rejects(Array.fromAsync ? Array.fromAsync(stream) : all(stream), OpenAI.APIError);
  const one = connect(busy, 5);
  const slow = [user("abcd", { delay_seconds: 0.1 })];
  const running = await one.chat.completions.create({ model: MODEL, messages: slow, stream: true });
  const waiting = one.chat.completions.create({ model: MODEL, messages: [user("x")] });
  for await (const _ of running);
  assert.equal((await waiting).choices[0].message.content, "x");
}

async function all(stream) {
  for await (const _ of stream);
}

await chatHolds();
await parsedHolds();
await responsesHold();
await othersHold();
await errorsHold();
console.log(JSON.parse(readFileSync(join(folder, "node_modules", "openai", "package.json"))).version);
