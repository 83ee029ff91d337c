// What the scripts of all pages share. Every number of a plot stands in a table of the page too,
// which is what readers without a pointer, a screen or JavaScript have.
/* global d3, Plot */
"use strict";

const common = (() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const data = JSON.parse(document.getElementById("data").textContent);
  const NARROW = 90;

  // Networks side by side; their names lean where there is no room.
  const frame = (width, number, height = 320) => ({
    width,
    height,
    marginLeft: 56,
    marginBottom: width < NARROW * number ? 90 : 34,
    marginRight: 16,
    style: { background: "transparent", fontSize: "12px" },
  });
  const axis = (width, domain, tickFormat) => ({
    type: "point",
    domain,
    tickFormat,
    tickRotate: width < NARROW * domain.length ? -35 : 0,
    label: null,
    padding: 0.5,
  });
  // How far what belongs to one network spreads, and where the index-th of so many things stands.
  const spread = (width, number) => Math.min(60, (0.55 * (width - 70)) / Math.max(1, number));
  const beside = (index, many, room) => (many > 1 ? room * ((index + 0.5) / many - 0.5) : 0);
  // Colours that are made for paper are too dark on a dark screen.
  // The style of a swatch in the legend says the same.
  const onScreen = (color) => (dark.matches ? d3.interpolateRgb(color, "#ffffff")(0.4) : color);
  // As many colours as there are series: no two may look the same.
  const colors = (number) =>
    number <= d3.schemeDark2.length
      ? (dark.matches ? d3.schemeSet2 : d3.schemeDark2).slice(0, number)
      : d3.quantize((share) => d3.interpolateTurbo(0.05 + 0.9 * share), number).map(onScreen);
  const symbol = (learnt) => (learnt ? "circle" : "times");
  const tip = (rows, x, y, title) =>
    Plot.tip(rows, Plot.pointer({ x, y, title, fill: "var(--card)", stroke: "var(--line)" }));

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== false && value !== undefined) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  };

  function draw(place, drawer) {
    const width = Math.floor(place.clientWidth);
    if (width === 0) return;
    place.dataset.width = width;
    const plot = drawer(width);
    const svg = plot.tagName === "svg" ? plot : [...plot.querySelectorAll("svg")].find((s) => s.hasAttribute("aria-label"));
    svg.setAttribute("role", "img");
    // Parts of a picture have no names of their own.
    for (const part of svg.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    place.replaceChildren(plot);
  }

  // Draws a place again whenever its width or the colours change.
  function follow(places, redraw) {
    const observer = new ResizeObserver((changes) => {
      for (const { target } of changes) {
        if (String(Math.floor(target.clientWidth)) !== target.dataset.width) redraw(target);
      }
    });
    places.forEach((place) => observer.observe(place));
    dark.addEventListener("change", () => places.forEach(redraw));
    places.forEach(redraw);
  }

  // What needs this script is not there for readers without it.
  for (const hidden of document.querySelectorAll("[data-scripted]")) hidden.hidden = false;

  // What is folded would not be printed.
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    for (const details of unfolded) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of unfolded) details.open = false;
  });

  return { axis, beside, colors, dark, data, draw, element, follow, frame, onScreen, spread, symbol, tip };
})();
