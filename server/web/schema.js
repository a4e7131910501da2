// JSON Schema as people read it: the name of a type, its limits, its fields, an example. Knows no elements.

const MAX_DEPTH = 4;

export class Schemas {
  #named;

  /** named: the schemas that others refer to, by name */
  constructor(named) {
    this.#named = named;
  }

  /** The schema itself, behind references and without the alternative of null. */
  resolve(schema = {}) {
    for (let steps = 0; schema.$ref && steps < 20; steps++) schema = this.#named[schema.$ref.split("/").at(-1)] ?? {};
    const choices = this.choices(schema);
    return choices.length === 1 ? this.resolve(choices[0]) : schema;
  }

  choices(schema) {
    return (schema.anyOf ?? schema.oneOf ?? []).filter(({ type }) => type !== "null");
  }

  /** "list of text", "number", '"low" or "high"'. */
  type(schema, depth = 0) {
    const found = this.resolve(schema);
    const choices = this.choices(found);
    if (choices.length) return [...new Set(choices.map((each) => this.type(each, depth)))].join(" or ");
    if (found.enum) return found.enum.map((each) => JSON.stringify(each)).join(" or ");
    if (found.const !== undefined) return JSON.stringify(found.const);
    if (found.type === "array") return depth < MAX_DEPTH ? `list of ${this.type(found.items, depth + 1)}` : "list";
    return { string: "text", integer: "whole number", number: "number", boolean: "true or false", object: "object" }[found.type] ?? "anything";
  }

  /** What values are allowed, and which one holds when none is given. */
  limits(schema) {
    const found = this.resolve(schema);
    const words = [];
    const [least, most] = [found.minimum ?? found.exclusiveMinimum, found.maximum];
    if (found.exclusiveMinimum !== undefined) words.push(`more than ${least}`);
    else if (least !== undefined && Math.abs(least) < 1e9) words.push(`at least ${least}`);
    if (most !== undefined && most < 1e9) words.push(`at most ${most}`);
    if (found.maxItems) words.push(`at most ${found.maxItems.toLocaleString()} of them`);
    if (found.maxLength && found.maxLength < 1e6) words.push(`at most ${found.maxLength.toLocaleString()} characters`);
    const given = schema.default ?? found.default;
    if (given !== undefined && given !== null && given !== "") words.push(`${JSON.stringify(given)} if not given`);
    return words.join(", ");
  }

  /** [name, schema, is it required] of an object, or of what a list holds. */
  fields(schema) {
    const found = this.resolve(schema);
    if (found.type === "array") return this.fields(found.items);
    const objects = [found, ...this.choices(found).map((each) => this.resolve(each))].filter(({ properties }) => properties);
    const seen = new Map();
    for (const { properties, required = [] } of objects) {
      for (const [name, own] of Object.entries(properties)) if (!seen.has(name)) seen.set(name, [name, own, required.includes(name)]);
    }
    return [...seen.values()];
  }

  /** A value with what is required and nothing else. */
  example(schema, depth = 0) {
    const found = this.resolve(schema);
    const choices = this.choices(found);
    if (depth > MAX_DEPTH) return null;
    if (choices.length) return this.example(choices[0], depth + 1);
    if (found.enum) return found.enum.includes("user") ? "user" : found.enum[0];
    if (found.const !== undefined) return found.const;
    if (found.type === "array") return found.minItems ? [this.example(found.items, depth + 1)] : [];
    if (found.type === "object" || found.properties) {
      return Object.fromEntries(this.fields(found).filter(([, , must]) => must).map(([name, own]) => [name, this.example(own, depth + 1)]));
    }
    return { string: "", integer: found.minimum ?? 0, number: 0, boolean: false }[found.type] ?? null;
  }
}
