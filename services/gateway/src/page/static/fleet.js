// The fleet: the workers, prefill and decode compared, the store, and recent changes.

import { byId, el, keyed, setAttr, setText } from "./dom.js";
import * as format from "./format.js";
import { VALUES_MAX, drawSpark, makeSpark } from "./spark.js";

const ROLES = ["prefill", "decode"];
/** The time of a new request in each role over the last minute, to compare the two. */
const felt = { prefill: [], decode: [] };
/** Age of a stale presence: workers publish theirs every second and are gone after three. */
const STALE_MS = 2500;

/** Orders of the table: by role and name, or by a figure, largest first. */
const ORDERS = {
  role: byRole,
  running: most((worker) => worker.running_sequences),
  queued: most((worker) => worker.queued_sequences + worker.queued_tokens / 1e6),
  pages: most((worker) => worker.pool.leased / worker.pool.total),
};
let order = "role";
let latest = null;

function byRole(a, b) {
  return ROLES.indexOf(a.role) - ROLES.indexOf(b.role) || a.worker.localeCompare(b.worker, "en", { numeric: true });
}

function most(of) {
  return (a, b) => of(b) - of(a) || byRole(a, b);
}

/** Makes the column heads choose the order of the table. */
export function startFleet() {
  for (const button of document.querySelectorAll(".fleet .sort")) {
    button.addEventListener("click", () => {
      order = button.dataset.by;
      for (const other of document.querySelectorAll(".fleet .sort")) {
        const here = other === button && order !== "role";
        if (here) other.parentElement.setAttribute("aria-sort", "descending");
        else other.parentElement.removeAttribute("aria-sort");
      }
      if (latest) showFleet(latest);
    });
  }
}

/** Shows one state of `/fleet`. */
export function showFleet(state) {
  if (latest?.time_ms !== state.time_ms) ROLES.forEach((role) => noteFelt(role, state.roles[role]));
  latest = state;
  const { workers } = state;
  const ready = workers.filter((worker) => worker.state === "ready").length;
  setText(byId("fleet-count"), workers.length ? `${ready} of ${workers.length} ready` : "");
  showEmpty(state);
  byId("fleet-scroll").hidden = workers.length === 0;
  byId("balance").hidden = workers.length === 0;
  byId("legend").hidden = workers.length === 0;
  ROLES.forEach((role) => showBalance(role, state.roles[role]));
  const sorted = [...workers].sort(ORDERS[order]);
  keyed(byId("workers"), sorted, (worker) => worker.worker, makeRow, updateRow);
  showStore(state);
  showChanges(state.changes);
}

/** The hint for a fleet without workers: the reason, and the command that starts one. */
function showEmpty(state) {
  const box = byId("empty");
  const none = state.workers.length === 0;
  const unseen = state.unseen;
  box.hidden = !none && !unseen;
  const text = unseen ? `Workers are not seen: ${unseen}` : state.strangers ? `No worker serves this gateway's model; ${state.strangers} serve another.` : "No worker is there yet.";
  if (box.dataset.shown === text || box.hidden) return;
  box.dataset.shown = text;
  box.replaceChildren(el("p", { text }));
  if (none && !unseen) {
    box.append(
      el("p", { text: "Start one of each beside this gateway, with the same --nats and --model:" }),
      el("pre", { text: "tandem prefill --nats nats://HOST:4222\ntandem decode  --nats nats://HOST:4222" }),
      el("p", { text: "or everything at once: tandem up" }),
    );
  }
}

/** The time of a new request: the backlog at prefill, a token at decode. */
function feelMs(role, sums) {
  return role === "prefill" ? sums.backlog_ms : sums.step_ms;
}

function noteFelt(role, sums) {
  felt[role] = [...felt[role], feelMs(role, sums)].slice(-VALUES_MAX);
}

/** One line per role: its load, and the time of a new request there. */
function showBalance(role, sums) {
  const box = byId("balance");
  let node = box.querySelector(`[data-role="${role}"]`);
  if (!node) {
    node = el("div", { class: "side", data: { role } }, el("h3", { text: role === "prefill" ? "Prefill" : "Decode" }), makeSpark(), el("p", { class: "feel" }), el("p", { class: "load" }), bar(["leased", "cached"]));
    box.append(node);
  }
  const what = role === "prefill" ? "backlog" : "per token";
  setText(node.querySelector(".feel"), sums.ready ? `${format.duration(feelMs(role, sums))} ${what}` : "nobody ready");
  drawSpark(node, felt[role]);
  const load = role === "prefill" ? `${format.count(sums.queued_sequences)} queued, ${format.count(sums.queued_tokens)} tokens` : `${format.count(sums.running_sequences)} running of ${format.count(sums.sequences_max)}, ${format.count(sums.queued_sequences)} queued`;
  setText(node.querySelector(".load"), `${format.count(sums.workers)} ${sums.workers === 1 ? "worker" : "workers"} · ${load}`);
  const pages = `KV ${format.percent(sums.pages_leased / sums.pages_total)} in use`;
  fillBar(node.querySelector(".bar"), { leased: sums.pages_leased, cached: sums.pages_cached }, sums.pages_total, pages);
}

function bar(parts) {
  return el("span", { class: "bar", role: "img" }, ...parts.map((part) => el("span", { class: `part ${part}` })));
}

function fillBar(node, parts, total, label) {
  setAttr(node, "aria-label", label);
  setAttr(node, "title", label);
  for (const [part, value] of Object.entries(parts)) {
    const width = `${total ? ((100 * value) / total).toFixed(1) : 0}%`;
    const box = node.querySelector(`.${part}`);
    if (box.style.width !== width) box.style.width = width;
  }
}

function makeRow() {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, el("span", { class: "name mono" }), el("span", { class: "role" })),
    el("td", {}, el("span", { class: "pill state" })),
    el("td", { class: "measure" }, bar(["running"]), el("span", { class: "running-text num" })),
    el("td", { class: "num queued" }),
    el("td", { class: "measure" }, bar(["leased", "cached"]), el("span", { class: "pages-text num" })),
    el("td", { class: "num prefill-speed" }),
    el("td", { class: "num step-speed" }),
    el("td", { class: "device" }),
  );
}

const TONES = { ready: "good", draining: "wait", "not ready": "wait", stale: "bad" };

function updateRow(row, worker) {
  const text = (selector, value) => setText(row.querySelector(selector), value);
  setAttr(row, "data-role", worker.role);
  text(".name", worker.worker);
  setAttr(row.querySelector("th"), "title", `up ${format.age(Date.now() - worker.started_ms)}, heard ${format.duration(worker.age_ms)} ago, ${format.percent(worker.prefill_share)} of a step open to prefill, on ${worker.device}`);
  text(".role", roleText(worker));
  const state = worker.age_ms > STALE_MS ? "stale" : worker.state;
  const pill = row.querySelector(".state");
  setText(pill, state);
  setAttr(pill, "data-tone", TONES[state] ?? "wait");
  const running = `${worker.running_sequences} / ${worker.sequences_max}`;
  text(".running-text", running);
  const bars = row.querySelectorAll(".bar");
  fillBar(bars[0], { running: worker.running_sequences }, worker.sequences_max, `${running} running`);
  const tokens = worker.queued_tokens ? ` (${format.count(worker.queued_tokens)} tok)` : "";
  text(".queued", format.count(worker.queued_sequences) + tokens);
  const { pool, speed } = worker;
  const leaked = pool.leaked ? `, ${pool.leaked} leaked` : "";
  text(".pages-text", `${format.count(pool.leased)} / ${format.count(pool.total)}${leaked}`);
  fillBar(bars[1], { leased: pool.leased, cached: pool.cached }, pool.total, `${pool.leased} pages in use, ${pool.cached} cached, ${pool.free} free${leaked}`);
  const perToken = speed.prefill_token_us;
  text(".prefill-speed", perToken ? `${format.count(1e6 / perToken)} tok/s` : "–");
  text(".step-speed", format.duration(speed.step_ms));
  text(".device", worker.device);
}

/** The role, with the prefill share if that is neither 0 nor 1. */
function roleText({ role, prefill_share: share }) {
  const usual = role === "prefill" ? 1 : 0;
  return Math.abs(share - usual) < 0.005 ? role : `${role} · ${format.percent(share)} prefill`;
}

function showStore({ store, requests }) {
  const facts = store.error
    ? [["State", store.error]]
    : [
        ["State", store.caught_up ? "ready" : "reads what is stored"],
        ["Blocks", `${format.count(store.blocks)} (16 tokens each)`],
        ["Size", format.bytes(store.bytes)],
        ["Leased", `${format.count(store.leased)} blocks`],
        ["Evicted", `${format.count(store.evicted)} blocks`],
      ];
  const reused = requests.prompt_tokens ? requests.cached_tokens / requests.prompt_tokens : null;
  facts.push(["Reused", reused === null ? "no prompt yet" : `${format.percent(reused)} of all prompt tokens`]);
  keyed(
    byId("store"),
    facts,
    ([name]) => name,
    ([name]) => el("div", {}, el("dt", { text: name }), el("dd")),
    (node, [, value]) => setText(node.querySelector("dd"), value),
  );
}

function showChanges(changes) {
  const newest = [...changes].reverse();
  const list = byId("changes");
  if (newest.length === 0) {
    if (!list.querySelector("[data-key=none]")) list.replaceChildren(el("li", { class: "none", text: "Nothing yet.", data: { key: "none" } }));
    return;
  }
  const keys = new Map();
  const keyOf = (change) => `${change.at_ms} ${change.worker} ${change.what}`;
  newest.forEach((change) => keys.set(keyOf(change), change));
  keyed(
    list,
    [...keys.values()],
    keyOf,
    (change) => el("li", {}, el("time", { text: format.clock(change.at_ms) }), el("span", { class: "mono", text: change.worker }), el("span", { class: "what", text: said(change), data: { what: change.what } })),
    () => {},
  );
}

function said({ what, from, to }) {
  switch (what) {
    case "up":
      return `is up as ${to}`;
    case "role":
      return `${from} → ${to}`;
    case "share":
      return `prefill share ${format.percent(from)} → ${format.percent(to)}`;
    case "gone":
      return "is gone";
    case "restarted":
      return "was restarted";
    default:
      return `is ${what}`;
  }
}
