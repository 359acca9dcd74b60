// Graphs, drawn by hand: the last minutes run from right to left, and pointing at a graph says what
// was then. What is to be known now stands above it as text.

import { el, set, svg, text } from "./dom.js";
import { clock } from "./format.js";
import { WINDOW } from "./series.js";

const HEIGHT = 150;
const [TOP, BOTTOM] = [14, 18];
/** Between points further apart than this, in ms, nothing is known. */
const GAP = 6000;

/** A round number that is not less, so that the scale seldom changes. */
function above(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** The pieces of a line, each `[x, y]` after `[x, y]`. */
function pieces(points, key, x, y) {
  const all = [];
  let last = null;
  for (const point of points) {
    if (point[key] === null) continue;
    if (last === null || point.at - last > GAP) all.push([]);
    all.at(-1).push([x(point.at), y(point[key])]);
    last = point.at;
  }
  return all;
}

const join = (piece) => piece.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
const line = (all) => all.map((piece) => `M${join(piece)}${piece.length === 1 ? "h0.1" : ""}`).join("");
const area = (all, floor) =>
  all.map((piece) => `M${piece[0][0].toFixed(1)} ${floor}L${join(piece)}V${floor}Z`).join("");

export class Chart {
  #lines;
  #format;
  #least;
  #points = [];
  #pointed = null;
  #width = 0;
  #values;
  #drawing;
  #parts = {};

  /**
   * `lines` are `{ key, name, kind }`, the first one drawn with its area; `least` is the smallest
   * top of the scale.
   */
  constructor({ name, lines, format, least }) {
    this.#lines = lines;
    this.#format = format;
    this.#least = least;
    this.#values = lines.map(() => el("b"));
    const values = lines.map(({ name: label, kind }, i) =>
      el("span", { class: "value" }, el("span", { class: `key ${kind}`, "aria-hidden": "true" }), label, this.#values[i]),
    );
    this.#drawing = svg("svg", { "aria-hidden": "true", height: HEIGHT });
    this.node = el(
      "figure",
      { class: "card chart" },
      el("figcaption", {}, (this.#parts.name = el("span", { class: "name" }, name)), ...values),
      this.#drawing,
    );
    this.#parts.title = name;
    new ResizeObserver(([entry]) => {
      this.#width = Math.round(entry.contentRect.width);
      this.#build();
      this.draw(this.#points);
    }).observe(this.#drawing);
    this.#drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.#drawing.addEventListener("pointerleave", () => this.#point(null));
  }

  #build() {
    const [width, parts] = [this.#width, this.#parts];
    parts.rules = [0, 1, 2].map(() => svg("line", { class: "rule", x1: 0, x2: width }));
    parts.labels = [0, 1, 2].map(() => svg("text", { x: 0 }));
    parts.area = svg("path", { class: `area ${this.#lines[0].kind}` });
    parts.lines = this.#lines.map(({ kind }) => svg("path", { class: `line ${kind}` }));
    parts.cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
    const minutes = [4, 3, 2, 1].map((ago) =>
      svg("text", { x: width * (1 - (ago * 60_000) / WINDOW), y: HEIGHT - 2, "text-anchor": "middle" }, `−${ago} min`),
    );
    minutes.push(svg("text", { x: width, y: HEIGHT - 2, "text-anchor": "end" }, "now"));
    set(this.#drawing, "viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#drawing.replaceChildren(
      ...parts.rules, ...minutes, parts.area, ...parts.lines, ...parts.labels, parts.cursor,
    );
  }

  #point(event) {
    this.#pointed = event ? event.offsetX / Math.max(1, this.#width) : null;
    this.draw(this.#points);
  }

  draw(points) {
    this.#points = points;
    if (!this.#parts.rules || this.#width === 0) return;
    const end = Date.now();
    const most = Math.max(...points.flatMap((point) => this.#lines.map(({ key }) => point[key] ?? 0)), 0);
    const top = above(Math.max(most, this.#least));
    const floor = HEIGHT - BOTTOM;
    const x = (at) => this.#width * (1 - (end - at) / WINDOW);
    const y = (value) => floor - ((floor - TOP) * value) / top;

    [0, top / 2, top].forEach((value, i) => {
      set(this.#parts.rules[i], "y1", Math.round(y(value)) + 0.5);
      set(this.#parts.rules[i], "y2", Math.round(y(value)) + 0.5);
      set(this.#parts.labels[i], "y", y(value) - 4);
      text(this.#parts.labels[i], i === 0 ? "" : this.#format(value));
    });
    const recent = points.filter(({ at }) => at >= end - WINDOW);
    this.#lines.forEach(({ key }, i) => {
      const all = pieces(recent, key, x, y);
      set(this.#parts.lines[i], "d", line(all));
      if (i === 0) set(this.#parts.area, "d", area(all, floor));
    });
    this.#tell(recent, end, x);
  }

  /** The values now, or where it is pointed at. */
  #tell(points, end, x) {
    const at = this.#pointed === null ? null : end - (1 - this.#pointed) * WINDOW;
    const near = (best, point) =>
      best === null || Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best;
    const point = at === null ? points.at(-1) : points.reduce(near, null);
    const pointed = at !== null && point;
    this.#lines.forEach(({ key }, i) => text(this.#values[i], this.#format(point?.[key] ?? null)));
    text(this.#parts.name, pointed ? clock(point.at) : this.#parts.title);
    const place = pointed ? x(point.at) : -10;
    set(this.#parts.cursor, "x1", place);
    set(this.#parts.cursor, "x2", place);
    set(this.#parts.cursor, "visibility", pointed ? "visible" : "hidden");
  }
}

/** Requests per second of the last minute or so, without a scale. */
export class Spark {
  #area = svg("path", { class: "area" });
  #line = svg("path", {});

  constructor() {
    this.node = svg("svg", { class: "spark", viewBox: "0 0 88 22", preserveAspectRatio: "none", "aria-hidden": "true" }, this.#area, this.#line);
  }

  draw(points) {
    const [end, length] = [Date.now(), 90_000];
    const recent = points.filter(({ at }) => at >= end - length);
    const top = Math.max(...recent.map(({ rps }) => rps ?? 0), 1) * 1.1;
    const all = pieces(recent, "rps", (at) => 88 * (1 - (end - at) / length), (value) => 21 - (20 * value) / top);
    set(this.#line, "d", line(all));
    set(this.#area, "d", area(all, 21));
  }
}
