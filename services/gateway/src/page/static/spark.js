// Small line charts of the last minute, newest at the right.

import { setAttr, svg } from "./dom.js";

const WIDTH = 96;
const HEIGHT = 22;
/** One value a second. */
export const VALUES_MAX = 60;

/** An empty line, hidden from screen readers: the figure beside it has the value. */
export function makeSpark() {
  return svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, svg("polyline"));
}

/** Draws values into the line inside `node`; a missing value repeats the one before it. */
export function drawSpark(node, values) {
  setAttr(node.querySelector(".spark polyline"), "points", points(values));
}

function points(values) {
  let last = 0;
  const filled = values.map((value) => (last = value ?? last));
  const top = Math.max(...filled, 0);
  if (filled.length < 2 || top === 0) return "";
  const step = WIDTH / (VALUES_MAX - 1);
  const left = WIDTH - (filled.length - 1) * step;
  const y = (value) => HEIGHT - 1.5 - (value / top) * (HEIGHT - 3);
  return filled.map((value, at) => `${(left + at * step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}
