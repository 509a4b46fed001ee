// One response: its text as it arrives, its figures, and the waterfall under it.

import { el, setText, webAddress } from "./dom.js";
import * as format from "./format.js";
import { waterfall } from "./waterfall.js";

function randomHex(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An empty response with the id of its trace; calls `onDrawn` after it grew. */
export function makeAnswer(links, onDrawn) {
  const traceId = randomHex(16);
  const text = el("p", { class: "text" });
  const note = el("p", { class: "took" });
  const below = el("div", { class: "below" });
  const node = el("article", { class: "turn model", data: { state: "waiting" } }, el("h3", { class: "unseen", text: "Answer" }), text, note, below);
  const clock = { sent: 0, first: null, last: null };
  const got = { content: "", tokens: 0, usage: null, timings: null, finish: null };
  let [drawn, frame] = [0, 0];

  /** Draws the new text: once a frame, however fast the tokens are. */
  function draw() {
    frame = 0;
    if (drawn < got.content.length) {
      text.append(got.content.slice(drawn));
      drawn = got.content.length;
      node.dataset.state = "writing";
    }
    setText(note, got.tokens ? took() : "");
    onDrawn();
  }

  function chunk(data) {
    const choice = data.choices?.[0];
    const piece = choice?.delta?.content;
    if (typeof piece === "string" && !choice.delta.role) {
      clock.last = performance.now();
      clock.first ??= clock.last;
      got.tokens += 1;
      got.content += piece;
    }
    got.finish = choice?.finish_reason ?? got.finish;
    got.usage = data.usage ?? got.usage;
    got.timings = data.timings ?? got.timings;
    frame ||= requestAnimationFrame(draw);
  }

  const ttft = () => (clock.first === null ? null : clock.first - clock.sent);

  function took() {
    const tokens = got.usage?.completion_tokens ?? got.tokens;
    const parts = [`${format.count(tokens)} tokens`];
    const seconds = (clock.last - clock.first) / 1000;
    if (got.tokens > 2 && seconds > 0) parts.push(`${format.rate((got.tokens - 1) / seconds)} tokens/s`);
    if (ttft() !== null) parts.push(`TTFT ${format.duration(ttft())} here${got.timings ? `, ${format.duration(got.timings.ttft_ms)} at the gateway` : ""}`);
    const cached = got.usage?.prompt_tokens_details?.cached_tokens;
    if (got.usage) parts.push(`prompt ${format.count(got.usage.prompt_tokens)}${cached ? `, ${format.count(cached)} from cache` : ""}`);
    if (got.finish === "length") parts.push("cut at max tokens");
    return parts.join(" · ");
  }

  /** Shows the figures of a response that has ended. */
  function close(state) {
    cancelAnimationFrame(frame);
    draw();
    text.normalize();
    node.dataset.state = state;
    const stages = got.timings?.stages ?? [];
    const measured = stages.length ? null : { ttft: ttft(), total: clock.last === null ? null : clock.last - clock.sent };
    const view = waterfall({ ttft: got.timings?.ttft_ms ?? null, stages, measured });
    below.replaceChildren(...(view ? [view] : []), traceLine());
    onDrawn();
  }

  function traceLine() {
    const address = webAddress(links.jaeger, `/trace/${traceId}`);
    const line = el("p", { class: "trace" }, el("span", { text: "Trace " }), el("code", { class: "mono", text: traceId }));
    if (address !== null) line.append(" ", el("a", { href: address, target: "_blank", rel: "noopener noreferrer", text: "open in Jaeger" }));
    return line;
  }

  return {
    node,
    traceId,
    traceparent: `00-${traceId}-${randomHex(8)}-01`,
    text: () => got.content,
    sent: () => (clock.sent = performance.now()),
    chunk,
    ended: () => close("done"),
    stopped() {
      close("stopped");
      below.prepend(el("p", { class: "stopped", text: got.content ? "Stopped." : "Stopped before the first token." }));
    },
    failed(message) {
      close("failed");
      below.prepend(el("p", { class: "error", role: "alert", text: message }));
    },
    summary() {
      const word = { done: "Answer complete", stopped: "Answer stopped", failed: "The answer failed" }[node.dataset.state];
      return `${word}. ${got.content.slice(0, 2000)} ${note.textContent}`;
    },
  };
}
