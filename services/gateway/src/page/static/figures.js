// The strip of figures: the service of the last minute, from counters that only grow.

import { byId, el, setAttr, setText } from "./dom.js";
import * as format from "./format.js";
import { drawSpark, makeSpark } from "./spark.js";

const WINDOW_MS = 60_000;

/** States of the last minute, each reduced to the figures that are compared. */
const samples = [];

const FIGURES = [
  { id: "running", name: "In flight", of: (now) => [format.count(now.running), `of ${format.count(now.max)}`], spark: (s) => s.running },
  { id: "requests", name: "Requests/s", of: (now, then) => [format.rate(perSecond(now, then, "answered")), `${format.count(now.answered)} answered`], pace: "answered" },
  { id: "tokens", name: "Output tokens/s", of: (now, then) => [format.rate(perSecond(now, then, "generated")), `${format.count(now.generated)} in all`], pace: "generated" },
  { id: "ttft", name: "TTFT p50", of: (now, then) => quantiles(now, then, "ttft"), quantile: "ttft" },
  { id: "itl", name: "Time per token p50", of: (now, then) => quantiles(now, then, "itl"), quantile: "itl" },
  { id: "cached", name: "Prompt from cache", of: (now, then) => [format.percent(share(now, then)), `${format.count(now.cached)} of ${format.count(now.prompt)} tokens`] },
  { id: "errors", name: "Not answered", of: (now) => [format.count(now.failed), now.failures || "none refused or failed"] },
];

/** Adds a state and shows the figures. */
export function showFigures(state) {
  const now = reduce(state);
  const last = samples.at(-1);
  // A gateway that restarted counts from zero: earlier states cannot be compared.
  if (last && (now.started !== last.started || now.at < last.at)) samples.length = 0;
  samples.push(now);
  while (now.at - samples[0].at > WINDOW_MS) samples.shift();
  const then = samples[0];
  const box = byId("figures");
  if (!box.firstChild) FIGURES.forEach((figure) => box.append(card(figure)));
  for (const figure of FIGURES) {
    const node = byId(`figure-${figure.id}`);
    const [value, note] = figure.of(now, then);
    setText(node.querySelector(".value"), value);
    setText(node.querySelector(".note"), note);
    drawSpark(node, series(figure));
  }
  setAttr(byId("figure-errors"), "data-tone", now.failed ? "bad" : "calm");
}

function card({ id, name }) {
  return el("div", { class: "figure", id: `figure-${id}` }, el("h3", { text: name }), el("p", { class: "value", text: "–" }), el("p", { class: "note" }), makeSpark());
}

function reduce(state) {
  const { requests } = state;
  const statuses = Object.entries(requests.answered);
  const sum = (of) => of.reduce((total, [, value]) => total + value, 0);
  const bad = statuses.filter(([status]) => !/^2/.test(status) && status !== "499");
  return {
    at: state.time_ms,
    started: state.gateway.started_ms,
    running: requests.running,
    max: state.gateway.max_inflight,
    answered: sum(statuses),
    failed: sum(bad),
    failures: bad.map(([status, value]) => `${format.count(value)} × ${status}`).join(", "),
    prompt: requests.prompt_tokens,
    cached: requests.cached_tokens,
    generated: requests.generation_tokens,
    ttft: requests.ttft_s,
    itl: requests.itl_s,
  };
}

function perSecond(now, then, what) {
  const seconds = (now.at - then.at) / 1000;
  return seconds < 0.5 ? null : (now[what] - then[what]) / seconds;
}

/** The share over the last minute; over all time if the last minute has none. */
function share(now, then) {
  const prompt = now.prompt - then.prompt;
  return prompt > 0 ? (now.cached - then.cached) / prompt : now.prompt > 0 ? now.cached / now.prompt : null;
}

function quantiles(now, then, what) {
  const recent = now[what].count - then[what].count > 0;
  const since = recent ? then[what] : null;
  const [p50, p99] = [0.5, 0.99].map((q) => quantile(now[what], since, q));
  const note = now[what].count === 0 ? "none yet" : `p99 ${format.duration(p99)}${recent ? "" : ", since start"}`;
  return [format.duration(p50), note];
}

/** A quantile in ms of the values counted after `then`, linear within its bucket as in Prometheus. */
export function quantile(now, then, q) {
  const before = new Map(then?.buckets ?? []);
  const count = now.count - (then?.count ?? 0);
  if (count <= 0) return null;
  const rank = q * count;
  let [lower, seen] = [0, 0];
  for (const [bound, total] of now.buckets) {
    const upTo = total - (before.get(bound) ?? 0);
    if (rank <= upTo) return 1000 * (lower + ((bound - lower) * (rank - seen)) / Math.max(upTo - seen, 1e-9));
    [lower, seen] = [bound, upTo];
  }
  return 1000 * lower;
}

function series({ pace, quantile: what, spark: value }) {
  if (value) return samples.map(value);
  return samples.slice(1).map((sample, at) => {
    if (pace) return perSecond(sample, samples[at], pace) ?? 0;
    return what ? quantile(sample[what], samples[Math.max(0, at - 4)][what], 0.5) : null;
  });
}
