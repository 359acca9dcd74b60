// The traffic of the last minutes, kept in this page: a series for the fleet, and one for each
// proxy, set and backend.

import { errorShare, millis } from "./format.js";

/** How far back, in ms. */
export const WINDOW = 5 * 60_000;
/** Points closer together than this are one. */
const STEP = 500;

const series = new Map();

/** The points of "fleet", "proxy:ID", "set:NAME" or "backend:SET/NAME", oldest first. */
export const points = (key) => series.get(key) ?? [];

/** Takes the loads of one answer. */
export function record({ proxies, backends }) {
  const at = Date.now();
  push("fleet", at, proxies.load);
  for (const proxy of proxies.proxies) push(`proxy:${proxy.id}`, at, proxy.load);
  for (const set of backends.backend_sets) push(`set:${set.name}`, at, set.load);
  for (const { backend_set, backend, load } of backends.backends) {
    push(`backend:${backend_set}/${backend}`, at, load);
  }
  for (const [key, kept] of series) {
    const first = kept.findIndex((point) => point.at >= at - WINDOW - 2000);
    if (first < 0) series.delete(key);
    else if (first > 0) kept.splice(0, first);
  }
}

function push(key, at, load) {
  const kept = series.get(key) ?? [];
  series.set(key, kept);
  if (kept.length > 0 && at - kept.at(-1).at < STEP) kept.pop();
  kept.push({
    at,
    rps: load?.requests_per_second ?? null,
    errors: errorShare(load),
    p50: millis(load?.p50),
    p99: millis(load?.p99),
  });
}
