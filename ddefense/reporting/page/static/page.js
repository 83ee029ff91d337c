// Draws the plots and the samples of a run from the JSON in the page.
/* global common, d3, Plot */
"use strict";

(() => {
  const started = performance.now();
  const { beside, data, element, onScreen, tip } = common;
  const { networks, attacks } = data;
  const attackNamed = new Map(attacks.map((attack) => [attack.name, attack]));
  // TensorFlow makes 0 of what is smaller.
  const SMALLEST_FLOAT32 = Math.log10(2 ** -126);

  const percent = (value, digits = 1) => `${value.toFixed(digits)} %`;

  // --- plots -------------------------------------------------------------------------------------

  const label = (place) => networks[place].label;
  const networkAxis = (width) => common.axis(width, d3.range(networks.length), label);
  const frame = (width, height) => common.frame(width, networks.length, height);
  const percentAxis = (name, domain = [0, 100]) => ({ label: `${name}, %`, domain, grid: true });
  const symbol = (place) => common.symbol(networks[place].learnt);

  let shown = new Set(attacks.filter((attack) => attack.shown).map((attack) => attack.name));

  const lines = (rows, value, room, extra) => {
    // One line for each attack; those on one network stand side by side, or they would hide.
    const names = [...new Set(rows.map((row) => row.attack))];
    return names.flatMap((name, index) => {
      const attack = attackNamed.get(name);
      const stroke = onScreen(attack.color);
      const dx = beside(index, names.length, room);
      const own = rows.filter((row) => row.attack === name);
      const options = { x: "network", dx, stroke };
      return [
        ...extra(own, options),
        Plot.line(
          own.filter((row) => networks[row.network].distilled && networks[row.network].learnt),
          { ...options, y: value, strokeDasharray: attack.softmax ? "5,4" : null, strokeWidth: 1.8 },
        ),
        Plot.dot(own, { ...options, y: value, fill: stroke, r: 3.5, symbol: (row) => symbol(row.network) }),
      ];
    });
  };
  const roomOf = (width) => common.spread(width, networks.length);

  const drawers = {
    success(width) {
      const rows = data.success.filter((row) => shown.has(row.attack));
      return Plot.plot({
        ...frame(width, 400),
        ariaLabel: "Adversarial success rate of every attack on every network",
        x: networkAxis(width),
        y: percentAxis("adversarial success rate"),
        marks: [
          Plot.ruleY([0]),
          ...lines(rows, "percent", roomOf(width), (own, options) => [
            Plot.ruleX(own, { ...options, y1: "low", y2: "high", strokeOpacity: 0.45, strokeWidth: 1.5 }),
          ]),
          tip(rows, "network", "percent", (row) => {
            const attack = attackNamed.get(row.attack);
            const distance = row.distance === null ? "" : `\nmean ${attack.norm} distance ${row.distance.toPrecision(3)}`;
            return (
              `${attack.label}\n${label(row.network)}: ${percent(row.percent)}` +
              ` [${row.low.toFixed(1)}, ${row.high.toFixed(1)}] of ${row.attempts}${distance}` +
              (row.started ? `\n${row.started} started there, left out` : "")
            );
          }),
        ],
      });
    },

    accuracy(width) {
      return byKind(width, data.accuracy, "Test accuracy of every network", (row) => row.percent, {
        y: { label: "test accuracy, %", grid: true, nice: true },
        title: (row) => `${label(row.network)}, ${row.which}\n${percent(row.percent, 2)}`,
      });
    },

    amplitude(width) {
      return byKind(width, data.amplitude, "Amplitude of adversarial gradients", (row) => row.median, {
        y: { label: "log10 of mean |dF/dx|", grid: true, nice: true },
        title: (row) =>
          `${label(row.network)}, ${row.which}\nmedian ${row.median.toFixed(1)}, 90 % in ` +
          `[${row.low.toFixed(1)}, ${row.high.toFixed(1)}]\n` +
          `float32 sees nothing but 0 in ${percent(row.zero)} of the images`,
        more: (rows, options) => [
          Plot.ruleX(rows, { ...options, y1: "low", y2: "high" }),
          Plot.ruleX(rows, { ...options, y1: "lower", y2: "upper", strokeWidth: 5 }),
        ],
        marks: data.amplitude.some((row) => row.low < SMALLEST_FLOAT32)
          ? [
              Plot.ruleY([SMALLEST_FLOAT32], { strokeDasharray: "2,3" }),
              Plot.text([SMALLEST_FLOAT32], { y: (y) => y, text: () => "smallest normal float32", frameAnchor: "left", dx: 4, dy: 9 }),
            ]
          : [],
      });
    },

    robustness(width) {
      const rows = data.robustness;
      const cap = rows.length ? rows[0].cap : 0;
      const names = [...new Set(rows.map((row) => row.attack))].map((name) => attackNamed.get(name));
      return Plot.plot({
        ...frame(width),
        ariaLabel: "Robustness of every network under every reading of JSMA",
        x: networkAxis(width),
        y: { label: "robustness: features to change, %", domain: [0, 1.05 * cap], grid: true },
        color: { legend: true, domain: names.map((a) => a.label), range: names.map((a) => onScreen(a.color)) },
        marks: [
          Plot.ruleY([0]),
          Plot.ruleY([cap], { strokeDasharray: "2,3" }),
          ...lines(rows, "percent", roomOf(width), () => []),
          tip(rows, "network", "percent", (row) => `${attackNamed.get(row.attack).label}\n${label(row.network)}: ${percent(row.percent, 2)}`),
        ],
      });
    },

    confidence(width) {
      const rows = data.confidence.map((row) => ({ ...row, which: "deployed at T = 1" }));
      return byKind(width, rows, "Confidence of every network", (row) => row.percent, {
        y: { label: "confidence, %", grid: true, nice: true },
        title: (row) => `${label(row.network)}\n${percent(row.percent, 2)}`,
      });
    },

    loss: (width) => epochs(width, "loss", "cross-entropy, nats", { zero: true }),
    training_accuracy: (width) => epochs(width, "accuracy", "training accuracy, %", {}),
  };

  const colorOf = (kind) => onScreen(kind.startsWith("deployed") ? "#d55e00" : "#0072b2");

  function byKind(width, rows, ariaLabel, y, { more = () => [], marks = [], title, ...options }) {
    const kinds = [...new Set(rows.map((row) => row.which))];
    const colors = kinds.map(colorOf);
    return Plot.plot({
      ...frame(width),
      ariaLabel,
      x: networkAxis(width),
      color: { legend: kinds.length > 1, domain: kinds, range: colors },
      ...options,
      marks: [
        ...marks,
        ...kinds.flatMap((kind, index) => {
          const own = rows.filter((row) => row.which === kind);
          const place = { x: "network", stroke: colors[index], dx: beside(index, kinds.length, 24) };
          return [
            ...more(own, place),
            Plot.dot(own, { ...place, y, fill: colors[index], r: 4, symbol: (row) => symbol(row.network) }),
          ];
        }),
        tip(rows, "network", y, title),
      ],
    });
  }

  let trainingOf = null;

  function epochs(width, what, name, options) {
    const runs = data.training.filter((run) => run.which === trainingOf || run.which === "network");
    const rows = runs.flatMap((run) =>
      run[what].map((value, index) => ({ epoch: index + 1, value, label: label(run.network) })),
    );
    return Plot.plot({
      ...frame(width, 280),
      marginBottom: 36,
      ariaLabel: `${name} of every network by epoch`,
      x: { label: "epoch", tickFormat: "d", interval: 1, ticks: Math.min(8, d3.max(rows, (row) => row.epoch)) },
      y: { label: name, grid: true, nice: true, ...options },
      color: { legend: true, domain: runs.map((run) => label(run.network)), range: common.colors(runs.length) },
      marks: [
        Plot.line(rows, { x: "epoch", y: "value", stroke: "label", strokeWidth: 1.6 }),
        Plot.dot(rows, { x: "epoch", y: "value", fill: "label", r: 2 }),
        tip(rows, "epoch", "value", (row) => `${row.label}, epoch ${row.epoch}\n${row.value.toPrecision(4)}`),
      ],
    });
  }

  const draw = (place) => common.draw(place, drawers[place.dataset.plot]);
  const places = [...document.querySelectorAll("[data-plot]")];
  const redraw = (...names) => places.filter((place) => names.includes(place.dataset.plot)).forEach(draw);

  function addLegend() {
    const groups = [
      ["Through the softmax", attacks.filter((attack) => attack.softmax)],
      ["Round it", attacks.filter((attack) => !attack.softmax)],
    ];
    const legend = document.getElementById("legend-success");
    for (const [heading, members] of groups.filter(([, found]) => found.length)) {
      const boxes = members.map((attack) => {
        const box = element("input", { type: "checkbox", checked: shown.has(attack.name) });
        box.addEventListener("change", () => {
          if (box.checked) shown.add(attack.name);
          else shown.delete(attack.name);
          redraw("success");
        });
        const swatch = element("span", { class: attack.softmax ? "swatch dashed" : "swatch", "aria-hidden": "true" });
        swatch.style.setProperty("--color", attack.color);
        return element("label", {}, box, swatch, attack.label);
      });
      legend.append(element("fieldset", {}, element("legend", {}, heading), ...boxes));
    }
  }

  function addTrainingControls() {
    const controls = document.getElementById("training-controls");
    if (!controls) return;
    const kinds = [...new Set(data.training.map((run) => run.which))].filter((kind) => kind !== "network");
    trainingOf = kinds.at(-1) ?? null;
    if (kinds.length < 2) return;
    const options = kinds.map((kind) => element("option", { value: kind, selected: kind === trainingOf }, kind));
    const select = element("select", {}, ...options);
    select.addEventListener("change", () => {
      trainingOf = select.value;
      redraw("loss", "training_accuracy");
    });
    controls.append(element("label", {}, "Show the ", select));
  }

  // --- samples -----------------------------------------------------------------------------------

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  // The arrays that gallery.py packs, in its order: the widest first, so each starts where it may.
  async function unpacked(entry) {
    const buffer = await inflated(entry.data);
    let at = 0;
    const take = (Kind, length) => {
      const array = new Kind(buffer, at, length);
      at += array.byteLength;
      return array;
    };
    const { pairs, features, classes } = entry;
    const counts = take(Uint32Array, pairs);
    const steps = take(entry.short ? Uint16Array : Uint32Array, features);
    const sample = take(Uint16Array, pairs);
    const target = take(Uint16Array, pairs);
    const shares = take(Uint16Array, pairs * classes);
    const result = take(Uint8Array, pairs);
    const change = take(Uint8Array, features);
    const start = new Uint32Array(pairs);
    for (let pair = 1; pair < pairs; pair += 1) start[pair] = start[pair - 1] + counts[pair - 1];
    return { counts, steps, sample, target, shares, result, change, start, classes };
  }

  const REACHED = 1;
  const STARTED = 2;
  // Of each result: the colour of its badge, and its name.
  const RESULTS = [["unknown", "not reached"], ["bad", "reached"], ["unknown", "started there"]];
  const PAGE = 12;
  const MOST_CLASSES = 32;

  async function gallery(content) {
    const [count, height, width, channels] = content.shape;
    const size = height * width * channels;
    const images = new Uint8Array(await inflated(content.images));
    const before = new Map();
    for (const [name, text] of Object.entries(content.probabilities)) {
      before.set(name, new Uint16Array(await inflated(text)));
    }
    const className = (index) => data.classes[index] ?? String(index);
    const form = document.getElementById("filters");
    const cards = document.getElementById("cards");
    const more = document.getElementById("more");
    const cache = new Map();
    // The entry that is shown, which is not at once the one that was asked for.
    let shownEntry = null;
    let outcome = null;
    let found = [];

    const fill = (select, options) =>
      select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    const used = [...new Set(content.entries.map((entry) => entry.network))];
    fill(form.elements.network, used.map((place) => [place, label(place)]));
    const classes = data.classes.map((name, index) => [index, name]);
    fill(form.elements.source, [["", "all"], ...classes]);
    fill(form.elements.target, [["", "all"], ...classes]);

    function fillAttacks() {
      const chosen = form.elements.attack.value;
      const names = content.entries
        .filter((entry) => entry.network === Number(form.elements.network.value))
        .map((entry) => entry.attack);
      fill(form.elements.attack, names.map((name) => [name, attackNamed.get(name)?.label ?? name]));
      if (names.includes(chosen)) form.elements.attack.value = chosen;
    }

    const chosen = () =>
      content.entries.find(
        (each) =>
          each.network === Number(form.elements.network.value) && each.attack === form.elements.attack.value,
      );

    async function choose() {
      const entry = chosen();
      if (!cache.has(entry)) cache.set(entry, await unpacked(entry));
      // Somebody may have chosen another meanwhile.
      if (chosen() !== entry) return;
      [shownEntry, outcome] = [entry, cache.get(entry)];
      showMatrix();
      filter();
    }

    function showMatrix() {
      const table = document.getElementById("matrix");
      const number = data.classes.length;
      if (number > MOST_CLASSES) {
        document.getElementById("matrix-region").hidden = true;
        return;
      }
      const reached = new Uint32Array(number * number);
      const tried = new Uint32Array(number * number);
      outcome.sample.forEach((row, pair) => {
        if (outcome.result[pair] === STARTED) return;
        const cell = content.labels[row] * number + outcome.target[pair];
        tried[cell] += 1;
        reached[cell] += outcome.result[pair] === REACHED;
      });
      const head = element("tr", {}, element("td"));
      for (const name of data.classes) head.append(element("th", { scope: "col" }, element("span", {}, name)));
      const rows = data.classes.map((name, source) => {
        const row = element("tr", {}, element("th", { scope: "row" }, name));
        for (let target = 0; target < number; target += 1) {
          const cell = source * number + target;
          const place = element("td");
          if (tried[cell]) {
            const share = reached[cell] / tried[cell];
            const button = element(
              "button",
              {
                type: "button",
                tabindex: "-1",
                "data-source": source,
                "data-target": target,
                "aria-label": `${name} to ${className(target)}: ${reached[cell]} of ${tried[cell]} reached`,
              },
              String(Math.round(100 * share)),
            );
            button.style.setProperty("--share", `${100 * share}%`);
            place.append(button);
          }
          row.append(place);
        }
        return row;
      });
      table.querySelector("thead")?.remove();
      table.querySelector("tbody")?.remove();
      table.append(element("thead", {}, head), element("tbody", {}, ...rows));
      table.querySelector("button")?.setAttribute("tabindex", "0");
    }

    function markMatrix() {
      const { source, target } = form.elements;
      for (const button of document.querySelectorAll("#matrix button")) {
        const pressed = button.dataset.source === source.value && button.dataset.target === target.value;
        button.setAttribute("aria-pressed", String(pressed));
      }
    }

    function filter() {
      const { source, target, result } = form.elements;
      found = [];
      outcome.sample.forEach((row, pair) => {
        if (source.value !== "" && content.labels[row] !== Number(source.value)) return;
        if (target.value !== "" && outcome.target[pair] !== Number(target.value)) return;
        if (result.value !== "" && outcome.result[pair] !== Number(result.value)) return;
        found.push(pair);
      });
      markMatrix();
      cards.replaceChildren();
      addCards();
    }

    function addCards() {
      const first = cards.childElementCount;
      for (const pair of found.slice(first, first + PAGE)) cards.append(card(pair));
      const now = cards.childElementCount;
      const number = (result) => found.filter((pair) => outcome.result[pair] === result).length;
      const started = number(STARTED) ? `; ${number(STARTED)} started there and do not count` : "";
      document.getElementById("shown").textContent =
        `${now} of ${found.length} attempts shown; ${number(REACHED)} of the ` +
        `${found.length - number(STARTED)} that count reached their target${started}.`;
      more.hidden = now >= found.length;
    }

    function card(pair) {
      const row = outcome.sample[pair];
      const original = images.subarray(row * size, (row + 1) * size);
      const adversarial = original.slice();
      let feature = 0;
      for (let place = 0; place < outcome.counts[pair]; place += 1) {
        const at = outcome.start[pair] + place;
        feature += outcome.steps[at];
        adversarial[feature] += outcome.change[at];
      }
      const { network } = shownEntry;
      const own = outcome.classes
        ? outcome.shares.subarray(pair * outcome.classes, (pair + 1) * outcome.classes)
        : null;
      const clean = before.get(networks[network].name);
      const was = clean ? clean.subarray((row * clean.length) / count, ((row + 1) * clean.length) / count) : null;
      const source = className(content.labels[row]);
      const target = className(outcome.target[pair]);
      const changed = outcome.counts[pair];
      const [badge, words] = RESULTS[outcome.result[pair]];
      return element(
        "li",
        { class: "card", tabindex: "-1" },
        element(
          "figure",
          {},
          element(
            "figcaption",
            {},
            element("strong", {}, `${source} → ${target}`),
            " ",
            element("span", { class: `badge ${badge}` }, words),
            element("small", {}, `${changed} of ${size} features, test image ${content.test_indices[row]}`),
          ),
          element(
            "div",
            { class: "images" },
            column("original", picture(original, `original, ${source}`), probabilities(was)),
            column("perturbation", picture(difference(original, adversarial), `${changed} changed features`)),
            column("adversarial", picture(adversarial, `adversarial sample towards ${target}`), probabilities(own)),
          ),
        ),
      );
    }

    const column = (name, ...parts) => element("div", {}, ...parts.slice(0, 1), element("span", {}, name), ...parts.slice(1));

    function probabilities(shares) {
      if (!shares) return "";
      const order = d3.sort(d3.range(shares.length), (index) => -shares[index]).slice(0, 3);
      return element(
        "ol",
        { class: "probabilities" },
        ...order.map((index) => {
          const share = (100 * shares[index]) / 65535;
          const item = element("li", {}, element("span", {}, className(index)), element("span", {}, percent(share)));
          item.style.setProperty("--share", `${share}%`);
          return item;
        }),
      );
    }

    // Grey where nothing changed; of one channel, up is red and down is blue.
    function difference(original, adversarial) {
      const made = new Uint8Array(height * width * 3);
      for (let pixel = 0; pixel < height * width; pixel += 1) {
        for (let color = 0; color < 3; color += 1) {
          const at = pixel * channels + (channels === 1 ? 0 : Math.min(color, channels - 1));
          const change = (adversarial[at] - original[at]) / 255;
          if (channels !== 1) made[3 * pixel + color] = 128 + 127 * change;
          else if (change === 0) made[3 * pixel + color] = 128;
          else {
            const full = change > 0 ? [213, 60, 0] : [0, 90, 200];
            made[3 * pixel + color] = 128 + (full[color] - 128) * Math.max(0.35, Math.abs(change));
          }
        }
      }
      return made;
    }

    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });

    function picture(values, alt) {
      const drawing = context.createImageData(width, height);
      const parts = values.length / (height * width);
      for (let pixel = 0; pixel < height * width; pixel += 1) {
        for (let color = 0; color < 3; color += 1) {
          drawing.data[4 * pixel + color] = values[pixel * parts + (parts < 3 ? 0 : color)];
        }
        drawing.data[4 * pixel + 3] = 255;
      }
      context.putImageData(drawing, 0, 0);
      return element("img", { src: canvas.toDataURL(), alt, width, height });
    }

    form.addEventListener("change", async (event) => {
      if (event.target.name === "network") fillAttacks();
      if (["network", "attack"].includes(event.target.name)) await choose();
      else filter();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      const first = cards.childElementCount;
      addCards();
      // Who reads by keyboard goes on at the first of the new ones: the button may be gone.
      cards.children[first].focus();
    });
    const matrix = document.getElementById("matrix");
    matrix.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const again = button.getAttribute("aria-pressed") === "true";
      form.elements.source.value = again ? "" : button.dataset.source;
      form.elements.target.value = again ? "" : button.dataset.target;
      filter();
    });
    // One stop for the tabulator key; arrows go from cell to cell.
    matrix.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      const step = steps[event.key];
      const from = event.target.closest("button");
      if (!step || !from) return;
      event.preventDefault();
      let [source, target] = [Number(from.dataset.source), Number(from.dataset.target)];
      for (let tries = 0; tries < data.classes.length; tries += 1) {
        source += step[0];
        target += step[1];
        const to = matrix.querySelector(`button[data-source="${source}"][data-target="${target}"]`);
        if (to) {
          to.focus();
          return;
        }
      }
    });
    matrix.addEventListener("focusin", (event) => {
      matrix.querySelector("button[tabindex='0']")?.setAttribute("tabindex", "-1");
      event.target.setAttribute("tabindex", "0");
    });
    fillAttacks();
    await choose();
  }

  // --- the whole ---------------------------------------------------------------------------------

  addLegend();
  addTrainingControls();
  common.follow(places, draw);
  const ready = () => {
    document.documentElement.dataset.ready = String(Math.round(performance.now() - started));
  };
  if (data.gallery) gallery(data.gallery).then(ready);
  else ready();
})();
