// The first view: what needs attention, the figures, and the traffic.

import { SIGNS, byId, el, reconcile, set, text } from "./dom.js";
import { count, errorShare, latency, millis, percent, plural, rate, since } from "./format.js";
import { expiryOf } from "./certificates.js";
import { Chart } from "./charts.js";
import { points } from "./series.js";
import { stateOf, troubleOf } from "./proxies.js";

const MOST_PROBLEMS = 100;

let charts = [];

export function start() {
  charts = [
    new Chart({
      name: "Requests per second",
      lines: [{ key: "rps", name: "", kind: "one" }],
      format: rate,
      least: 1,
    }),
    new Chart({
      name: "Errors",
      lines: [{ key: "errors", name: "", kind: "red" }],
      format: percent,
      least: 1,
    }),
    new Chart({
      name: "Latency",
      lines: [{ key: "p99", name: "p99", kind: "one" }, { key: "p50", name: "p50", kind: "two" }],
      format: latency,
      least: 1,
    }),
  ];
  byId("charts").append(...charts.map(({ node }) => node));
  byId("scope").addEventListener("change", drawTraffic);
}

/** Everything that is not as it should be, worst first: `{ key, is, words, view }`. */
export function problems({ proxies, backends, certificates }) {
  const found = [];
  const add = (rank, is, key, view, words) => found.push({ rank, is, key, view, words });
  for (const { name, usable, held, backends: all } of backends.backend_sets) {
    if (usable === 0 && all > 0) add(0, "bad", `set ${name}`, "backends", `${name} has no usable backend`);
    if (held > 0) {
      const words = `${name}: ${plural(held, "backend")} ${held === 1 ? "fails its" : "fail their"} checks and ${held === 1 ? "is" : "are"} used all the same`;
      add(0, "bad", `held ${name}`, "backends", words);
    }
  }
  for (const proxy of proxies.proxies) {
    const [is, words] = stateOf(proxy, proxies);
    const key = `proxy ${proxy.id}`;
    if (!proxy.connected) {
      add(1, is, key, "overview", `Proxy ${proxy.id} is gone, for ${since(proxy.disconnected_since)}`);
    } else if (proxy.rejection) {
      add(1, is, key, "overview", `Proxy ${proxy.id} rejected the update: ${proxy.rejection}`);
    } else if (proxy.problems?.length) {
      add(1, is, key, "overview", `Proxy ${proxy.id} runs not all of it: ${troubleOf(proxy)}`);
    } else if (!proxy.in_sync) {
      add(3, is, key, "overview", `Proxy ${proxy.id} is not in sync: ${words}`);
    }
  }
  for (const { backend_set, backend, health, why, ejections } of backends.backends) {
    const name = `${backend_set}/${backend}`;
    if (health === "unhealthy") {
      add(2, "bad", `backend ${name}`, "backends", `${name} is unhealthy: ${why}`);
    } else if (ejections.length > 0) {
      const by = ejections.map(({ proxy_id }) => proxy_id).join(", ");
      add(3, "warn", `backend ${name}`, "backends", `${name} is kept out by ${by}: ${ejections[0].reason}`);
    }
  }
  for (const certificate of certificates.certificates) {
    const { name, problem } = certificate;
    const [is, words] = expiryOf(certificate);
    const key = `certificate ${name}`;
    if (problem) add(2, is === "bad" ? "bad" : "warn", key, "overview", `Certificate ${name}: ${problem}`);
    else if (is === "bad") add(1, is, key, "overview", `Certificate ${name}: ${words}`);
    else if (is === "warn") add(2, is, key, "overview", `Certificate ${name} expires ${words}`);
  }
  for (const { path, why } of certificates.files) {
    add(2, "bad", `file ${path}`, "overview", `${path} is not in force: ${why}`);
  }
  return found.sort((a, b) => a.rank - b.rank);
}

export function draw(fleet) {
  const { proxies, backends } = fleet;
  const running = `Revision ${count(proxies.revision)} as version ${count(proxies.version)} · digest ${proxies.hash}`;
  text(byId("running"), running);
  drawProblems(problems(fleet), proxies.proxies.length);
  drawFigures(proxies, backends);
  drawScopes(proxies, backends);
  drawTraffic();
}

function drawProblems(found, proxies) {
  const worst = found.some(({ is }) => is === "bad") ? "bad" : "warn";
  const is = found.length === 0 ? "good" : worst;
  set(byId("attention-mark"), "data-is", is);
  text(byId("attention-mark"), SIGNS[is]);
  const calm = proxies === 0 ? "Waiting for proxies" : "All is well";
  text(byId("attention-text"), found.length === 0 ? calm : plural(found.length, "problem"));
  const items = found.slice(0, MOST_PROBLEMS);
  if (found.length === 0) items.push({ key: "none", calm: true });
  reconcile(byId("attention"), items, ({ key }) => key, problem);
}

function problem({ calm }) {
  if (calm) {
    const words = "Every proxy runs what it should, and no backend is known to fail.";
    const node = el("li", { class: "calm" }, words);
    return { node, update() {} };
  }
  const sign = el("span", { class: "sign", "aria-hidden": "true" });
  const words = el("span");
  const node = el("li", {}, sign, words);
  const update = (item) => {
    set(sign, "data-is", item.is);
    text(sign, SIGNS[item.is]);
    text(words, item.words);
  };
  return { node, update };
}

function drawFigures({ proxies, load }, { backend_sets: sets }) {
  const figure = (id, words, thin = "", is = null) => {
    const node = byId(id);
    set(node, "data-is", is);
    if (!node.parts) {
      node.parts = [el("span"), el("span", { class: "thin" })];
      node.replaceChildren(...node.parts);
    }
    text(node.parts[0], words);
    text(node.parts[1], thin && ` ${thin}`);
  };
  const errors = errorShare(load);
  figure("f-rps", rate(load?.requests_per_second));
  figure("f-errors", percent(errors), "", errors >= 1 ? "bad" : null);
  figure("f-p99", latency(millis(load?.p99)), load?.p50 ? `p50 ${latency(millis(load.p50))}` : "");
  figure("f-flight", count(load?.in_flight));
  const synced = proxies.filter((proxy) => proxy.connected && proxy.in_sync).length;
  figure("f-proxies", count(synced), `of ${count(proxies.length)}`, synced < proxies.length ? "warn" : null);
  const sum = (key) => sets.reduce((sum, set) => sum + set[key], 0);
  const [usable, all] = [sum("usable"), sum("backends")];
  figure("f-backends", count(usable), `of ${count(all)}`, usable < all ? "warn" : null);
}

function drawScopes({ proxies }, { backend_sets: sets }) {
  const scopes = [
    { key: "fleet", words: "the whole fleet" },
    ...sets.map(({ name }) => ({ key: `set:${name}`, words: `backend set ${name}` })),
    ...proxies.map(({ id }) => ({ key: `proxy:${id}`, words: `proxy ${id}` })),
  ];
  reconcile(byId("scope"), scopes, ({ key }) => key, ({ key, words }) => ({
    node: el("option", { value: key }, words),
    update() {},
  }));
}

/** Also without an answer: time goes on. */
export function drawTraffic() {
  const shown = points(byId("scope").value || "fleet");
  for (const chart of charts) chart.draw(shown);
}
