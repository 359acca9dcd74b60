// The table of certificates, and what is wrong with one.

import { byId, cell, el, pills, reconcile, set, show, text } from "./dom.js";
import { moment, now, plural, span } from "./format.js";

const MOST = 500;
const DAY = 864e5;
/** With more left than this, or than this part of its lifetime, nobody need look. */
const SOON = 14 * DAY;
const SOON_PART = 4;

/** `[is, words]` of how long it is good for. */
export function expiryOf({ not_before: begin, not_after: end }) {
  if (!end) return ["bad", "none in force"];
  const [until, since] = [Date.parse(end), Date.parse(begin)];
  const left = until - now();
  if (left <= 0) return ["bad", "expired"];
  const soon = left < Math.min(SOON, (until - since) / SOON_PART);
  return [soon ? "warn" : "good", `in ${span(left)}`];
}

export function draw({ certificates }) {
  show(byId("certificates"), certificates.length > 0);
  reconcile(byId("certificates-rows"), certificates.slice(0, MOST), ({ name }) => name, row);
  const more = certificates.length - MOST;
  show(byId("certificates-more"), more > 0);
  text(byId("certificates-more"), `and ${plural(more, "other")}; lb certificates lists all of them`);
}

function row() {
  const name = el("div", { class: "title" });
  const names = el("div", { class: "small" });
  const expires = el("div", { class: "pills" });
  const problem = el("div", { class: "why loud" });
  const until = cell("Until");
  const renewal = cell("Renewal");
  const issuer = cell("Issuer");
  const listeners = cell("Shown by");
  const node = el(
    "tr",
    { role: "row" },
    cell(null, { class: "wide" }, name, names),
    cell(null, { class: "wide" }, expires, problem),
    until,
    renewal,
    issuer,
    listeners,
  );
  const update = (certificate) => {
    set(node, "data-certificate", certificate.name);
    text(name, certificate.name);
    text(names, certificate.names.join(", "));
    pills(expires, [expiryOf(certificate)]);
    text(problem, certificate.problem);
    text(until, moment(certificate.not_after));
    text(renewal, renewalOf(certificate.acme));
    text(issuer, certificate.issuer || "–");
    text(listeners, [...certificate.listeners, ...certificate.backend_sets].join(", ") || "–");
  };
  return { node, update };
}

/** How ordering it goes, if it is ordered. */
function renewalOf(acme) {
  if (!acme) return "by its files";
  if (acme.state === "issued" && acme.next) return `in ${span(Date.parse(acme.next) - now())}`;
  return acme.state;
}
