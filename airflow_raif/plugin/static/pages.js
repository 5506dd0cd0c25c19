// Theme, updates while a page is open, and links out of Airflow's frame. No library of ours beyond htmx.
"use strict";

(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Airflow's UI keeps its look under this name in the storage of the same origin: light, dark or system.
  function applyTheme() {
    let theme = null;
    try {
      theme = window.localStorage.getItem("theme");
    } catch {
      // A frame without access to storage follows the system.
    }
    const isDark = theme === "dark" || (theme !== "light" && dark.matches);
    document.documentElement.classList.toggle("dark", isDark);
    document.documentElement.classList.toggle("light", !isDark);
  }

  applyTheme();
  dark.addEventListener("change", applyTheme);
  window.addEventListener("storage", applyTheme);

  // A frame of Airflow's may not navigate its page, but may tell its router where to go, as the back button does.
  function openInAirflow(event) {
    const link = event.target.closest("a[data-airflow]");
    if (!link || window.parent === window || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) {
      return;
    }
    event.preventDefault();
    const frame = window.parent;
    const state = frame.history.state || {};
    frame.history.pushState({ idx: (state.idx || 0) + 1, key: "raif", usr: null }, "", link.href);
    frame.dispatchEvent(new PopStateEvent("popstate", { state: frame.history.state }));
  }

  const REFRESH_MS = 10000;

  function refresh() {
    if (!document.hidden && window.htmx && document.querySelector("[data-live]")) {
      window.htmx.trigger(document.body, "refresh-live");
    }
  }

  document.addEventListener("click", openInAirflow);
  document.addEventListener("visibilitychange", refresh);
  window.setInterval(refresh, REFRESH_MS);
  // Whoever was logged out meanwhile is asked to log in.
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) {
      window.location.reload();
    }
  });
  // What was opened stays open.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const open = [...event.detail.target.querySelectorAll("details")].map((each) => each.open);
    document.addEventListener("htmx:afterSwap", () => {
      document.querySelectorAll("#live details").forEach((each, place) => { each.open = open[place] ?? each.open; });
    }, { once: true });
  });
})();
