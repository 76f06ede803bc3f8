"use strict";
(() => {
  const rows = document.getElementById("rows");
  const search = document.getElementById("search");
  const compare = document.getElementById("compare");
  const state = document.getElementById("live");
  const all = () => [...rows.querySelectorAll("tr[data-run]")];
  const chosen = () => all().filter((row) => row.querySelector("input").checked);

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of all()) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${all().length} runs`;
    compare.disabled = chosen().length < 2;
  }

  const source = new EventSource("events");
  source.addEventListener("rows", (event) => {
    const kept = new Set(chosen().map((row) => row.dataset.run));
    const focused = document.activeElement?.closest("tr")?.dataset.run;
    const kind = document.activeElement?.tagName;
    rows.innerHTML = JSON.parse(event.data);
    for (const row of all()) {
      row.querySelector("input").checked = kept.has(row.dataset.run);
      if (row.dataset.run === focused) row.querySelector(kind)?.focus();
    }
    filter();
  });
  source.addEventListener("open", () => { state.textContent = "live"; });
  source.addEventListener("error", () => { state.textContent = "the server has ended or cannot be reached"; });
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
  rows.addEventListener("change", filter);
  filter();
  document.documentElement.dataset.ready = "yes";
})();
