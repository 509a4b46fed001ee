// The chat: sends the conversation, reads the streamed response, and can stop it.

import { makeAnswer } from "./answer.js";
import { byId, el } from "./dom.js";

const EXAMPLES = ["Who are you?", "Explain what a KV cache is, in two sentences.", "Write a short poem about two cyclists."];
/** Silence of the server after which the response is cancelled. */
const SILENCE_MAX_MS = 130_000;
/** Distance from the end of the conversation that counts as its end. */
const AT_END_PX = 40;

/** Connects the chat to its elements; `learn(state)` passes it the state of the gateway. */
export function startChat() {
  const parts = Object.fromEntries(["ask", "prompt", "send", "stop", "clear", "talk", "hint", "examples", "said", "temperature", "max-tokens"].map((id) => [id, byId(id)]));
  const chat = { parts, messages: [], model: null, links: { jaeger: "" }, running: null, atEnd: true };
  parts.ask.addEventListener("submit", (event) => {
    event.preventDefault();
    send(chat, parts.prompt.value);
  });
  parts.prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send(chat, parts.prompt.value);
  });
  parts.prompt.addEventListener("input", () => grow(parts.prompt));
  parts.stop.addEventListener("click", () => chat.running?.abort("stopped"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") chat.running?.abort("stopped");
  });
  parts.talk.addEventListener("scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = parts.talk;
    chat.atEnd = scrollHeight - scrollTop - clientHeight < AT_END_PX;
  });
  parts.clear.addEventListener("click", () => forget(chat));
  for (const example of EXAMPLES) {
    const button = el("button", { type: "button", class: "quiet", text: example });
    button.addEventListener("click", () => send(chat, example));
    parts.examples.append(button);
  }
  return {
    learn(state) {
      chat.model = state.gateway.model;
      chat.links = state.links;
      parts["max-tokens"].max = state.gateway.context_tokens;
    },
  };
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 220)}px`;
}

function forget(chat) {
  chat.running?.abort("stopped");
  chat.messages = [];
  chat.parts.talk.replaceChildren(chat.parts.hint);
  chat.parts.hint.hidden = false;
  chat.parts.clear.disabled = true;
  chat.parts.prompt.focus();
}

async function send(chat, text) {
  const { parts } = chat;
  if (chat.running || text.trim() === "") return;
  if (!parts.ask.reportValidity()) return;
  parts.prompt.value = "";
  grow(parts.prompt);
  // The clicked example is about to disappear, and the focus with it.
  if (parts.hint.contains(document.activeElement)) parts.prompt.focus();
  parts.hint.hidden = true;
  parts.clear.disabled = false;
  const question = { role: "user", content: text };
  parts.talk.append(el("article", { class: "turn user" }, el("h3", { class: "unseen", text: "You" }), el("p", { class: "text", text })));
  const answer = makeAnswer(chat.links, () => follow(chat));
  parts.talk.append(answer.node);
  chat.atEnd = true;
  follow(chat);
  const running = new AbortController();
  busy(chat, running);
  const messages = chat.messages;
  messages.push(question);
  try {
    await ask(chat, answer, running);
  } catch (error) {
    if (running.signal.reason === "stopped") answer.stopped();
    else answer.failed(inWords(error, running.signal));
  }
  // A message without a response is no part of the conversation; neither is a cleared one.
  if (answer.text() === "") messages.pop();
  else messages.push({ role: "assistant", content: answer.text() });
  busy(chat, null);
  parts.said.textContent = answer.summary();
}

function busy(chat, running) {
  chat.running = running;
  const { parts } = chat;
  const hadFocus = document.activeElement === parts.stop;
  parts.stop.hidden = running === null;
  parts.send.disabled = running !== null;
  parts.talk.setAttribute("aria-busy", running !== null);
  if (running) parts.said.textContent = "The answer is being written.";
  else if (hadFocus) parts.prompt.focus();
}

/** A message to the reader. */
function inWords(error, signal) {
  if (signal.reason === "silent") return `The gateway said nothing for ${SILENCE_MAX_MS / 1000} s.`;
  return error instanceof TypeError ? "The gateway cannot be reached, or the connection broke." : error.message;
}

async function ask(chat, answer, running) {
  const { parts } = chat;
  let silence = 0;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => running.abort("silent"), SILENCE_MAX_MS);
  };
  const body = {
    model: chat.model ?? undefined,
    messages: chat.messages,
    stream: true,
    stream_options: { include_usage: true },
    temperature: parts.temperature.valueAsNumber,
    max_tokens: parts["max-tokens"].valueAsNumber,
  };
  if (!Number.isFinite(body.temperature)) delete body.temperature;
  if (!Number.isFinite(body.max_tokens)) delete body.max_tokens;
  try {
    heard();
    answer.sent();
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", "x-tandem-timings": "stages", traceparent: answer.traceparent, "x-request-id": answer.traceId },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const data of events(response.body, heard)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      answer.chunk(chunk);
    }
    answer.ended();
  } finally {
    clearTimeout(silence);
  }
}

/** The gateway's reason for refusing a request. */
async function refusal(response) {
  const text = await response.text();
  let message = text.slice(0, 300);
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // Perhaps a proxy's page: its beginning must do.
  }
  const later = response.headers.get("retry-after");
  return `${message} (${response.status}${later ? `, try again in ${later} s` : ""})`;
}

/** The data of each server-sent event. */
async function* events(stream, heard) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}

/** Keeps the end in view, unless the reader has scrolled back. */
function follow(chat) {
  if (chat.atEnd) chat.parts.talk.scrollTop = chat.parts.talk.scrollHeight;
}
