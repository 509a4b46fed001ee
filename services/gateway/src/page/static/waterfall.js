// The waterfall of one request: a row per stage, first up to the first token, then the whole.

import { el } from "./dom.js";
import * as format from "./format.js";

/** A description of each stage. */
const MEANING = {
  tokenize: "gateway: chat template and tokenizer",
  admit: "gateway: is there room for it",
  route: "gateway: choice of workers, sending of both legs",
  "prefill.queue": "waiting for prefill's first step",
  "prefill.kv_fetch": "taking the stored prefix",
  "prefill.compute": "computing the rest of the prompt",
  first_token: "from prefill to the client's connection",
  "kv.put": "storing KV blocks",
  "decode.queue": "waiting at decode",
  "decode.kv_pull": "decode takes the prompt's KV blocks",
  "decode.first_step": "decode's first step",
  "decode.generate": "decode's further steps",
  lost_attempt: "an attempt that came to nothing, until the next one was sent",
  stream: "gateway: sending tokens to the client",
};
/** Longest gap that counts as rounding of clocks. */
const GAP_MS = 0.5;
const GAP_SHARE = 0.02;
const ROUNDING_MS = 0.05;

/** The element of the waterfall; null if nothing was measured. `measured` replaces missing stages. */
export function waterfall({ ttft, stages, measured }) {
  if (measured) return measured.ttft === null ? null : fromHere(measured);
  const known = stages.filter((stage) => Number.isFinite(stage.start_ms) && Number.isFinite(stage.duration_ms));
  if (known.length === 0) return null;
  const end = Math.max(...known.map((stage) => stage.start_ms + stage.duration_ms));
  const box = el("div", { class: "waterfall" });
  if (ttft !== null && ttft < end * 0.8) {
    const before = known.filter((stage) => stage.start_ms < ttft && stage.name !== "stream");
    box.append(table(`To the first token: ${format.duration(ttft)}`, before, ttft, null));
    const after = known.filter((stage) => stage.start_ms + stage.duration_ms > ttft + ROUNDING_MS);
    const first = { name: "to the first token", start_ms: 0, duration_ms: ttft, summary: true };
    box.append(table(`The whole request: ${format.duration(end)}`, [first, ...after], end, ttft));
  } else box.append(table(`The whole request: ${format.duration(end)}`, known, end, ttft));
  return box;
}

/** The times that this browser measured, if the gateway sent no stages: a stopped response, say. */
function fromHere({ ttft, total }) {
  const stages = [{ name: "waiting, seen from here", start_ms: 0, duration_ms: ttft }];
  if (ttft < total) stages.push({ name: "streaming, seen from here", start_ms: ttft, duration_ms: total - ttft });
  return el("div", { class: "waterfall" }, table(`Seen from here: ${format.duration(total)}`, stages, total, ttft));
}

function table(caption, stages, end, mark) {
  const rows = [...group(stages), ...gaps(stages, end)].sort((a, b) => a.start - b.start || b.end - a.end);
  const head = el("tr", {}, ...["Stage", "When", "Time"].map((text) => el("th", { scope: "col", text })));
  const columns = el("colgroup", {}, el("col", { class: "stage" }), el("col"), el("col", { class: "time" }));
  return el("table", {}, el("caption", { text: caption }), columns, el("thead", { class: "unseen" }, head), el("tbody", {}, ...rows.map((row) => rowOf(row, end, mark))));
}

/** Groups the spans of one stage, worker and attempt, such as chunks, into a row. */
function group(stages) {
  const rows = new Map();
  for (const stage of stages) {
    const key = `${stage.name} ${stage.worker ?? ""} ${stage.attempt ?? 0}`;
    const from = Math.max(0, stage.start_ms);
    const to = Math.max(from, stage.start_ms + stage.duration_ms);
    const row = rows.get(key) ?? { name: stage.name, worker: stage.worker, attempt: stage.attempt, kind: kindOf(stage), spans: [], start: from, end: to, ms: 0 };
    row.spans.push([from, to]);
    row.start = Math.min(row.start, from);
    row.end = Math.max(row.end, to);
    row.ms += to - from;
    rows.set(key, row);
  }
  return [...rows.values()];
}

/** The times that belong to no stage. */
function gaps(stages, end) {
  const spans = stages.map((stage) => [stage.start_ms, stage.start_ms + stage.duration_ms]).sort((a, b) => a[0] - b[0]);
  const found = [];
  let covered = 0;
  for (const [from, to] of [...spans, [end, end]]) {
    if (Math.max(GAP_MS, end * GAP_SHARE) < from - covered) found.push([covered, Math.min(from, end)]);
    covered = Math.max(covered, to);
  }
  return found.map(([start, to]) => ({ name: "no stage", kind: "gap", spans: [[start, to]], start, end: to, ms: to - start }));
}

function kindOf({ name, summary }) {
  if (summary) return "first";
  if (name === "lost_attempt") return "lost";
  if (name.startsWith("kv.") || name.includes(".kv_")) return "kv";
  if (name.startsWith("prefill")) return "prefill";
  return name.startsWith("decode") ? "decode" : "gateway";
}

function rowOf(row, end, mark) {
  const lane = el("td", { class: "lane" });
  if (mark !== null && mark > 0 && mark < end) {
    const line = el("span", { class: "mark", title: "first token" });
    line.style.left = `${(100 * mark) / end}%`;
    lane.append(line);
  }
  const pieces = row.spans.map(([from, to]) => {
    const piece = el("span", { class: `span ${row.kind}${end + ROUNDING_MS < to ? " cut" : ""}` });
    piece.style.left = `${(100 * Math.min(from, end)) / end}%`;
    piece.style.width = `${(100 * (Math.min(to, end) - Math.min(from, end))) / end}%`;
    return piece;
  });
  lane.append(...pieces, el("span", { class: "unseen", text: `from ${format.duration(row.start)}` }));
  const times = row.spans.length < 2 ? "" : `, in ${row.spans.length} parts`;
  const again = row.attempt ? `, attempt ${row.attempt + 1}` : "";
  const title = `${MEANING[row.name] ?? row.name}${row.worker ? ` (${row.worker})` : ""}${again}: from ${format.duration(row.start)} to ${format.duration(row.end)}${times}`;
  const name = el("th", { scope: "row", title }, row.name);
  if (row.worker) name.append(" ", el("small", { class: "mono", text: row.worker }));
  if (row.attempt) name.append(" ", el("small", { text: `#${row.attempt + 1}` }));
  return el("tr", { title }, name, lane, el("td", { class: "num", text: format.duration(row.ms) }));
}
