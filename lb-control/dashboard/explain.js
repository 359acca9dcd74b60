// What the fleet would do with a request or a connection, and why.

import { byId, el, pill, show, text } from "./dom.js";
import { count, plural } from "./format.js";
import { ask } from "./feed.js";

const FIELDS = ["method", "url", "from", "listener"];

export function start() {
  const form = byId("explain-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    explain(parameters(new FormData(form)));
  });
}

/** Takes the question from the address, so that it can be passed on. */
export function open(query) {
  if (!query.get("url")) return;
  const form = byId("explain-form");
  for (const name of FIELDS) form.elements[name].value = query.get(name) ?? (name === "method" ? "GET" : "");
  form.elements.headers.value = query.getAll("header").join("\n");
  form.elements.alpn.value = query.getAll("alpn").join(", ");
  explain(parameters(new FormData(form)));
}

function parameters(data) {
  const given = FIELDS.map((name) => [name, String(data.get(name)).trim()]);
  const lines = String(data.get("headers")).split("\n").map((line) => line.trim());
  const protocols = String(data.get("alpn")).split(",").map((protocol) => protocol.trim());
  const several = (name, values) => values.map((value) => [name, value]);
  return [...given, ...several("header", lines), ...several("alpn", protocols)].filter(([, value]) => value !== "");
}

async function explain(query) {
  const error = byId("explain-error");
  history.replaceState(null, "", `#/explain?${new URLSearchParams(query)}`);
  try {
    const answer = await ask("explain", query);
    show(error, false);
    const title = el("h2", { tabindex: -1 }, "What happens");
    byId("explained").replaceChildren(...answered(answer, title));
    title.focus();
  } catch (problem) {
    text(error, problem.message);
    show(error, true);
    byId("explained").replaceChildren();
  }
}

function answered(answer, title) {
  const [kind, about] = Object.entries(answer.outcome ?? {})[0] ?? ["none", {}];
  const { words, is, more } = OUTCOMES[kind](about);
  const listener = answer.listener
    ? `Taken by listener ${answer.listener}: ${answer.listener_why}`
    : answer.listener_why;
  const runs = `As of revision ${count(answer.revision)}, version ${count(answer.version)} (${answer.hash}).`;
  const outcome = el(
    "section",
    { class: "card outcome" },
    title,
    el("p", { class: "answer" }, pill(is, kind === "none" ? "nothing" : kind), " ", words),
    el("p", { class: "small" }, listener),
    el("p", { class: "small" }, `The client is ${answer.client}.`),
    el("p", { class: "small" }, runs),
  );
  return [outcome, ...routes(answer.routes), ...more];
}

const OUTCOMES = {
  forward: ({ backend_sets: sets }) => {
    const names = sets.map((set) => `${sets.length > 1 ? `${share(set)} to ` : ""}${destination(set)}`);
    const words = sets.length > 1 ? `Of such requests go ${names.join(", and ")}.` : `It goes to ${names[0]}.`;
    const lost = sets.some(({ backends }) => !backends.some(({ eligible }) => eligible));
    return { is: lost ? "bad" : "good", words, more: sets.map(setVerdict) };
  },
  redirect: ({ status, location }) => ({ is: "note", words: `It is redirected with ${status} to ${location}`, more: [] }),
  answer: ({ status, body }) => ({
    is: "note",
    words: `The proxy itself answers with ${status}.`,
    more: body ? [el("pre", { tabindex: 0, role: "region", "aria-label": "The answer's body" }, body)] : [],
  }),
  refusal: ({ status, reason }) => ({ is: "bad", words: status === 0 ? reason : `It is refused with ${status}: ${reason}`, more: [] }),
  none: () => ({ is: "warn", words: "The controller did not say.", more: [] }),
};

const share = ({ share: part }) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)}%`;

function destination({ backend_set: name, pick, backends }) {
  const eligible = backends.filter((backend) => backend.eligible).length;
  if (pick) return `${name}, backend ${pick}`;
  return eligible > 0 ? `${name}, any of ${plural(eligible, "backend")}` : `${name}, where no backend is eligible`;
}

function routes(verdicts) {
  if (verdicts.length === 0) return [];
  const lines = verdicts.map(({ route, chosen, matches, why }) => {
    const verdict = chosen ? "takes it" : matches ? "would take it" : "does not match";
    return step(chosen ? "good" : "plain", chosen ? "✓" : matches ? "○" : "–", route, verdict, why);
  });
  return [section("Routes, in the order in which they are preferred", null, lines)];
}

function setVerdict(verdict) {
  const { backend_set: name, balance, hash_key: key, hash_value: value, why } = verdict;
  const facts = [balance.replaceAll("_", " "), key ? `by ${key} ${JSON.stringify(value)}` : "", why];
  const lines = verdict.backends.map((backend) => {
    const facts = [
      backend.eligible ? "eligible" : "",
      backend.why,
      backend.ejected_by.length > 0 ? `kept out by ${backend.ejected_by.join(", ")}` : "",
      `weight ${count(backend.weight)}`,
      `${count(backend.in_flight)} in flight`,
    ];
    const picked = backend.backend === verdict.pick;
    const word = picked ? "is picked" : backend.eligible ? "may be picked" : "is not picked";
    const is = picked ? "good" : backend.eligible ? "plain" : "bad";
    const sign = picked ? "✓" : backend.eligible ? "○" : "✕";
    return step(is, sign, backend.backend, word, facts.filter(Boolean).join(" · "));
  });
  const eligible = verdict.backends.filter((backend) => backend.eligible).length;
  const sub = [`${share(verdict)} of such requests`, ...facts, `${count(eligible)} of ${plural(verdict.backends.length, "backend")} eligible`];
  return section(`Backend set ${name}`, sub.filter(Boolean).join(" · "), lines);
}

function section(title, sub, lines) {
  return el(
    "section",
    { class: "card flush set" },
    el("header", {}, el("div", { class: "lead" }, el("h2", {}, title), sub ? el("p", { class: "small" }, sub) : null)),
    el("ol", { class: "steps" }, ...lines),
  );
}

function step(is, sign, title, verdict, reason) {
  return el(
    "li",
    { "data-is": is },
    el("span", { class: "sign", "aria-hidden": "true" }, sign),
    el("span", { class: "title" }, title),
    el("span", { class: "reason" }, el("span", { class: "hidden" }, `${verdict}: `), reason || verdict),
  );
}
