// Draws one quantity of every run. All numbers stand in a table of the page too.
/* global d3, Plot */
"use strict";

(() => {
  const { networks, runs, measures } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const place = document.getElementById("drawing");
  const select = document.querySelector("#choice select");

  const labels = [...new Set(measures.map((measure) => measure.label))];
  select.append(
    ...labels.map((label) => {
      const option = document.createElement("option");
      option.textContent = label;
      return option;
    }),
  );
  const first = measures.find((measure) => measure.name === "success");
  if (first) select.value = first.label;

  let drawnAt = 0;

  function draw() {
    const width = Math.floor(place.clientWidth);
    if (width === 0) return;
    drawnAt = width;
    const label = select.value;
    document.getElementById("quantity").textContent = label;
    const rows = measures
      .filter((measure) => measure.label === label)
      .flatMap((measure) =>
        measure.values.flatMap((found, run) => (found ? [{ ...found, run, network: measure.network }] : [])),
      );
    const shown = networks.filter((network) => rows.some((row) => row.network === network));
    const narrow = width < 100 * shown.length;
    const spread = Math.min(48, (0.5 * (width - 70)) / Math.max(1, shown.length));
    const palette = dark.matches ? d3.schemeSet2 : d3.schemeDark2;
    const color = (run) => palette[run % palette.length];
    const plot = Plot.plot({
      width,
      height: 380,
      marginLeft: 56,
      marginRight: 16,
      marginBottom: narrow ? 90 : 34,
      style: { background: "transparent", fontSize: "12px" },
      ariaLabel: `${label} of every network in every run`,
      x: { type: "point", domain: shown, label: null, padding: 0.5, tickRotate: narrow ? -35 : 0 },
      y: { label, grid: true, nice: true, zero: label.endsWith("%") },
      color: { legend: true, domain: runs, range: runs.map((_, run) => color(run)) },
      marks: [
        ...runs.flatMap((_, run) => {
          const own = rows.filter((row) => row.run === run);
          const options = {
            x: "network",
            stroke: color(run),
            dx: runs.length > 1 ? spread * ((run + 0.5) / runs.length - 0.5) : 0,
          };
          return [
            Plot.ruleX(own.filter((row) => row.low !== null), { ...options, y1: "low", y2: "high" }),
            Plot.dot(own, { ...options, y: "value", fill: color(run), r: 4, symbol: (row) => (row.learnt ? "circle" : "times") }),
          ];
        }),
        Plot.tip(
          rows,
          Plot.pointer({
            x: "network",
            y: "value",
            title: (row) =>
              `${runs[row.run]}, ${row.network}\n${row.text}${row.learnt ? "" : "\ndid not learn"}`,
            fill: "var(--card)",
            stroke: "var(--line)",
          }),
        ),
      ],
    });
    const svg = plot.tagName === "svg" ? plot : [...plot.querySelectorAll("svg")].find((s) => s.hasAttribute("aria-label"));
    svg.setAttribute("role", "img");
    for (const part of svg.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    place.replaceChildren(plot);
  }

  select.addEventListener("change", draw);
  dark.addEventListener("change", draw);
  new ResizeObserver(() => {
    if (Math.floor(place.clientWidth) !== drawnAt) draw();
  }).observe(place);
  draw();
  document.documentElement.dataset.ready = "";
})();
