// The backend sets, their backends, and what is wrong with one.

import { byId, cell, el, pills, reconcile, set, show, svg, text } from "./dom.js";
import { count, errorShare, latency, millis, percent, plural, rate, since } from "./format.js";
import { Spark } from "./charts.js";
import { points } from "./series.js";

/** Rows of one set that are shown; the filter finds the others. */
const MOST = 300;

/** `[is, words]` of the backend's health. */
export function healthOf({ health, held }) {
  if (held) return ["warn", "unhealthy, held"];
  if (health === "healthy") return ["good", "healthy"];
  if (health === "unhealthy") return ["bad", "unhealthy"];
  return ["plain", "unknown"];
}

export const hasProblem = (backend) =>
  backend.health === "unhealthy" || backend.ejections.length > 0 || backend.state !== "active";

let latest = null;

export function start() {
  byId("backends-filter").addEventListener("input", () => latest && draw(latest));
  byId("backends-problems").addEventListener("change", () => latest && draw(latest));
}

export function draw(list) {
  latest = list;
  const members = new Map(list.backend_sets.map(({ name }) => [name, []]));
  for (const backend of list.backends) members.get(backend.backend_set)?.push(backend);

  const wanted = filter();
  const sets = list.backend_sets
    .map((about) => {
      const of = members.get(about.name);
      const unhealthy = of.filter(({ health }) => health === "unhealthy").length;
      return { about, unhealthy, all: of.filter((backend) => wanted(about, backend)) };
    })
    .filter(({ about, all }) => all.length > 0 || (about.backends === 0 && wanted.everything));
  reconcile(byId("sets"), sets, ({ about }) => about.name, card);
  show(byId("sets-empty"), sets.length === 0);
  text(
    byId("sets-empty"),
    list.backend_sets.length === 0 ? "There is no backend set yet." : "No backend is like that.",
  );
}

function filter() {
  const words = byId("backends-filter").value.trim().toLowerCase();
  const problems = byId("backends-problems").checked;
  const has = (value) => value.toLowerCase().includes(words);
  const wanted = (about, backend) =>
    (!problems || hasProblem(backend)) &&
    (!words || [about.name, backend.backend, backend.address, backend.why, backend.state].some(has));
  wanted.everything = !words && !problems;
  return wanted;
}

function card({ about: { name } }) {
  const spark = new Spark();
  const balance = el("p", { class: "small" });
  const usable = el("p");
  const [good, bad] = ["good", "bad"].map((kind) => svg("rect", { class: kind, height: 7, width: 0 }));
  const meter = svg("svg", { class: "meter", "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 100 7" }, svg("rect", { height: 7, width: 100 }), good, bad);
  const figure = (label) => {
    const value = el("dd");
    return { value, node: el("div", {}, el("dt", {}, label), value) };
  };
  const [rps, errors, p99, flight] = ["Requests/s", "Errors", "p99", "In flight"].map(figure);
  const body = el("tbody", { role: "rowgroup" });
  const more = el("p", { class: "more" });
  const title = el("h2", {}, name);
  const heads = ["Backend", "Health", "Weight", "Requests/s", "Errors", "p99", "In flight", "Kept out by"].map(
    (label, i) => el("th", { role: "columnheader", scope: "col", class: i > 1 && i < 7 ? "num" : null }, label),
  );
  const node = el(
    "section",
    { class: "card flush set", "data-set": name, "aria-label": `Backend set ${name}` },
    el(
      "header",
      {},
      el("div", { class: "lead" }, title, balance),
      el("div", { class: "usable" }, usable, meter),
      spark.node,
      el("dl", {}, rps.node, errors.node, p99.node, flight.node),
    ),
    el(
      "table",
      { role: "table", class: "grid members", "aria-label": `Backends of ${name}` },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
      body,
    ),
    more,
  );
  const update = ({ about, all, unhealthy }) => {
    text(balance, about.balance.replaceAll("_", " "));
    text(usable, `${count(about.usable)} of ${plural(about.backends, "backend")} usable`);
    const part = (n) => (100 * n) / Math.max(1, about.backends);
    set(good, "width", part(about.usable));
    set(bad, "x", part(about.usable));
    set(bad, "width", part(unhealthy));
    text(rps.value, rate(about.load?.requests_per_second));
    text(errors.value, percent(errorShare(about.load)));
    text(p99.value, latency(millis(about.load?.p99)));
    text(flight.value, count(about.load?.in_flight));
    spark.draw(points(`set:${name}`));
    reconcile(body, all.slice(0, MOST), ({ backend }) => backend, row);
    show(more, all.length > MOST);
    text(more, `and ${plural(all.length - MOST, "other")}; the filter finds them`);
  };
  return { node, update };
}

function row() {
  const spark = new Spark();
  const name = el("div", { class: "title" });
  const address = el("div", { class: "small mono" });
  const health = el("div", { class: "pills" });
  const why = el("div", { class: "why" });
  const probe = el("div", { class: "why loud" });
  const weight = cell("Weight", { class: "num" });
  const rps = el("div");
  const errors = cell("Errors", { class: "num" });
  const p99 = cell("p99", { class: "num" });
  const flight = cell("In flight", { class: "num" });
  const out = cell("Kept out by", { class: "wide" });
  const node = el(
    "tr",
    { role: "row" },
    cell(null, { class: "wide" }, name, address),
    cell(null, { class: "wide" }, health, why, probe),
    weight,
    cell("Req/s", { class: "num" }, rps, spark.node),
    errors,
    p99,
    flight,
    out,
  );
  const update = (backend) => {
    const load = backend.load;
    set(node, "data-backend", `${backend.backend_set}/${backend.backend}`);
    text(name, backend.backend);
    text(address, backend.address === backend.backend ? "" : backend.address);
    const state = backend.state === "active" ? [] : [["warn", backend.state]];
    pills(health, [healthOf(backend), ...state]);
    const bad = backend.health === "unhealthy";
    set(why, "class", bad ? "why loud" : "why");
    const long = backend.since ? `for ${since(backend.since)}` : "";
    const held = backend.held && `used all the same: ${backend.held}`;
    text(why, [backend.why, long, held].filter(Boolean).join(" · "));
    const last = backend.last_probe;
    const doubts = last && !last.passed && !bad;
    text(probe, doubts ? `last probe failed: ${last.detail}` : "");
    text(weight, count(backend.weight));
    text(rps, rate(load?.requests_per_second));
    spark.draw(points(`backend:${backend.backend_set}/${backend.backend}`));
    text(errors, percent(errorShare(load)));
    text(p99, latency(millis(load?.p99)));
    text(flight, count(backend.in_flight));
    const ejections = backend.ejections.map(({ proxy_id, reason }) => `${proxy_id}: ${reason}`);
    set(out, "data-none", ejections.length === 0);
    text(out, ejections.length === 0 ? "–" : ejections.join("; "));
  };
  return { node, update };
}
