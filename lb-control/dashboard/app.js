// The dashboard. It only looks: everything that it asks for is a GET of this controller.
//
// `feed` brings what the controller says, `series` remembers its figures, and a module a view draws
// it. Only the view that is seen is drawn.

import * as backends from "./backends.js";
import * as certificates from "./certificates.js";
import * as events from "./events.js";
import * as explain from "./explain.js";
import * as history from "./history.js";
import * as overview from "./overview.js";
import * as proxies from "./proxies.js";
import { byId, set, show, text } from "./dom.js";
import { clock, span } from "./format.js";
import { Feed } from "./feed.js";
import { record } from "./series.js";

const VIEWS = ["overview", "backends", "history", "events", "explain"];
const LINKS = { connecting: "Connecting", live: "Live", polling: "Live, by polling", away: "No answer" };
const THEMES = ["system", "light", "dark"];

let fleet = null;
let view = "overview";
let link = { state: "connecting", since: null };

// === views ===

function go(byUser) {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  view = VIEWS.includes(path) ? path : VIEWS[0];
  for (const name of VIEWS) show(byId(name), name === view);
  for (const anchor of document.querySelectorAll("nav a")) {
    set(anchor, "aria-current", anchor.hash === `#/${view}` ? "page" : null);
  }
  if (view === "explain") explain.open(new URLSearchParams(query ?? ""));
  draw();
  if (byUser) {
    window.scrollTo(0, 0);
    byId(`${view}-title`).focus({ preventScroll: true });
  }
}

function draw() {
  if (!fleet) return;
  const found = overview.problems(fleet).length;
  const title = view[0].toUpperCase() + view.slice(1);
  const words = `${found > 0 ? `(${found}) ` : ""}${title} · lb`;
  if (document.title !== words) document.title = words;
  switch (view) {
    case "overview":
      overview.draw(fleet);
      proxies.draw(fleet.proxies);
      certificates.draw(fleet.certificates);
      break;
    case "backends":
      backends.draw(fleet.backends);
      break;
    case "history":
      history.draw(fleet.proxies.revision);
      break;
  }
}

// === the controller, and whether it is there ===

function tell() {
  const { state, since } = link;
  set(byId("link"), "data-state", state);
  text(byId("link-text"), LINKS[state]);
  set(document.body, "data-stale", state === "away");
  const away = byId("away");
  if (state === "away") {
    const last = fleet ? "What is shown was last known. " : "";
    const length = span(Date.now() - since);
    text(away, `The controller does not answer since ${clock(since)}, for ${length}. ${last}Proxies go on with what they have.`);
  }
  show(away, state === "away");
}

// === light and dark ===

function startTheme() {
  const root = document.documentElement;
  const name = () => root.dataset.theme ?? "system";
  const label = () => text(byId("theme-text"), `Theme: ${name()}`);
  byId("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(name()) + 1) % THEMES.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("lb-theme", next);
    } catch {
      // It holds for this page only then.
    }
    label();
  });
  label();
}

// === start ===

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
startTheme();
for (const part of [overview, backends, history, events, explain]) part.start();
window.addEventListener("hashchange", () => go(true));
go(false);

new Feed({
  state(answer) {
    fleet = answer;
    record(answer);
    draw();
  },
  event: events.take,
  link(now) {
    link = now;
    tell();
  },
}).start();
// Time goes on without answers, too.
setInterval(() => {
  if (link.state === "away") {
    tell();
    draw();
  }
}, 1000);
