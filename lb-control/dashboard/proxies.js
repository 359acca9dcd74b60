// The table of proxies, and what is wrong with one.

import { byId, cell, el, pills, reconcile, set, show, text } from "./dom.js";
import { count, errorShare, latency, millis, percent, plural, rate, since } from "./format.js";
import { Spark } from "./charts.js";
import { points } from "./series.js";

const MOST = 500;

/** `[is, words]` of the proxy's state. */
export function stateOf(proxy, { epoch, version }) {
  if (!proxy.connected) return ["bad", "gone"];
  if (proxy.rejection) return ["bad", "rejected"];
  if (proxy.problems?.length) return ["bad", "partly in sync"];
  if (proxy.in_sync) return ["good", "in sync"];
  if (proxy.version === 0) return ["warn", "nothing yet"];
  if (proxy.epoch !== epoch) return ["warn", "other epoch"];
  return ["warn", `${count(Math.max(1, version - proxy.version))} behind`];
}

/** Why it does not run what it should, or not all of it. */
export function troubleOf({ rejection, problems = [] }) {
  return rejection || problems.map(({ resource, reason }) => `${resource}: ${reason}`).join("; ");
}

/** What every proxy should run. */
let wanted = null;

export function draw(list) {
  wanted = list;
  const shown = list.proxies.slice(0, MOST);
  reconcile(byId("proxies"), shown, (proxy) => proxy.id, row);
  show(byId("proxies-empty"), list.proxies.length === 0);
  const more = list.proxies.length - shown.length;
  show(byId("proxies-more"), more > 0);
  text(byId("proxies-more"), `and ${plural(more, "other")}; lb proxies lists all of them`);
  const gone = list.proxies.filter((proxy) => !proxy.connected).length;
  const connected = list.proxies.length - gone;
  text(byId("proxies-sub"), gone === 0 ? `${count(connected)} connected` : `${count(connected)} connected, ${count(gone)} gone`);
}

function row() {
  const spark = new Spark();
  const id = el("div", { class: "title" });
  const place = el("div", { class: "small" });
  const state = el("div", { class: "pills" });
  const why = el("div", { class: "why loud" });
  const runs = el("div");
  const applied = el("div", { class: "small" });
  const rps = el("div");
  const errors = cell("Errors", { class: "num" });
  const p99 = cell("p99", { class: "num" });
  const flight = cell("In flight", { class: "num" });
  const clients = cell("Clients", { class: "num" });
  const connected = el("div");
  const address = el("div", { class: "small" });
  const node = el(
    "tr",
    { role: "row" },
    cell(null, { class: "wide" }, id, place),
    cell(null, { class: "wide" }, state, why),
    cell("Runs", { class: "pair" }, runs, applied),
    cell("Req/s", { class: "num pair" }, rps, spark.node),
    errors,
    p99,
    flight,
    clients,
    cell("Connected", { class: "wide" }, connected, address),
  );
  const update = (proxy) => {
    const load = proxy.load;
    set(node, "data-is", proxy.connected ? null : "gone");
    set(node, "data-proxy", proxy.id);
    text(id, proxy.id);
    text(place, proxy.zone ? `zone ${proxy.zone}` : "no zone");
    pills(state, [stateOf(proxy, wanted)]);
    text(why, troubleOf(proxy));
    text(runs, proxy.version === 0 ? "–" : `version ${count(proxy.version)}`);
    text(applied, proxy.applied_at ? `for ${since(proxy.applied_at)}` : "not yet");
    text(rps, rate(load?.requests_per_second));
    spark.draw(points(`proxy:${proxy.id}`));
    text(errors, percent(errorShare(load)));
    text(p99, latency(millis(load?.p99)));
    text(flight, count(load?.in_flight));
    text(clients, proxy.connected ? count(proxy.connections) : "–");
    text(connected, proxy.connected ? `for ${since(proxy.connected_since)}` : `gone for ${since(proxy.disconnected_since)}`);
    text(address, [proxy.address, proxy.build].filter(Boolean).join(" · "));
  };
  return { node, update };
}
