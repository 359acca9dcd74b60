// Elements, made and updated without ever turning text into markup: names come from proxies,
// backends and clients.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (those that are null or false left out) and children. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** As `el`, for drawings. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Changes the text only if it differs, so that selections survive. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
  return node;
}

/** Changes an attribute only if it differs; null and false remove it. */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/**
 * Makes the children of `parent` those of `items`, in their order. A child stays the same element
 * for as long as its item is there, so that focus and selection stay with it. `make()` returns
 * `{ node, update(item) }`.
 */
export function reconcile(parent, items, keyOf, make) {
  const kept = (parent.kept ??= new Map());
  const seen = new Set();
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (seen.has(key)) continue;
    seen.add(key);
    let child = kept.get(key);
    if (!child) {
      child = make(item);
      kept.set(key, child);
    }
    child.update(item);
    if (child.node === next) {
      next = next.nextElementSibling;
    } else {
      parent.insertBefore(child.node, next);
    }
  }
  for (const [key, child] of kept) {
    if (!seen.has(key)) {
      child.node.remove();
      kept.delete(key);
    }
  }
}

/** A sign and words, so that neither needs the colour. */
export function pill(is, words) {
  const sign = el("span", { "aria-hidden": "true" }, SIGNS[is]);
  return el("span", { class: "pill", "data-is": is }, sign, el("span", {}, words));
}

export const SIGNS = { good: "✓", warn: "!", bad: "✕", note: "●", plain: "○" };

/** Replaces the pills only if they differ. */
export function pills(node, list) {
  const key = JSON.stringify(list);
  if (node.pills === key) return;
  node.pills = key;
  node.replaceChildren(...list.map(([is, words]) => pill(is, words)));
}

/** A cell of a table whose rows are cards on a phone. */
export function cell(label, attributes = {}, ...children) {
  return el("td", { role: "cell", "data-label": label, ...attributes }, ...children);
}

/** Said by screen readers when they have nothing else to say. */
export function say(words) {
  byId("say").textContent = words;
}
