// The revisions, and what each of them changed.

import { byId, el, reconcile, show, text } from "./dom.js";
import { count, moment, plural, since } from "./format.js";
import { ask } from "./feed.js";

const PAGE = 20;
const MOST_CHANGES = 300;
const KINDS = {
  added: { sign: "+", word: "added", look: "plus" },
  removed: { sign: "−", word: "removed", look: "minus" },
  changed: { sign: "~", word: "changed", look: "tilde" },
};

/** Newest first. */
let revisions = [];
let current = 0;
let asked = 0;
let opened = false;

export function start() {
  byId("older").addEventListener("click", () => load(revisions.at(-1)?.revision));
}

/** The current revision is this; what is new is asked for once. */
export function draw(revision) {
  current = revision;
  const isNew = revisions[0]?.revision !== revision && asked !== revision;
  if (isNew) {
    asked = revision;
    load();
  }
  render();
}

async function load(before) {
  const error = byId("history-error");
  try {
    const page = await ask("history", before ? { limit: PAGE, before } : { limit: PAGE });
    const known = new Map([...revisions, ...page.revisions].map((one) => [one.revision, one]));
    revisions = [...known.values()].sort((a, b) => b.revision - a.revision);
    if (before || revisions.length <= PAGE) show(byId("older"), page.revisions.length === PAGE);
    show(error, false);
  } catch (problem) {
    asked = 0;
    text(error, `The history could not be read: ${problem.message}`);
    show(error, true);
  }
  render();
}

function render() {
  reconcile(byId("revisions"), revisions, ({ revision }) => revision, item);
  show(byId("revisions-empty"), revisions.length === 0 && current === 0);
}

function item(revision) {
  const { revision: number, time, comment, changes } = revision;
  const tally = Object.entries(KINDS).map(([kind, { sign, word, look }]) => {
    const n = changes.filter((change) => change.kind === kind).length;
    return n === 0 ? null : el("span", { class: look }, `${sign}${count(n)} `, el("span", { class: "hidden" }, word));
  });
  const when = el("time", { class: "small", datetime: time, title: moment(time) });
  const mark = el("span", { class: "pill", "data-is": "note", hidden: true }, "current");
  const inner = el("div", { class: "inner" });
  // The newest one is what is looked for most.
  const open = !opened;
  opened = true;
  const details = el(
    "details",
    { class: "card", open, "data-revision": number },
    el(
      "summary",
      {},
      el("span", { class: "number" }, `Revision ${count(number)}`),
      mark,
      el("span", { class: "comment" }, comment || "no comment"),
      el("span", { class: "counts" }, ...tally),
      when,
    ),
    inner,
  );
  let filled = false;
  const fillIt = () => {
    if (details.open && !filled) {
      filled = true;
      inner.append(el("p", { class: "small" }, moment(time)), diff(changes), whole(number));
    }
  };
  details.addEventListener("toggle", fillIt);
  fillIt();
  const update = () => {
    show(mark, number === current);
    text(when, `${since(time)} ago`);
  };
  return { node: el("li", {}, details), update };
}

function diff(changes) {
  const lines = changes.slice(0, MOST_CHANGES).map(({ kind, field, before, after }) => {
    const { sign, word, look } = KINDS[kind] ?? KINDS.changed;
    const values = [
      before ? el("del", {}, before) : null,
      before && after ? " → " : null,
      after ? el("ins", {}, after) : null,
    ];
    return el(
      "li",
      {},
      el("span", { class: `sign ${look}`, "aria-hidden": "true" }, sign),
      el("span", { class: "body" }, el("span", { class: "hidden" }, `${word} `), `${field} `, ...values),
    );
  });
  const more = changes.length - lines.length;
  if (more > 0) lines.push(el("li", {}, `and ${plural(more, "other change")}`));
  if (lines.length === 0) lines.push(el("li", {}, "nothing"));
  return el("ul", { class: "diff", "aria-label": "What it changed" }, ...lines);
}

/** All of the state as it was then, when it is asked for. */
function whole(number) {
  const button = el("button", { type: "button", class: "button" }, "Whole state as TOML");
  const place = el("div", {}, button);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { toml } = await ask(`revision/${number}`);
      const label = `The state at revision ${number}`;
      const block = el("pre", { tabindex: 0, role: "region", "aria-label": label }, toml || "# nothing");
      place.replaceChildren(block);
      block.focus();
    } catch (problem) {
      button.disabled = false;
      place.replaceChildren(button, el("p", { class: "error", role: "alert" }, problem.message));
    }
  });
  return place;
}
