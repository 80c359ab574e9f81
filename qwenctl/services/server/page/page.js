// The chat page: a conversation, what is shown of it, and what is kept in this browser.

import { render } from "./markdown.js";
import { completion, endThinking, head } from "./stream.js";

const KEPT = "qwenctl-conversation";
const find = (id) => document.getElementById(id);
const log = find("log");
const prompt = find("prompt");

let messages = []; // {role, content, reasoning?}
let running = null; // {abort, id, tick}
let model = null; // of /v1/models

// --- settings --------------------------------------------------------------------------------------------------------

function wishes() {
  const thinking = document.querySelector("input[name=thinking]:checked").value;
  const temperature = find("temperature").value;
  const maxTokens = find("max-tokens").value;
  return {
    ...(thinking ? { chat_template_kwargs: { enable_thinking: thinking === "on" } } : {}),
    ...(temperature === "" ? {} : { temperature: Number(temperature) }),
    ...(maxTokens === "" ? {} : { max_completion_tokens: Number(maxTokens) }),
  };
}

function keep() {
  if (!find("keep").checked) return localStorage.removeItem(KEPT);
  localStorage.setItem(KEPT, JSON.stringify({ system: find("system").value, messages }));
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    if (!kept) return;
    find("keep").checked = true;
    find("system").value = kept.system;
    for (const message of kept.messages) add(message);
  } catch {
    localStorage.removeItem(KEPT);
  }
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function made(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

/** An answer on the page: its thinking folded, its text as Markdown, what there is to say below. */
class AnswerView {
  constructor() {
    this.root = made("article", "assistant");
    this.fold = document.createElement("details");
    this.summary = made("summary", "", "thinking…");
    this.thoughts = made("div", "thoughts");
    this.fold.append(this.summary, this.thoughts);
    this.fold.hidden = true;
    this.answer = made("div", "answer");
    this.foot = made("div", "foot");
    this.root.append(this.fold, this.answer, this.foot);
    this.drawn = false;
    this.text = "";
  }

  think(text, label) {
    this.fold.hidden = false;
    this.thoughts.append(text);
    this.summary.textContent = label;
  }

  say(text) {
    this.text += text;
    if (this.drawn) return;
    this.drawn = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawn = false;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    this.answer.replaceChildren(...render(this.text));
    for (const pre of this.answer.querySelectorAll("pre")) pre.append(copyButton(pre));
    if (follows) log.scrollTop = log.scrollHeight;
  }

  note(text, bad = false) {
    this.foot.textContent = text;
    this.foot.classList.toggle("error", bad);
  }
}

function copyButton(pre) {
  const button = made("button", "", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(pre.querySelector("code"));
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

function add(message) {
  find("welcome")?.remove();
  messages.push(message);
  if (message.role === "user") {
    log.append(made("article", "user", message.content));
  } else {
    const view = new AnswerView();
    if (message.reasoning) view.think(message.reasoning, "thought");
    log.append(view.root);
    view.say(message.content);
  }
  log.scrollTop = log.scrollHeight;
}

function showMeter(usage) {
  const n = usage?.total_tokens;
  const meter = find("meter");
  const most = model?.meta?.n_ctx;
  meter.textContent = n ? (most ? `${n} of ${most} tokens (${Math.round((100 * n) / most)} %)` : `${n} tokens`) : "";
  meter.classList.toggle("warn", Boolean(n && most && n > 0.8 * most));
}

function busy(state) {
  log.setAttribute("aria-busy", String(state));
  find("send").hidden = state;
  find("stop").hidden = !state;
  if (!state) find("answer-now").hidden = true;
}

// --- asking ----------------------------------------------------------------------------------------------------------

async function ask(text) {
  add({ role: "user", content: text });
  const asked = messages; // "New chat" begins another list
  const view = new AnswerView();
  log.append(view.root);
  log.scrollTop = log.scrollHeight;
  view.note("reading the prompt…");
  const reply = { role: "assistant", content: "", reasoning: "" };
  running = { abort: new AbortController(), id: null, began: performance.now(), nThoughts: 0 };
  busy(true);
  let ending = "";
  let failed = false;
  try {
    ending = await follow(view, reply);
  } catch (error) {
    failed = error.name !== "AbortError";
    ending = failed ? error.message : "stopped";
    if (error.status === 401) find("settings").showModal();
  }
  if (view.drawn || reply.content) view.draw();
  view.note(ending, failed);
  if (reply.content || reply.reasoning) asked.push(reply);
  else if (asked === messages) giveBack(text);
  running = null;
  busy(false);
  keep();
  prompt.focus();
}

/** Nothing came: the question goes back to where it can be sent again. */
function giveBack(text) {
  messages.pop();
  if (!prompt.value) prompt.value = text;
}

async function follow(view, reply) {
  const system = find("system").value.trim();
  // Earlier reasoning stays here: models do not want it back.
  const turns = messages.map(({ role, content }) => ({ role, content }));
  const body = { messages: system ? [{ role: "system", content: system }, ...turns] : turns, ...wishes() };
  if (model) body.model = model.id;
  let reason = "";
  for await (const chunk of completion(body, { key: find("key").value, signal: running.abort.signal })) {
    running.id = chunk.id;
    if (chunk.usage) showMeter(chunk.usage);
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    take(choice.delta ?? {}, view, reply);
    reason = choice.finish_reason ?? reason;
  }
  const seconds = (performance.now() - running.began) / 1000;
  return `${seconds.toFixed(1)} s${reason === "length" ? " · cut off: the answer reached its limit" : ""}`;
}

function take(delta, view, reply) {
  const thought = delta.reasoning ?? delta.reasoning_content;
  if (thought) {
    reply.reasoning += thought;
    running.nThoughts += 1;
    find("answer-now").hidden = false;
    view.think(thought, `thinking… ${elapsed()}`);
    view.note("");
  }
  if (delta.content) {
    if (!reply.content && reply.reasoning) view.think("", `thought for ${elapsed()}`);
    find("answer-now").hidden = true;
    reply.content += delta.content;
    view.say(delta.content);
    view.note("");
  }
}

function elapsed() {
  return `${((performance.now() - running.began) / 1000).toFixed(1)} s, ${running.nThoughts} tokens`;
}

// --- hands -----------------------------------------------------------------------------------------------------------

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || running) return;
  prompt.value = "";
  grow();
  ask(text);
});
prompt.addEventListener("input", grow);
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !find("settings").open) running.abort.abort();
});
find("stop").addEventListener("click", () => running?.abort.abort());
find("answer-now").addEventListener("click", async () => {
  find("answer-now").hidden = true;
  try {
    if (running?.id) await endThinking(running.id, find("key").value);
  } catch (error) {
    find("meter").textContent = error.message;
  }
});
find("new").addEventListener("click", () => {
  running?.abort.abort();
  messages = [];
  log.replaceChildren();
  showMeter(null);
  keep();
  prompt.focus();
});
find("open-settings").addEventListener("click", () => find("settings").showModal());
find("settings").addEventListener("close", () => {
  keep();
  connect();
});

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: head(find("key").value) });
    if (response.status === 401) throw new Error("the server wants an API key: see Settings");
    model = (await response.json()).data[0] ?? null;
    find("model").textContent = model?.id ?? "no model";
    find("thinking-set").hidden = model?.meta?.thinking !== undefined && model.meta.thinking !== "hybrid";
  } catch (error) {
    find("model").textContent = error.message;
  }
}

recall();
connect();
grow();
