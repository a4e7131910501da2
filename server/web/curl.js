// A request as a line for the shell.

import { storedKey } from "./key.js";

/** The command for a request. A key is named, not shown: it comes from the shell's own BRAMLEY_API_KEY. */
export function asCurl(path, body) {
  const key = storedKey() ? [`-H "Authorization: Bearer $BRAMLEY_API_KEY"`] : [];
  const parts = [`curl ${quoted(location.origin + path)}`, "-H 'Content-Type: application/json'", ...key];
  if (body !== undefined) parts.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  return parts.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
