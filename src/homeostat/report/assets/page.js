"use strict";
(() => {
  const root = document.documentElement;
  const { timeline, charts, marks } = JSON.parse(document.getElementById("data").textContent);
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

  const axis = (more) => ({
    gridcolor: colour("grid"), linecolor: colour("rule"), zeroline: false, tickfont: { color: colour("soft"), size: 11 },
    automargin: true, ...more,
  });
  const steps = (more) => axis({ range: view ?? [0, marks.last], title: { text: "step", font: { size: 11 }, standoff: 6 }, ...more });
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

  function marked() {
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

  function chosen(chart, index) {
    const pick = document.querySelector(`[data-pick="${index}"]`)?.value ?? "all";
    if (pick === "all") return chart.lines;
    return pick === "worst" ? chart.lines.slice(0, SHOWN) : [chart.lines[Number(pick)]];
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

  function drawChart(box, index) {
    const chart = charts[index];
    const own = chosen(chart, index);
    const many = own.length > 8;
    return Plotly.react(box, [...marked(), ...own.flatMap((line) => series(line, many, chart.lines.length > 1))], layout({
      height: 270, margin: { l: 44, r: 12, t: 26, b: 36 }, hovermode: many ? "closest" : "x",
      xaxis: steps(), yaxis: chart.log ? axis({ type: "log", exponentformat: "power", dtick: Math.max(1, Math.ceil(chart.decades / 6)) }) : axis({ nticks: 7, rangemode: "tozero" }),
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      legend: { orientation: "h", y: -0.22, yanchor: "top", font: { size: 11 }, itemclick: "toggle" },
    }), config);
  }

  function drawTimeline(box) {
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
        base: row.spans.map((span) => span.from), x: row.spans.map((span) => Math.max(span.to - span.from, marks.last / 300)),
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

  const boxes = [...document.querySelectorAll(".plot")];
  const draw = (box) => (box.dataset.chart === undefined ? drawTimeline(box) : drawChart(box, Number(box.dataset.chart)));

  // One zoom for all plots.
  let following = false;
  function follow(box) {
    box.on("plotly_relayout", (event) => {
      const range = event["xaxis.range[0]"] !== undefined ? [event["xaxis.range[0]"], event["xaxis.range[1]"]] : event["xaxis.range"];
      if (following || !(range || event["xaxis.autorange"])) return;
      view = range ?? null;
      following = true;
      Promise.all(boxes.map((other) => Plotly.relayout(other, { "xaxis.range": view ?? [0, marks.last], "xaxis.autorange": false })))
        .finally(() => { following = false; });
    });
  }

  async function start() {
    for (const box of boxes) {
      await draw(box);
      follow(box);
      root.dataset.drawn = Number(root.dataset.drawn ?? 0) + 1;
      await new Promise((next) => setTimeout(next));
    }
    root.dataset.ready = "yes";
  }

  for (const pick of document.querySelectorAll("[data-pick]")) {
    pick.addEventListener("change", () => draw(document.querySelector(`[data-chart="${pick.dataset.pick}"]`)));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => boxes.forEach(draw));
  root.dataset.drawn = 0;
  root.dataset.plots = boxes.length;
  start();
})();
