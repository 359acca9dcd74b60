// What happens, as it happens.

import { SIGNS, byId, el, reconcile, say, set, show, text } from "./dom.js";
import { clock, count, plural } from "./format.js";

const MOST = 500;
const LATEST = 6;
/** Between two things that screen readers are told. */
const QUIET = 3000;

/** Newest first, as what is to be shown. */
let events = [];
let paused = false;
let next = 0;
let unsaid = [];
let timer = null;
const opened = Date.now();

export function start() {
  text(byId("events-sub"), `since this page was opened at ${clock(opened)}`);
  for (const box of document.querySelectorAll("#events [data-kind]")) {
    box.addEventListener("change", draw);
  }
  const pause = byId("pause");
  pause.addEventListener("click", () => {
    paused = !paused;
    set(pause, "aria-pressed", String(paused));
    text(pause, paused ? "Go on" : "Pause");
    draw();
  });
}

/** Takes an event of the controller. */
export function take({ time, event }) {
  const [what, about] = Object.entries(event ?? {})[0] ?? [];
  const seen = describe(what, about);
  if (!seen) return;
  events.unshift({ key: next++, at: time ? Date.parse(time) : Date.now(), ...seen });
  events.length = Math.min(events.length, MOST);
  if (seen.is === "bad" || what === "health") announce(seen.words);
  draw();
}

/** `{ kind, is, words }` */
function describe(what, about) {
  switch (what) {
    case "revision": {
      const comment = about.comment ? `: ${about.comment}` : "";
      const changes = plural(about.changes.length, "change");
      return { kind: "revision", is: "note", words: `Revision ${count(about.revision)}${comment} (${changes})` };
    }
    case "health": {
      const is = about.health === "healthy" ? "good" : about.health === "unhealthy" ? "bad" : "plain";
      const why = about.why ? `: ${about.why}` : "";
      const held = about.held ? `; used all the same: ${about.held}` : "";
      return { kind: "health", is, words: `${about.backend_set}/${about.backend} is ${about.health}${why}${held}` };
    }
    case "checks": {
      const { what: did, backend_set: of, why } = about;
      const who = of || "All sets";
      if (did === "held") return { kind: "health", is: "bad", words: `${who}: not all that fail their checks are out: ${why}` };
      return { kind: "health", is: "good", words: `${who}: checks are acted upon again` };
    }
    case "proxy": {
      const { proxy_id: id, what: did, version, reason } = about;
      if (did === "applied") {
        return { kind: "applied", is: "plain", words: `Proxy ${id} runs version ${count(version)}` };
      }
      if (did === "problems") return { kind: "proxy", is: "bad", words: `Proxy ${id} runs not all of it: ${reason}` };
      if (did === "mended") return { kind: "proxy", is: "good", words: `Proxy ${id} runs all of it again` };
      const is = did === "connected" ? "good" : "bad";
      const version_ = did === "rejected" ? ` version ${count(version)}` : "";
      return { kind: "proxy", is, words: `Proxy ${id} ${did}${version_}${reason ? `: ${reason}` : ""}` };
    }
    case "certificate": {
      const { name, what: did, why } = about;
      if (did === "problem") return { kind: "certificate", is: "bad", words: `${name} is not in force: ${why}` };
      const words = did === "mended" ? `${name} is well again` : `Another certificate ${name} is in force`;
      return { kind: "certificate", is: "good", words };
    }
    case "missed":
      return { kind: "proxy", is: "warn", words: `${plural(about, "event")} came too fast and ${about === 1 ? "was" : "were"} left out` };
    default:
      return null;
  }
}

/** Several at once, and not too often. */
function announce(words) {
  unsaid.push(words);
  timer ??= setTimeout(() => {
    timer = null;
    const some = unsaid.slice(0, 3).join(". ");
    say(unsaid.length > 3 ? `${some}. And ${unsaid.length - 3} more.` : some);
    unsaid = [];
  }, QUIET);
}

export function draw() {
  const latest = events.filter(({ kind }) => kind !== "applied").slice(0, LATEST);
  reconcile(byId("latest"), latest, ({ key }) => key, item);
  show(byId("latest-empty"), latest.length === 0);
  if (paused) return;
  const boxes = [...document.querySelectorAll("#events [data-kind]")];
  const kinds = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.kind));
  const wanted = events.filter(({ kind }) => kinds.has(kind));
  reconcile(byId("log"), wanted, ({ key }) => key, item);
  show(byId("log-empty"), wanted.length === 0);
}

function item({ at, is, words }) {
  const node = el(
    "li",
    { class: "fresh", "data-is": is },
    el("time", { datetime: new Date(at).toISOString() }, clock(at)),
    el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[is]),
    el("span", { class: "text" }, words),
  );
  return { node, update() {} };
}
