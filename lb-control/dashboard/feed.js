// What the controller says: asked for every second, and at once when an event says that something
// happened. While it does not answer, what it said last stays, and it is asked again.

import { tellTime } from "./format.js";

const EVERY = 1000;
/** Between two questions that events ask for. */
const LEAST = 120;
const PATIENCE = 4000;
/** After which a stream of events is tried again that was refused. */
const RETRY_EVENTS = 5000;

/** Asks `/api/...`; throws an Error with the controller's words. */
export async function ask(what, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const address = `/api/${what}${query ? `?${query}` : ""}`;
  const response = await fetch(address, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  tellTime(Date.parse(response.headers.get("date") ?? ""));
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `status ${response.status}`);
  return answer;
}

/**
 * `hear.state({ proxies, backends, certificates })` and `hear.event(event)` get what comes, and `hear.link(link)`
 * how it comes: `{ state: "connecting" | "live" | "polling" | "away", since }`.
 */
export class Feed {
  #hear;
  #events = null;
  #listening = false;
  #asking = false;
  #again = false;
  #timer = null;
  #asked = 0;
  #answered = false;
  #away = null;
  #tried = 0;

  constructor(hear) {
    this.#hear = hear;
  }

  start() {
    this.#ask();
    this.#listen();
  }

  /** Something happened. */
  poke() {
    if (this.#asking) {
      this.#again = true;
    } else {
      this.#schedule(Math.max(0, this.#asked + LEAST - performance.now()));
    }
  }

  #schedule(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), wait);
  }

  async #ask() {
    this.#asking = true;
    this.#again = false;
    this.#asked = performance.now();
    try {
      const [proxies, backends, certificates] = await Promise.all(["proxies", "backends", "certificates"].map((what) => ask(what)));
      this.#answered = true;
      this.#away = null;
      this.#hear.state({ proxies, backends, certificates });
    } catch {
      this.#away ??= Date.now();
    }
    this.#asking = false;
    this.#tell();
    if (!this.#away) this.#listen();
    // A large fleet is not asked without a pause.
    const took = performance.now() - this.#asked;
    this.#schedule(this.#again ? LEAST : Math.max(EVERY - took, took));
  }

  #listen() {
    const waited = performance.now() - this.#tried;
    if (this.#events?.readyState === EventSource.CLOSED) this.#events = null;
    if (this.#events || (this.#tried && waited < RETRY_EVENTS)) return;
    this.#tried = performance.now();
    const events = (this.#events = new EventSource("/api/events"));
    events.onopen = () => {
      this.#listening = true;
      this.#tell();
      // What happened before is not told.
      this.poke();
    };
    events.onerror = () => {
      this.#listening = false;
      this.#tell();
      this.poke();
    };
    events.onmessage = ({ data }) => {
      this.#hear.event(JSON.parse(data));
      this.poke();
    };
  }

  #tell() {
    const reached = this.#listening ? "live" : "polling";
    const state = this.#away ? "away" : this.#answered ? reached : "connecting";
    this.#hear.link({ state, since: this.#away });
  }
}
