// Numbers, times and durations, as people read them.

const NONE = "–";

let skew = 0;

/** Learns how far this machine's clock is from the controller's, given the latter in ms. */
export function tellTime(server) {
  const difference = server - Date.now();
  // The header has whole seconds.
  skew = Number.isFinite(difference) && Math.abs(difference) > 2000 ? difference : 0;
}

/** Now, on the controller's clock, in ms. */
export const now = () => Date.now() + skew;

const whole = new Intl.NumberFormat("en");
export const count = (n) => (n === null || n === undefined ? NONE : whole.format(n));

export function rate(n) {
  if (n === null || n === undefined) return NONE;
  if (n >= 1e6) return `${(n / 1e6).toFixed(2)}M`;
  if (n >= 100 || n === 0) return whole.format(Math.round(n));
  return n >= 10 ? n.toFixed(0) : n.toFixed(1);
}

/** The part of requests that fail, in percent; null if there are none. */
export const errorShare = (load) =>
  load && load.requests_per_second > 0
    ? Math.min(100, (100 * load.errors_per_second) / load.requests_per_second)
    : null;

export function percent(n) {
  if (n === null || n === undefined) return NONE;
  if (n === 0) return "0%";
  if (n < 0.01) return "<0.01%";
  return `${n < 1 ? n.toFixed(2) : n < 10 ? n.toFixed(1) : n.toFixed(0)}%`;
}

const UNITS = { ms: 1, s: 1e3, m: 6e4, h: 36e5 };

/** "1.5s", as the API writes it, in ms; null if absent. */
export function millis(duration) {
  const found = /^([0-9.]+)(ms|s|m|h)$/.exec(duration ?? "");
  return found ? Number(found[1]) * UNITS[found[2]] : null;
}

export function latency(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** How long, roughly. */
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

/** How long ago a time of the API was. */
export const since = (time) => (time ? span(now() - Date.parse(time)) : NONE);

const clockFormat = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** The time of day; `time` as Date takes it. */
export const clock = (time) => clockFormat.format(new Date(time));
export const moment = (time) => (time ? dayFormat.format(new Date(time)) : NONE);

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
