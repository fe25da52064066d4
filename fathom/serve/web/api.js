// What the page asks of the server. Every failure becomes an ApiError whose message a person can read.

import { events } from "./stream.js";

/** A message as a sentence; a first word that may be a field's name stays as it is. */
const sentence = (text) =>
  text.replace(/^[a-z]+ /, (word) => word[0].toUpperCase() + word.slice(1)).replace(/[^.!?]$/, "$&.");

/** `retryS`: the server's own hint, in seconds, when it gave one. `param`: the input at fault; `status`: of the answer. */
export class ApiError extends Error {
  constructor(message, { code = null, retryS = null, param = null, status = 0 } = {}) {
    super(sentence(message));
    Object.assign(this, { code, retryS, param, status });
  }
}

const UNREACHABLE = "The server cannot be reached. Is fathom serve still running?";
const LOST = "The connection was lost before the answer was complete.";

// A server with keys is opened as http://host:port/#key=...; the key leaves the address bar at once.
let key = new URLSearchParams(location.hash.slice(1)).get("key");
if (key !== null) {
  sessionStorage.setItem("fathom-key", key);
  history.replaceState(null, "", location.pathname + location.search);
} else {
  key = sessionStorage.getItem("fathom-key");
}

const address = (path) => new URL(path, document.baseURI).href;

async function request(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  try {
    return await fetch(address(path), { cache: "no-store", ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(UNREACHABLE, { code: "unreachable" });
  }
}

async function json(path, options) {
  const response = await request(path, options);
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** The error envelope of a response that is not OK. */
async function failure(response) {
  const wait = Number(response.headers.get("retry-after-ms")) / 1000 || Number(response.headers.get("retry-after"));
  const retryS = wait > 0 ? wait : null;
  const { error } = await response.json().catch(() => ({}));
  let message = error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  if (response.status === 401) message = `This server wants a key. Open the page as ${address("./")}#key=KEY`;
  return new ApiError(message, { code: error?.code ?? null, retryS, param: error?.param ?? null, status: response.status });
}

/** Where the server stands: `ready`, `loading` (with its own words), or `lost`. */
export async function readiness() {
  try {
    const response = await request("ready");
    const facts = await response.json().catch(() => ({}));
    return response.ok ? { state: "ready", facts } : { state: "loading", detail: facts.error?.message ?? "" };
  } catch {
    return { state: "lost" };
  }
}

/** The models that are served; the first one is the one to ask. */
export const models = async () => (await json("v1/models")).data ?? [];

/** Questions worth asking, as [{prompt, family}]; none when the server has none. */
export async function suggestions() {
  const list = await json("suggestions").catch(() => []);
  return Array.isArray(list) ? list.filter((item) => typeof item?.prompt === "string") : [];
}

/** What every engine shows of its experts: {engines: {name: {load, placements, moved, ...}}}. */
export const experts = () => json("experts");

/** What the planner says: "inputs", or a section with its query string. */
export const plan = (what, signal) => json(`v1/plan/${what}`, { signal });

/** Ask an engine to move its experts to where their load asks for. */
export async function rebalance(engine) {
  const headers = { "content-type": "application/json" };
  const response = await request("experts/rebalance", { method: "POST", headers, body: JSON.stringify({ engine }) });
  if (!response.ok) throw await failure(response);
}

/** The chunks of one streamed completion. */
export async function* complete(body, signal) {
  const stream_options = { include_usage: true, include_progress: true };
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options }),
    signal,
  });
  if (!response.ok) throw await failure(response);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? LOST, { code: chunk.error.code ?? null });
      yield chunk;
    }
  } catch (error) {
    throw error.name === "AbortError" || error instanceof ApiError ? error : new ApiError(LOST, { code: "lost" });
  }
  throw new ApiError(LOST, { code: "lost" });
}

/** The same question for a shell, answered in one piece. A key is named, never written out. */
export function curl(body) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", String.raw`'\''`);
  const authorization = key ? `  -H "authorization: Bearer $FATHOM_KEY" \\\n` : "";
  const headers = `${authorization}  -H 'content-type: application/json' \\\n`;
  return `curl ${address("v1/chat/completions")} \\\n${headers}  -d '${quoted}'\n`;
}
