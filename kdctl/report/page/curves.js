// Curves over epochs: means with bands, or single runs, of the configurations that are ticked.
"use strict";

const MARGIN = { left: 58, right: 14, top: 12, bottom: 40 };
const SHOWN_AT_FIRST = 8;

// A metric is packed as 16-bit steps between two bounds, on a linear or an asinh scale; 65535: no value.
function unpack(metric) {
  const bytes = Uint8Array.from(atob(metric.packed), (letter) => letter.charCodeAt(0));
  const steps = new Uint16Array(bytes.buffer);
  const low = metric.asinh ? Math.asinh(metric.low) : metric.low;
  const high = metric.asinh ? Math.asinh(metric.high) : metric.high;
  const values = new Float32Array(steps.length);
  for (let at = 0; at < steps.length; at += 1) {
    const value = low + (steps[at] / 65534) * (high - low);
    values[at] = steps[at] === 65535 ? NaN : metric.asinh ? Math.sinh(value) : value;
  }
  return values;
}

// Mean, sample standard deviation and number over runs at each epoch that all of them reached.
function meanOf(lines) {
  const length = lines.length ? Math.min(...lines.map((line) => line.length)) : 0;
  const mean = [], std = [], count = [];
  for (let at = 0; at < length; at += 1) {
    const values = lines.map((line) => line[at]).filter((value) => Number.isFinite(value));
    const average = values.reduce((sum, value) => sum + value, 0) / values.length;
    const squares = values.reduce((sum, value) => sum + (value - average) ** 2, 0);
    mean.push(values.length === lines.length ? average : NaN);
    std.push(values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0);
    count.push(values.length);
  }
  return { mean, std, count };
}

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step); tick * step <= high + step * 1e-9; tick += 1) found.push(Number((tick * step).toPrecision(12)));
  return found;
}

function makeCurves(place, data) {
  const unpacked = {};
  const values = (name) => (unpacked[name] ??= unpack(data.metrics[name]));
  const line = (name, run) => values(name).subarray(data.starts[run], data.starts[run + 1]);
  const chosen = new Set(data.configurations.map((_, at) => at).slice(0, SHOWN_AT_FIRST));
  const metric = element("select", { "aria-label": "What is drawn" },
    ...Object.entries(data.metrics).map(([name, item]) => element("option", { value: name }, item.label)));
  const mode = element("select", { "aria-label": "Means or single runs" },
    element("option", { value: "mean" }, "mean over seeds, band ± sample std"), element("option", { value: "single" }, "single runs"));
  const log = element("input", { type: "checkbox", id: "log" });
  const canvas = element("canvas", { role: "img", tabindex: 0, "aria-label": "Curves over epochs; arrow keys go from value to value" });
  const tip = element("div", { id: "tip", role: "status", hidden: "" });
  const filter = element("input", { type: "search", placeholder: "filter configurations", "aria-label": "Filter configurations" });
  const list = element("div", { class: "choice" });
  const boxes = data.configurations.map((item, at) => choiceOf(item, at));
  let drawn = [], scale = null, told = null;

  function choiceOf(item, at) {
    const box = element("input", { type: "checkbox" });
    box.checked = chosen.has(at);
    box.addEventListener("change", () => { if (box.checked) chosen.add(at); else chosen.delete(at); draw(); });
    const sample = element("canvas", { width: 68, height: 28 });
    const pen = sample.getContext("2d");
    pen.scale(2, 2);
    stroke(pen, at, 2);
    pen.beginPath(); pen.moveTo(1, 7); pen.lineTo(33, 7); pen.stroke();
    const label = element("label", {}, box, sample, element("span", {}, item.name));
    return { box, label, words: item.name.toLowerCase(), at };
  }

  function stroke(pen, at, width) {
    pen.strokeStyle = data.colours[at % data.colours.length];
    pen.fillStyle = pen.strokeStyle;
    pen.setLineDash(data.dashes[at % data.dashes.length].map((length) => length * width));
    pen.lineWidth = width;
  }

  function lines() {
    const found = [];
    for (const at of [...chosen].sort((a, b) => a - b)) {
      const item = data.configurations[at];
      const each = item.averaged.map((run) => line(metric.value, run)).filter((values) => values.length);
      if (mode.value === "single") {
        item.runs.forEach((run) => found.push({ at, name: `${item.name}\nrun ${data.keys[run]}`, mean: Array.from(line(metric.value, run)) }));
      } else if (each.length) found.push({ at, name: item.name, ...meanOf(each) });
    }
    return found;
  }

  function bounds() {
    let low = Infinity, high = -Infinity, last = 1;
    for (const item of drawn) {
      item.mean.forEach((value, at) => {
        if (!Number.isFinite(value)) return;
        if (log.checked && value <= 0) return;
        const spread = item.std ? item.std[at] : 0;
        const least = log.checked && value <= spread ? value : value - spread;  // no end of a band is below zero there
        low = Math.min(low, least); high = Math.max(high, value + spread); last = Math.max(last, at + 1);
      });
    }
    if (!Number.isFinite(low)) return null;
    if (log.checked) low = Math.max(low, high * 1e-6);
    const pad = (high - low) * 0.04 || 1;
    return log.checked ? { low, high, last } : { low: low - pad, high: high + pad, last };
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    drawn = lines();
    const limits = bounds();
    tip.hidden = true;
    scale = told = null;
    if (!limits) { pen.fillText(chosen.size ? "the chosen runs have no such values" : "choose configurations to draw", MARGIN.left, height / 2); return; }
    const form = log.checked ? Math.log : (value) => value;
    const span = form(limits.high) - form(limits.low) || 1, inner = width - MARGIN.left - MARGIN.right;
    scale = {
      x: (epoch) => MARGIN.left + (inner * (epoch - 1)) / Math.max(1, limits.last - 1),
      y: (value) => height - MARGIN.bottom - ((form(Math.max(value, log.checked ? limits.low : -Infinity)) - form(limits.low)) / span) * (height - MARGIN.top - MARGIN.bottom),
    };
    axes(pen, limits, width, height);
    for (const item of drawn) drawLine(pen, item);
  }

  function axes(pen, limits, width, height) {
    pen.fillStyle = "#444"; pen.strokeStyle = "#e2e2e2"; pen.lineWidth = 1;
    const marks = log.checked ? logTicks(limits.low, limits.high) : ticks(limits.low, limits.high, 6);
    pen.textAlign = "right"; pen.textBaseline = "middle";
    for (const mark of marks) {
      const y = scale.y(mark);
      pen.beginPath(); pen.moveTo(MARGIN.left, y); pen.lineTo(width - MARGIN.right, y); pen.stroke();
      pen.fillText(String(mark), MARGIN.left - 6, y);
    }
    pen.textAlign = "center"; pen.textBaseline = "top";
    for (const mark of ticks(1, Math.max(2, limits.last), Math.min(8, width / 70)).filter(Number.isInteger)) {
      pen.fillText(String(mark), scale.x(mark), height - MARGIN.bottom + 6);
    }
    pen.fillText("epoch", MARGIN.left + (width - MARGIN.left - MARGIN.right) / 2, height - 16);
    pen.save(); pen.translate(12, (height - MARGIN.bottom) / 2); pen.rotate(-Math.PI / 2);
    pen.fillText(data.metrics[metric.value].label, 0, -6); pen.restore();
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const factor of [1, 2, 5]) {
        const tick = Number((factor * 10 ** power).toPrecision(6));
        if (tick >= low && tick <= high) found.push(tick);
      }
    }
    return found.length > 1 ? found : ticks(low, high, 6);
  }

  function drawLine(pen, item) {
    const points = item.mean.map((value, at) => [scale.x(at + 1), scale.y(value), at]).filter((point) => Number.isFinite(point[1]));
    stroke(pen, item.at, mode.value === "single" ? 1 : 1.8);
    if (item.std && item.std.some((value) => value > 0)) {
      pen.globalAlpha = 0.18;
      pen.beginPath();
      points.forEach(([x, , at], place) => pen[place ? "lineTo" : "moveTo"](x, scale.y(item.mean[at] + item.std[at])));
      [...points].reverse().forEach(([x, , at]) => pen.lineTo(x, scale.y(item.mean[at] - item.std[at])));
      pen.fill();
      pen.globalAlpha = 1;
    }
    pen.beginPath();
    points.forEach(([x, y], place) => pen[place ? "lineTo" : "moveTo"](x, y));
    pen.stroke();
    pen.setLineDash([]);
    if (points.length === 1) { pen.beginPath(); pen.arc(points[0][0], points[0][1], 3, 0, 7); pen.fill(); }
  }

  function nearest(x, y) {
    let best = null, least = 40 ** 2;
    for (const item of drawn) {
      item.mean.forEach((value, at) => {
        if (!Number.isFinite(value)) return;
        const distance = (scale.x(at + 1) - x) ** 2 + (scale.y(value) - y) ** 2;
        if (distance < least) { least = distance; best = { item, at, value }; }
      });
    }
    return best;
  }

  function hover(event) {
    const box = canvas.getBoundingClientRect();
    tell(scale && nearest(event.clientX - box.left, event.clientY - box.top));
  }

  // Left and right: the epoch before and after; up and down: another curve, at the same epoch if it has it.
  function step(event) {
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0, across = { ArrowUp: -1, ArrowDown: 1 }[event.key] || 0;
    const known = drawn.filter((item) => item.mean.some(Number.isFinite));
    if (event.key === "Escape") { tell(null); return; }
    if (!scale || !known.length || !(sideways || across)) return;
    event.preventDefault();
    const place = told ? known.indexOf(told.item) : 0;
    const item = known[(place + (told ? across : 0) + known.length) % known.length];
    const there = [...item.mean.keys()].filter((at) => Number.isFinite(item.mean[at]));
    const wanted = told ? told.at : there[0];
    const after = told && sideways ? there.filter((at) => (at - wanted) * sideways > 0) : there;
    const at = after.reduce((best, at) => (Math.abs(at - wanted) < Math.abs(best - wanted) ? at : best), after.length ? after[0] : wanted);
    tell({ item, at, value: item.mean[at] });
  }

  function tell(found) {
    tip.hidden = !found;
    told = found;
    if (!found) return;
    const { item, at, value } = found;
    const spread = item.std && item.count[at] > 1 ? ` ± ${item.std[at].toPrecision(3)} (n = ${item.count[at]})` : "";
    tip.textContent = `${item.name}\nepoch ${at + 1}: ${Number(value.toPrecision(5))}${spread}`;
    const x = scale.x(at + 1), y = scale.y(value);
    tip.style.left = `${Math.max(0, Math.min(x + 12, canvas.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight - 8)}px`;
  }

  function choose(wanted) {
    for (const item of boxes) {
      if (item.label.hidden) continue;
      item.box.checked = wanted;
      if (wanted) chosen.add(item.at); else chosen.delete(item.at);
    }
    draw();
  }

  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of boxes) item.label.hidden = !words.every((word) => item.words.includes(word));
  });
  for (const input of [metric, mode, log]) input.addEventListener("change", draw);
  for (const name of ["pointerdown", "pointermove"]) canvas.addEventListener(name, hover);
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tell(null); });  // a finger only ever lifts
  canvas.addEventListener("keydown", step);
  list.append(...boxes.map((item) => item.label));
  const all = element("button", { type: "button", onclick: () => choose(true) }, "all");
  const none = element("button", { type: "button", onclick: () => choose(false) }, "none");
  place.append(
    element("div", { class: "bar" }, metric, mode, element("label", { for: "log" }, log, " logarithmic")),
    element("div", { class: "curves" },
      element("div", { class: "plot" }, canvas, tip),
      element("div", {}, element("div", { class: "bar" }, filter, all, none), list)),
  );
  new ResizeObserver(draw).observe(canvas);
}
