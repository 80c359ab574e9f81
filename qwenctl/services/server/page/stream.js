// One answer from /v1/chat/completions as it comes: server-sent events read from the body of a POST.

/** An answer that the server refused or broke off; the message is for people. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * Yield the chunks of a streamed completion.
 *
 * @param {object} body of the request; `stream` is set here
 * @param {{key: string, signal: AbortSignal}} how
 */
export async function* completion(body, { key, signal }) {
  const sent = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } });
  const response = await fetch("v1/chat/completions", { method: "POST", headers: head(key), body: sent, signal });
  if (!response.ok) throw new ServerError(await reason(response), response.status);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message ?? "the server gave up");
    yield chunk;
  }
  throw new ServerError("the connection ended before the answer did");
}

/** Ask for the end of the thinking of the completion `id`. */
export async function endThinking(id, key) {
  const body = JSON.stringify({ id, action: "reasoning_end" });
  const response = await fetch("v1/chat/completions/control", { method: "POST", headers: head(key), body });
  if (!response.ok) throw new ServerError(await reason(response), response.status);
}

/** Return the headers of a request; an empty key means that there is none. */
export function head(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split(/\r?\n\r?\n/);
    held = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}
