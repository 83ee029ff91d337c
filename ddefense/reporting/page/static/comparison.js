// Draws one quantity of every run.
/* global common, Plot */
"use strict";

(() => {
  const { networks, runs, measures } = common.data;
  const place = document.getElementById("drawing");
  const select = document.querySelector("#choice select");

  const labels = [...new Set(measures.map((measure) => measure.label))];
  select.append(...labels.map((label) => common.element("option", {}, label)));
  const first = measures.find((measure) => measure.name === "success");
  if (first) select.value = first.label;

  function drawn(width) {
    const label = select.value;
    document.getElementById("quantity").textContent = label;
    const rows = measures
      .filter((measure) => measure.label === label)
      .flatMap((measure) =>
        measure.values.flatMap((found, run) => (found ? [{ ...found, run, network: measure.network }] : [])),
      );
    const shown = networks.filter((network) => rows.some((row) => row.network === network));
    const room = common.spread(width, shown.length);
    const colors = common.colors(runs.length);
    return Plot.plot({
      ...common.frame(width, shown.length, 380),
      ariaLabel: `${label} of every network in every run`,
      x: common.axis(width, shown),
      y: { label, grid: true, nice: true, zero: label.endsWith("%") },
      color: { legend: true, domain: runs, range: colors },
      marks: [
        ...runs.flatMap((_, run) => {
          const own = rows.filter((row) => row.run === run);
          const options = { x: "network", stroke: colors[run], dx: common.beside(run, runs.length, room) };
          return [
            Plot.ruleX(own.filter((row) => row.low !== null), { ...options, y1: "low", y2: "high" }),
            Plot.dot(own, { ...options, y: "value", fill: colors[run], r: 4, symbol: (row) => common.symbol(row.learnt) }),
          ];
        }),
        common.tip(
          rows,
          "network",
          "value",
          (row) => `${runs[row.run]}, ${row.network}\n${row.text}${row.learnt ? "" : "\ndid not learn"}`,
        ),
      ],
    });
  }

  const draw = () => common.draw(place, drawn);
  select.addEventListener("change", draw);
  common.follow([place], draw);
  document.documentElement.dataset.ready = "";
})();
