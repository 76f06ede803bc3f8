"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const live = data.live;
  const charts = new Map(data.charts.map((chart) => [chart.name, chart]));
  let runs = data.runs;
  let onlyLayer = null;
  const coarse = matchMedia("(pointer: coarse)").matches;
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SHOWN = 6;
  const config = {
    displaylogo: false, responsive: true, displayModeBar: coarse ? false : "hover",
    modeBarButtons: [["toImage", "resetScale2d"]],
  };
  // Plotly reads a little HTML in its texts; what a script chose as a name must stay text.
  const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const lines = (text) => safe(text).replace(/\n/g, "<br>");
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const ink = (severity) => colour(severity === "gone" ? "done" : severity);
  let view = null;
  const last = () => Math.max(1, ...runs.map((run) => run.marks.last));

  const axis = (more) => ({
    gridcolor: colour("grid"), linecolor: colour("rule"), zeroline: false, tickfont: { color: colour("soft"), size: 11 },
    automargin: true, ...more,
  });
  const steps = (more) => axis({ range: view ?? [0, last()], title: { text: "step", font: { size: 11 }, standoff: 6 }, ...more });
  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: coarse ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 12 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("link") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("rule"), font: { color: colour("ink") }, align: "left", namelength: -1 },
    ...more,
  });

  const columns = (at, name, dash, width) => ({
    x: at.flatMap((x) => [x, x, null]), y: at.flatMap(() => [0, 1, null]), yaxis: "y2", mode: "lines", type: "scatter",
    line: { color: colour(name), dash, width }, hoverinfo: "skip", showlegend: false,
  });
  const points = (at, texts, y, symbol, name, size) => ({
    x: at, y: at.map(() => y), yaxis: "y2", mode: "markers", type: "scatter", text: texts.map(lines), showlegend: false,
    marker: { symbol, size, color: name }, hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
  });

  // Marks of several runs on one chart would be unreadable; their timelines show them.
  function marked() {
    if (runs.length > 1) return [];
    const { marks } = runs[0];
    const edges = marks.boundaries.map(([step]) => step);
    const found = ["critical", "warning", "info", "gone"].map((severity) => {
      const own = marks.findings.filter((f) => f.severity === severity).map((f) => f.step);
      return columns(own, severity === "gone" ? "done" : severity, severity === "gone" ? "dash" : "solid", 1.5);
    });
    return [
      columns(edges, "edge", "dot", edges.length > 60 ? 0.5 : 1), ...found,
      points(edges, marks.boundaries.map(([, text]) => text), 1, "line-ns", colour("edge"), 7),
      points(marks.findings.map((f) => f.step), marks.findings.map((f) => `step ${f.step}: ${f.text}`), 0.985, "triangle-down",
        marks.findings.map((f) => ink(f.severity)), 10),
      points(marks.journal.map(([step]) => step), marks.journal.map(([, text]) => text), 0.015, "triangle-up", colour("act"), 7),
    ];
  }

  const picked = (name) => (onlyLayer === null ? find("pick", name)?.value ?? "all" : `=${onlyLayer}`);
  const find = (kind, name) => document.querySelector(`[data-${kind}="${CSS.escape(name)}"]`);
  const isOf = (line, layer) => line === layer || line.endsWith(` · ${layer}`);

  function chosen(chart) {
    const pick = picked(chart.name);
    if (pick === "all") return chart.lines;
    if (pick === "worst") return chart.lines.slice(0, SHOWN);
    return chart.lines.filter((line) => isOf(line.layer, pick.slice(1)));
  }

  function series(line, many, several) {
    const base = { name: safe(line.layer), type: "scatter", showlegend: !many && several };
    const stroke = { color: colour(`c${line.colour % 7}`), dash: DASHES[Math.floor(line.colour / 7) % 4], width: many ? 1 : 1.8 };
    const drawn = {
      ...base, x: line.x, y: line.y, line: stroke, connectgaps: false, mode: line.x.length < 40 ? "lines+markers" : "lines",
      marker: { size: 4 }, hovertemplate: "%{y:.4g}",
    };
    const infinite = points(line.infinite, line.infinite.map((s) => `${line.layer} is infinite at step ${s}`), 0.93, "x", stroke.color, 7);
    return line.infinite.length ? [drawn, infinite] : [drawn];
  }

  function drawChart(box) {
    const chart = charts.get(box.dataset.chart);
    if (!chart.lines) return null;
    const own = chosen(chart);
    const many = own.length > 8;
    return Plotly.react(box, [...marked(), ...own.flatMap((line) => series(line, many, chart.layers.length > 1 || runs.length > 1))], layout({
      height: 270, margin: { l: 44, r: 12, t: 26, b: 36 }, hovermode: many ? "closest" : "x",
      xaxis: steps(), yaxis: chart.log ? axis({ type: "log", exponentformat: "power", dtick: Math.max(1, Math.ceil(chart.decades / 6)) }) : axis({ nticks: 7, rangemode: "tozero" }),
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      legend: { orientation: "h", y: -0.22, yanchor: "top", font: { size: 11 }, itemclick: "toggle" },
    }), config);
  }

  function drawTimeline(box) {
    const { timeline } = runs[Number(box.dataset.timeline)];
    box.closest(".card").hidden = timeline.length === 0;
    if (timeline.length === 0) return null;
    const rows = timeline.map((row) => safe(row.label));
    const traces = timeline.flatMap((row) => {
      const y = safe(row.label);
      if (row.kind !== "finding") {
        const boundary = row.kind === "boundary";
        return [{
          x: row.points.map(([step]) => step), y: row.points.map(() => y), text: row.points.map(([, text]) => lines(text)), type: "scatter", mode: "markers",
          marker: { symbol: boundary ? "line-ns-open" : "triangle-up", size: boundary ? 12 : 9, color: colour(boundary ? "soft" : "act"), line: { width: boundary ? 1.5 : 0 } },
          hovertemplate: "%{text}<extra></extra>", showlegend: false,
        }];
      }
      return [{
        type: "bar", orientation: "h", width: 0.42, showlegend: false, y: row.spans.map(() => y), textposition: "none",
        base: row.spans.map((span) => span.from), x: row.spans.map((span) => Math.max(span.to - span.from, last() / 300)),
        marker: { color: row.spans.map((span) => ink(span.severity)) },
        text: row.spans.map((span) => `${lines(span.text)}<br>steps ${span.from} to ${span.to}`), hovertemplate: "%{text}<extra></extra>",
      }];
    });
    const height = 80 + 34 * rows.length;
    box.style.height = `${height}px`;
    return Plotly.react(box, traces, layout({
      height, barmode: "overlay", margin: { l: 20, r: 14, t: 26, b: 36 }, hovermode: "closest", xaxis: steps(),
      yaxis: axis({ type: "category", categoryorder: "array", categoryarray: [...rows].reverse(), range: [-0.6, rows.length - 0.4], fixedrange: true, tickfont: { color: colour("ink"), size: 12 } }),
    }), config);
  }

  const plots = () => [...document.querySelectorAll(".plot")];
  const draw = (box) => (box.dataset.chart === undefined ? drawTimeline(box) : drawChart(box));

  // One zoom for all plots.
  let following = false;
  function follow(box) {
    if (box.dataset.follows || !box.on) return;
    box.dataset.follows = "yes";
    box.on("plotly_relayout", (event) => {
      const range = event["xaxis.range[0]"] !== undefined ? [event["xaxis.range[0]"], event["xaxis.range[1]"]] : event["xaxis.range"];
      if (following || !(range || event["xaxis.autorange"])) return;
      view = range ?? null;
      following = true;
      const others = plots().filter((other) => other.dataset.follows);
      Promise.all(others.map((other) => Plotly.relayout(other, { "xaxis.range": view ?? [0, last()], "xaxis.autorange": false })))
        .finally(() => { following = false; });
    });
  }

  async function show(box) {
    if (box.closest("[hidden]") !== null && box.dataset.timeline === undefined) return;
    const plot = await draw(box);
    if (!plot) return;
    if (!box.dataset.follows) root.dataset.drawn = Number(root.dataset.drawn) + 1;
    follow(box);
  }

  // The live page fetches the values of the charts that are on the screen, and again when the record has grown.
  const stale = new Set();
  const seen = new Set();
  const busy = new Set();

  async function load(box) {
    const name = box.dataset.chart;
    if (busy.has(name)) return;
    busy.add(name);
    stale.delete(name);
    try {
      const answer = await fetch(`${live.chart}&name=${encodeURIComponent(name)}&pick=${encodeURIComponent(picked(name))}`);
      if (!answer.ok) return;
      const { body, html } = await answer.json();
      Object.assign(charts.get(name), body);
      box.setAttribute("aria-label", `${body.reading} Plot of ${name} by step; the values are in the table below.`);
      replace(find("figures", name), html);
      await show(box);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // the server is gone: the line above the title says so
    } finally {
      busy.delete(name);
      if (stale.has(name) && seen.has(box)) load(box);
    }
  }

  function freshen() {
    for (const box of seen) {
      if (box.dataset.chart === undefined) show(box);
      else if (stale.has(box.dataset.chart)) load(box);
    }
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) seen.add(target);
      else seen.delete(target);
    }
    freshen();
  }, { rootMargin: "200px" });

  // New text replaces old without closing what the reader has opened, or taking the keyboard away.
  function replace(part, html) {
    if (part === null) return;
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const scrolled = [...part.querySelectorAll(".scroll, .blocks")].map((one) => one.scrollTop);
    const reach = "a, button, select, summary, [tabindex]";
    const focused = [...part.querySelectorAll(reach)].indexOf(document.activeElement);
    part.innerHTML = html;
    [...part.querySelectorAll("details")].forEach((one, i) => { one.open = open[i] ?? false; });
    [...part.querySelectorAll(".scroll, .blocks")].forEach((one, i) => { one.scrollTop = scrolled[i] ?? 0; });
    if (focused >= 0) part.querySelectorAll(reach)[focused]?.focus();
    press();
  }

  function addCard({ head, html }) {
    charts.set(head.name, head);
    const grid = find("group", head.group);
    grid.insertAdjacentHTML("beforeend", html);
    grid.closest("section").hidden = false;
    grid.closest("section").querySelector("[data-none]")?.remove();
    watcher.observe(grid.lastElementChild.querySelector(".plot"));
  }

  function update(news) {
    runs = news.runs;
    for (const [part, html] of Object.entries(news.parts)) replace(find("part", part), html);
    for (const card of news.cards) {
      if (charts.has(card.head.name)) charts.get(card.head.name).layers = card.head.layers;
      else addCard(card);
    }
    for (const name of charts.keys()) stale.add(name);
    freshen();
    root.dataset.updates = Number(root.dataset.updates ?? 0) + 1;
    root.dataset.step = last();
  }

  function listen() {
    const state = document.getElementById("live");
    const source = new EventSource(live.events);
    source.addEventListener("update", (event) => update(JSON.parse(event.data)));
    source.addEventListener("refused", (event) => { state.textContent = JSON.parse(event.data); });
    source.addEventListener("open", () => { state.textContent = "live"; });
    source.addEventListener("error", () => { state.textContent = "the server has ended or cannot be reached"; });
  }

  // A layer's block shows the vitals of that layer only.
  function press() {
    for (const block of document.querySelectorAll("[data-layer]")) {
      block.setAttribute("aria-pressed", String(block.dataset.layer === onlyLayer));
    }
    document.getElementById("only").hidden = onlyLayer === null;
    document.getElementById("only-layer").textContent = onlyLayer ?? "";
  }

  function choose(layer) {
    onlyLayer = layer;
    root.dataset.only = layer ?? "";
    press();
    for (const [name, chart] of charts) {
      const card = find("card", name);
      card.hidden = layer !== null && !chart.layers.some((line) => isOf(line, layer));
      if (live) stale.add(name);
    }
    if (live) freshen();
    else for (const box of plots()) show(box);
    if (layer !== null) document.getElementById("vitals").scrollIntoView();
  }

  document.addEventListener("click", (event) => {
    const block = event.target.closest("[data-layer]");
    if (block) choose(block.dataset.layer === onlyLayer ? null : block.dataset.layer);
    if (event.target.id === "all-layers") choose(null);
  });
  document.addEventListener("change", (event) => {
    const name = event.target.dataset?.pick;
    if (name === undefined) return;
    const box = find("chart", name);
    if (live) load(box);
    else show(box);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots().forEach(draw));

  async function start() {
    const boxes = plots();
    root.dataset.drawn = 0;
    root.dataset.plots = boxes.filter((box) => box.closest("[hidden]") === null).length;
    if (live) {
      for (const name of charts.keys()) stale.add(name);
      for (const box of boxes) watcher.observe(box);
      listen();
      root.dataset.ready = "yes";
      return;
    }
    for (const box of boxes) {
      await show(box);
      await new Promise((next) => setTimeout(next));
    }
    root.dataset.ready = "yes";
  }

  start();
})();
