// Numbers and times as people read them.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A duration: 0.42 ms, 4.2 ms, 42 ms, 420 ms, 4.20 s, 2 min 5 s. */
export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "–";
  const size = Math.abs(ms);
  if (size < 0.005) return "0 ms";
  if (size < 1) return `${ms.toFixed(2)} ms`;
  if (size < 10) return `${ms.toFixed(1)} ms`;
  if (size < 1000) return `${ms.toFixed(0)} ms`;
  if (size < 60_000) return `${(ms / 1000).toFixed(size < 10_000 ? 2 : 1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** An age: 12 s, 4 min, 3 h, 2 d. */
export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** A count: 999, 1,234, 12.3k, 1.20M. */
export function count(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 10_000) return GROUPED.format(value);
  if (value < 1e6) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)}k`;
  return `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)}M`;
}

/** A rate: 0, 0.4, 12.3, 123. */
export function rate(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  return value < 100 ? value.toFixed(1) : count(value);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; 1024 <= value && at < units.length - 1; at++) value /= 1024;
  return `${at === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[at]}`;
}

export function percent(share) {
  if (share === null || !Number.isFinite(share)) return "–";
  return `${(share * 100).toFixed(share !== 0 && share < 0.1 ? 1 : 0)} %`;
}

/** Time of day. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}
