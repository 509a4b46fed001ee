"use strict";
// Draws the report's charts from the data in the page. Colours follow the theme.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const PALETTES = {
    light: {
      text: "#18202b", soft: "#56616f", line: "#dfe3e9", card: "#ffffff", shade: "rgba(90,100,115,.10)",
      offered: "#7d8896", sent: "#2468d6", completed: "#15784a", failed: "#c62f27", dots: "#2468d6",
      p50: "#174ea6", p90: "#3f83e8", p99: "#8a4fc9", bound: "#b3261e", bar: "#6c9ff0",
      wait: "#b9c1cb", queue: "#e0a100", fetch: "#8a4fc9", prefill: "#2468d6", first: "#2f9fb5", decode: "#1f9d61",
      tokenize: "#5d7fa3", admit: "#c2588a", route: "#6d8b1f",
    },
    dark: {
      text: "#e7ecf3", soft: "#a3afbd", line: "#2a333f", card: "#161c24", shade: "rgba(160,175,195,.10)",
      offered: "#8e9aa9", sent: "#6ea6ff", completed: "#45c78a", failed: "#ff7b70", dots: "#6ea6ff",
      p50: "#a9cbff", p90: "#5f9bff", p99: "#c49bff", bound: "#ff8f86", bar: "#4d80d6",
      wait: "#56616f", queue: "#d9a52b", fetch: "#b389f0", prefill: "#5f9bff", first: "#4fb9cc", decode: "#3fbf80",
      tokenize: "#86a9cf", admit: "#e07fae", route: "#a3c24a",
    },
  };
  const PARTS = {
    wait: "waiting at the client or on the way", queue: "queue and routing", fetch: "stored KV fetched",
    prefill: "prefill", first: "to first token", decode: "decode",
  };
  const STAGES = {
    "client wait": "wait", network: "offered", tokenize: "tokenize", admit: "admit", route: "route",
    "prefill.queue": "queue", "prefill.kv_fetch": "fetch", "prefill.compute": "prefill", first_token: "first",
  };
  const OTHERS = ["#c2588a", "#7a8b2c", "#a86a3d", "#4f6fb0", "#5c9c8f"];
  let colours = PALETTES.light;

  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    return value.toLocaleString("en", { maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3 });
  };
  const axis = (name, more = {}) => ({
    type: "value", name, nameLocation: "middle", nameGap: 28, nameTextStyle: { color: colours.soft },
    axisLabel: { color: colours.soft, hideOverlap: true, formatter: (v) => number(v) },
    axisLine: { lineStyle: { color: colours.line } }, splitLine: { lineStyle: { color: colours.line } }, ...more,
  });
  const tip = (heading, rows) =>
    `<b>${escape(heading)}</b>${rows.map(([name, value]) => `<br>${escape(name)}: ${escape(value)}`).join("")}`;
  const tooltip = (formatter, more = {}) => ({
    confine: true, backgroundColor: colours.card, borderColor: colours.line, textStyle: { color: colours.text, fontSize: 12 }, formatter, ...more,
  });
  const base = () => ({
    animation: false, textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 62, right: 20, top: 34, bottom: 44 },
    legend: { type: "scroll", pageTextStyle: { color: colours.soft }, pageIconColor: colours.soft, pageIconInactiveColor: colours.line, top: 0, textStyle: { color: colours.soft }, inactiveColor: colours.line, icon: "roundRect", itemWidth: 12, itemHeight: 8 },
  });

  // Warm-up, drain and what happened beside the load, on every axis of time.
  const marked = (series) => {
    const { from_s, to_s } = data.window;
    const area = (name, from, to) => [{ name, xAxis: from }, { xAxis: to }];
    const areas = [];
    if (data.window.warmup_requests > 0) areas.push(area("warm-up", data.first_s, from_s));
    if (data.window.measured_requests > 0 && data.last_s > to_s) areas.push(area("drain", to_s, data.last_s));
    series.markArea = { silent: true, itemStyle: { color: colours.shade }, label: { color: colours.soft, position: "insideTop", fontSize: 11 }, data: areas };
    series.markLine = {
      symbol: "none", animation: false, lineStyle: { color: colours.failed, type: "dashed" },
      label: { color: colours.text, position: "insideEndTop", fontSize: 11, formatter: (p) => p.name, overflow: "truncate", width: 180 },
      data: data.marks.map((mark) => ({ xAxis: mark.at_s, name: mark.text })),
    };
    return series;
  };
  const bound = (metric) => {
    const slo = data.slos.find((slo) => slo.metric === metric);
    return slo && { name: `SLO ${number(slo.bound_ms)} ms`, value: slo.bound_ms };
  };
  // Bars do not widen it, so that an instant is at the same place in every chart.
  const time = () => axis("seconds from the start", { min: data.first_s, max: data.last_s, containShape: false });
  const bins = (values, scale = 1) => data.series.from_s.map((from, i) => [from, values[i] === null ? null : values[i] * scale]);
  // A step needs the end of its last bin.
  const steps = (values, scale) => {
    const all = bins(values, scale);
    const last = all[all.length - 1];
    return last ? [...all, [last[0] + data.series.bin_s, last[1]]] : all;
  };
  const line = (name, points, colour, more = {}) => ({
    name, type: "line", data: points, symbol: "none", connectNulls: false, itemStyle: { color: colour }, lineStyle: { color: colour, width: 2 }, ...more,
  });
  const binned = (unit) => tooltip((items) => {
    if (!items.length) return "";
    const from = items[0].data[0];
    const rows = items.filter((item) => item.seriesName && Array.isArray(item.data)).map((item) => [item.seriesName, `${number(item.data[1])} ${unit}`]);
    return tip(`${number(from)} to ${number(from + data.series.bin_s)} s`, rows);
  }, { trigger: "axis" });

  const rates = () => {
    const { series } = data, a_second = 1 / series.bin_s;
    const step = (name, values, colour, more) => line(name, steps(values, a_second), colour, { step: "end", ...more });
    const drawn = [
      marked(step("offered", series.offered, colours.offered, { areaStyle: { opacity: 0.15 }, lineStyle: { color: colours.offered, width: 1 } })),
      step("sent", series.sent, colours.sent, {}),
      step("completed", series.completed, colours.completed, {}),
    ];
    if (series.failed.some((n) => n > 0)) drawn.push(step("failed", series.failed, colours.failed, {}));
    return { ...base(), xAxis: time(), yAxis: axis("requests/s", { nameGap: 44, min: 0 }), tooltip: binned("/s"), series: drawn };
  };
  const flight = () => ({
    ...base(), legend: { show: false }, grid: { left: 62, right: 20, top: 14, bottom: 44 }, xAxis: time(), yAxis: axis("in flight", { nameGap: 44, min: 0, minInterval: 1 }), tooltip: binned("requests at most"),
    series: [marked(line("in flight", steps(data.series.in_flight), colours.sent, { step: "end", areaStyle: { opacity: 0.15 } }))],
  });
  const tokens = () => ({
    ...base(), legend: { show: false }, grid: { left: 62, right: 20, top: 14, bottom: 44 }, xAxis: time(), yAxis: axis("output tokens/s", { nameGap: 44, min: 0 }), tooltip: binned("tokens/s"),
    series: [marked(line("received", steps(data.series.tokens, 1 / data.series.bin_s), colours.completed, { step: "end", areaStyle: { opacity: 0.15 } }))],
  });
  // What the server said of itself: requests on the left axis, KV memory on the right one.
  const server = () => {
    const { samples } = data.server.metrics;
    const points = (name, scale = 1) => samples.map((at) => [at.at_s, at[name] === null ? null : at[name] * scale]);
    const has = (name) => samples.some((at) => at[name] !== null);
    const drawn = [];
    if (has("running")) drawn.push(line("running", points("running"), colours.sent));
    if (has("waiting")) drawn.push(line("queued", points("waiting"), colours.queue));
    if (has("kv_used")) drawn.push(line("KV memory", points("kv_used", 100), colours.fetch, { yAxisIndex: 1 }));
    if (drawn.length) marked(drawn[0]);
    const format = (items) => items.length ? tip(`${number(items[0].data[0])} s`, items.map((item) => [item.seriesName, `${number(item.data[1])}${item.seriesName === "KV memory" ? " %" : ""}`])) : "";
    return {
      ...base(), grid: { left: 62, right: 62, top: 34, bottom: 44 }, xAxis: time(), tooltip: tooltip(format, { trigger: "axis" }), series: drawn,
      yAxis: [axis("requests", { nameGap: 44, min: 0 }), axis("KV memory, %", { nameGap: 36, min: 0, max: 100, splitLine: { show: false } })],
    };
  };
  const over = (metric) => () => {
    const band = data.series[`${metric}_ms`], half = data.series.bin_s / 2;
    const points = (values) => bins(values).map(([at, value]) => [at + half, value]);
    const shown = (name, opacity) => line(name, points(band[name]), colours[name], { symbol: "circle", symbolSize: 4, areaStyle: opacity ? { color: colours[name], opacity } : undefined });
    const values = data.dots[metric];
    const dots = {
      name: data.dots.of > data.dots.at_s.length ? "requests (a sample)" : "requests", type: "scatter", symbolSize: 4,
      data: data.dots.at_s.map((at, i) => [at, values[i]]).filter(([, value]) => value !== null), itemStyle: { color: colours.dots, opacity: 0.28 },
    };
    const slo = bound(metric);
    const limit = slo && {
      name: slo.name, type: "line", data: [[data.first_s, slo.value], [data.last_s, slo.value]], symbol: "none", itemStyle: { color: colours.bound }, lineStyle: { color: colours.bound, type: "dotted", width: 2 },
    };
    const format = (item) => Array.isArray(item.data) ? tip(`${number(item.data[0])} s`, [[item.seriesName, `${number(item.data[1])} ms`]]) : escape(item.name);
    return { ...base(), xAxis: time(), yAxis: axis("ms", { nameGap: 46, min: 0 }), tooltip: tooltip(format), series: [marked(dots), shown("p99", 0.08), shown("p90", 0.08), shown("p50", 0), limit].filter(Boolean) };
  };
  const shape = (metric) => () => {
    const { log, edges_ms, counts, percent, within_ms } = data.shapes[metric];
    const kind = { type: log ? "log" : "value", min: edges_ms[0], max: edges_ms[edges_ms.length - 1] };
    const slo = bound(metric);
    const bars = {
      name: "requests", type: "custom", itemStyle: { color: colours.bar }, encode: { x: [0, 1], y: 2 }, data: counts.map((count, i) => [edges_ms[i], edges_ms[i + 1], count]),
      renderItem: (_, api) => {
        const [left, top] = api.coord([api.value(0), api.value(2)]), [right, bottom] = api.coord([api.value(1), 0]);
        return { type: "rect", shape: { x: left, y: top, width: Math.max(right - left - 1, 1), height: bottom - top }, style: { fill: colours.bar } };
      },
    };
    const curve = line("served within", within_ms.map((value, i) => [value, percent[i]]), colours.p99, { yAxisIndex: 1 });
    if (slo && slo.value >= edges_ms[0] && slo.value <= kind.max) {
      curve.markLine = { symbol: "none", silent: true, lineStyle: { color: colours.bound, type: "dotted", width: 2 }, label: { formatter: slo.name, color: colours.bound, position: "insideEndTop" }, data: [{ xAxis: slo.value }] };
    }
    const format = (item) => item.seriesType === "custom"
      ? tip(`${number(item.data[0])} to ${number(item.data[1])} ms`, [["requests", item.data[2]]])
      : tip(`within ${number(item.data[0])} ms`, [["requests served", `${number(item.data[1])} %`]]);
    return {
      ...base(), grid: { left: 62, right: 56, top: 34, bottom: 44 }, tooltip: tooltip(format), series: [bars, curve], xAxis: axis("ms", { ...kind, splitLine: { show: false } }),
      yAxis: [axis("requests", { nameGap: 44, minInterval: 1 }), axis("% within", { nameGap: 36, min: 0, max: 100, splitLine: { show: false } })],
    };
  };
  // A stage has the same colour in every chart: what has none of its own gets one by its place among the others.
  const stageColours = (names) => {
    const others = names.filter((name) => !STAGES[name]).sort();
    return (name) => (STAGES[name] ? colours[STAGES[name]] : OTHERS[others.indexOf(name) % OTHERS.length]);
  };
  const stages = () => {
    const { names, groups } = data.stages;
    const colour = stageColours(names);
    const format = (items) => tip(`${items[0].name}: ${number(groups[items[0].dataIndex].ttft_ms)} ms`, items.map((item) => [item.seriesName, `${number(item.value)} ms`]));
    return {
      ...base(), grid: { left: 100, right: 24, top: 38, bottom: 44 }, tooltip: tooltip(format, { trigger: "axis", axisPointer: { type: "shadow" } }),
      xAxis: axis("mean ms to the first token"),
      yAxis: { type: "category", inverse: true, data: groups.map((group) => group.name), axisLabel: { color: colours.text }, axisLine: { lineStyle: { color: colours.line } }, axisTick: { show: false } },
      series: names.map((name, i) => ({ name, type: "bar", stack: "ttft", barMaxWidth: 34, itemStyle: { color: colour(name) }, data: groups.map((group) => group.parts_ms[i]) })),
    };
  };
  const stages_time = () => {
    const { names, parts_ms, ttft_ms, requests } = data.series.stages, half = data.series.bin_s / 2;
    const colour = stageColours(names);
    const format = (items) => {
      if (!items.length) return "";
      const place = items[0].dataIndex, from = data.series.from_s[place];
      if (ttft_ms[place] === null) return tip(`${number(from)} to ${number(from + data.series.bin_s)} s`, [["requests", 0]]);
      const parts = names.map((name, i) => [name, `${number(parts_ms[i][place])} ms`]);
      return tip(`${number(from)} to ${number(from + data.series.bin_s)} s`, [["requests", requests[place]], ["TTFT", `${number(ttft_ms[place])} ms`], ...parts]);
    };
    const drawn = names.map((name, i) => ({
      name, type: "bar", stack: "ttft", barWidth: "92%", itemStyle: { color: colour(name) },
      data: data.series.from_s.map((from, place) => [from + half, parts_ms[i][place] ?? 0]),
    }));
    marked(drawn[0]);
    return {
      ...base(), grid: { left: 62, right: 20, top: 38, bottom: 44 }, xAxis: time(), yAxis: axis("mean ms to the first token", { nameGap: 46, min: 0 }),
      tooltip: tooltip(format, { trigger: "axis", axisPointer: { type: "line" } }), series: drawn,
    };
  };
  const cache_time = () => {
    const { infinite, lru, observed } = data.series.cache, half = data.series.bin_s / 2;
    const points = (values) => bins(values, 100).map(([at, value]) => [at + half, value]);
    const same = (values) => values.every((value, i) => value === infinite[i]);
    const small = lru.filter(({ token_hit }) => !same(token_hit)), hues = [colours.p99, colours.queue, colours.first, ...OTHERS];
    const drawn = [
      marked(line("expected, no limit", points(infinite), colours.offered, { symbol: "circle", symbolSize: 4, areaStyle: { opacity: 0.12 } })),
      ...small.map(({ blocks, token_hit }, i) => line(`expected, LRU of ${number(blocks)} blocks`, points(token_hit), hues[i], { symbol: "circle", symbolSize: 3, lineStyle: { color: hues[i], width: 1.5, type: "dashed" } })),
    ];
    if (observed.some((value) => value !== null)) drawn.push(line("observed", points(observed), colours.completed, { symbol: "circle", symbolSize: 5 }));
    const format = (items) => {
      if (!items.length) return "";
      const from = data.series.from_s[items[0].dataIndex];
      return tip(`${number(from)} to ${number(from + data.series.bin_s)} s`, items.map((item) => [item.seriesName, item.data[1] === null ? "–" : `${number(item.data[1])} %`]));
    };
    return { ...base(), xAxis: time(), yAxis: axis("% of prompt tokens", { nameGap: 44, min: 0, max: 100 }), tooltip: tooltip(format, { trigger: "axis" }), series: drawn };
  };
  // Lanes on the run's clock, or each from when it was due: long runs show their requests only so.
  let aligned = data.timeline.lanes.length > 0 && data.last_s - data.first_s > 60 * data.timeline.lanes.reduce((sum, lane) => sum + lane.end_s - lane.at_s, 0) / data.timeline.lanes.length;
  const lanes = () => {
    const rows = data.timeline.lanes, since = (lane, at) => (aligned ? (at - lane.at_s) * 1000 : at);
    const kinds = Object.keys(PARTS).filter((kind) => rows.some((lane) => lane.parts.some((part) => part[0] === kind)));
    const drawn = kinds.map((kind) => ({
      name: PARTS[kind], type: "custom", itemStyle: { color: colours[kind] }, encode: { x: [1, 2], y: 0 }, clip: true,
      data: rows.flatMap((lane, row) => lane.parts.filter((part) => part[0] === kind).map((part) => [row, since(lane, part[1]), since(lane, part[2])])),
      renderItem: (params, api) => {
        const [left, middle] = api.coord([api.value(1), api.value(0)]), [right] = api.coord([api.value(2), api.value(0)]);
        const height = Math.max(api.size([0, 1])[1] * 0.8, 1);
        return { type: "rect", shape: { x: left, y: middle - height / 2, width: Math.max(right - left, 0.6), height }, style: { fill: colours[kind] } };
      },
    }));
    const failed = rows.map((lane, row) => [since(lane, lane.end_s), row, lane.failure]).filter((point) => point[2]);
    if (failed.length) drawn.push({ name: "failed", type: "scatter", symbol: "diamond", symbolSize: 7, data: failed, itemStyle: { color: colours.failed } });
    if (drawn.length && !aligned) marked(drawn[0]);
    const format = (item) => {
      const lane = rows[item.seriesType === "custom" ? item.data[0] : item.data[1]];
      if (!lane) return escape(item.name);
      const parts = lane.parts.map(([kind, from, to]) => [PARTS[kind], `${number((to - from) * 1000)} ms`]);
      return tip(`request ${lane.index}, due at ${number(lane.at_s)} s`, [...parts, ...(lane.failure ? [["failed", lane.failure]] : []), ["trace", lane.trace_id]]);
    };
    return {
      ...base(), grid: { left: 62, right: 20, top: 34, bottom: 74 }, tooltip: tooltip(format), series: drawn,
      xAxis: aligned ? axis("ms since it was due", { min: 0 }) : time(),
      yAxis: axis("requests by arrival", { inverse: true, min: -0.5, max: Math.max(rows.length - 0.5, 0.5), nameGap: 44, splitLine: { show: false }, axisLabel: { show: false } }),
      dataZoom: [{ type: "slider", xAxisIndex: 0, bottom: 6, height: 18, borderColor: colours.line, textStyle: { color: colours.soft }, showDataShadow: false }],
    };
  };
  const search = () => {
    const { asked, probes, low, high } = data.search;
    const judged = { held: colours.completed, missed: colours.failed, invalid: colours.offered };
    const all = [...probes].sort((a, b) => a.rate - b.rate), hues = [colours.sent, colours.p99, ...OTHERS];
    const tried = all.filter((probe) => probe.judgement !== "invalid");
    const drawn = asked.flatMap((requirement, which) => {
      const percent = (probe, end) => 100 * probe.attained[which][end];
      const bars = {
        name: requirement.name, type: "custom", z: 1, itemStyle: { color: hues[which] }, encode: { x: 0, y: [1, 2] }, data: tried.map((probe) => [probe.rate, percent(probe, "low"), percent(probe, "high")]),
        renderItem: (_, api) => {
          const [x, bottom] = api.coord([api.value(0), api.value(1)]), [, top] = api.coord([api.value(0), api.value(2)]);
          const stroke = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: hues[which], lineWidth: 1.5, opacity: 0.7 } });
          return { type: "group", children: [stroke(x, bottom, x, top), stroke(x - 4, bottom, x + 4, bottom), stroke(x - 4, top, x + 4, top)] };
        },
      };
      const points = line(requirement.name, tried.map((probe) => ({ value: [probe.rate, percent(probe, "part")], probe, itemStyle: { color: judged[probe.judgement] } })), hues[which], { symbol: "circle", symbolSize: 9, lineStyle: { color: hues[which], width: 1, opacity: 0.6 } });
      points.markLine = { symbol: "none", silent: true, lineStyle: { color: colours.bound, type: "dotted", width: 2 }, label: { color: colours.bound, position: "insideEndBottom", formatter: `${number(100 * requirement.needed)} % needed` }, data: [{ yAxis: 100 * requirement.needed }] };
      return [bars, points];
    });
    const last = all.length ? all[all.length - 1].rate : 1;
    if (drawn.length && (low !== null || high !== null)) {
      drawn[1].markArea = { silent: true, itemStyle: { color: colours.shade }, label: { color: colours.soft, position: "insideBottom" }, data: [[{ name: "capacity", xAxis: low ?? 0 }, { xAxis: high ?? last }]] };
    }
    const floor = Math.min(...tried.flatMap((probe) => probe.attained.map((a) => a.part)), ...asked.map((r) => r.needed), 1);
    const format = (item) => {
      const probe = item.data.probe;
      if (!probe) return escape(item.seriesName);
      return tip(`${number(probe.rate)} requests/s: ${probe.judgement}${probe.sure ? "" : ", not surely"}`, [["requests", probe.requests], ["TTFT p50", `${number(probe.ttft_ms[0])} ms`], ["TTFT p99", `${number(probe.ttft_ms[1])} ms`], ["why", probe.why]]);
    };
    return {
      ...base(), tooltip: tooltip(format, { extraCssText: "max-width: 420px; white-space: normal" }), xAxis: axis("requests/s offered", { min: 0 }),
      yAxis: axis("% of requests", { nameGap: 44, min: Math.max(0, Math.floor(100 * floor) - 5), max: 100 }), series: drawn,
    };
  };
  const DRAW = { search, rates, flight, tokens, server, ttft_time: over("ttft"), tpot_time: over("tpot"), ttft_shape: shape("ttft"), tpot_shape: shape("tpot"), stages, stages_time, cache_time, lanes };

  const shown = [];
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => shown.find((s) => s.place === entry.target)?.chart.resize()));
  document.querySelectorAll("[data-chart]").forEach((place) => {
    shown.push({ place, chart: charts.init(place, null, { renderer: "svg" }) });
    watch.observe(place);
  });
  const paint = (theme) => {
    root.dataset.theme = theme;
    colours = PALETTES[theme];
    shown.forEach(({ place, chart }) => chart.setOption(DRAW[place.dataset.chart](), { notMerge: true }));
    root.dataset.painted = theme;
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const preferred = () => (dark.matches ? "dark" : "light");
  const button = document.getElementById("theme");
  let chosen = null;
  const show = () => {
    const theme = chosen ?? preferred();
    paint(theme);
    button.textContent = theme === "dark" ? "Light theme" : "Dark theme";
  };
  button.addEventListener("click", () => { chosen = (chosen ?? preferred()) === "dark" ? "light" : "dark"; show(); });
  dark.addEventListener("change", () => { if (chosen === null) show(); });
  button.hidden = false;
  const align = document.getElementById("aligned");
  align?.setAttribute("aria-pressed", aligned);
  align?.addEventListener("click", () => {
    aligned = !aligned;
    align.setAttribute("aria-pressed", aligned);
    shown.filter(({ place }) => place.dataset.chart === "lanes").forEach(({ chart }) => chart.setOption(lanes(), { notMerge: true }));
  });
  show();
})();
