// Light or dark, before anything is painted. Without a choice, the system's.
"use strict";

try {
  const chosen = localStorage.getItem("lb-theme");
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
} catch {
  // Storage is turned off: then it is the system's.
}
