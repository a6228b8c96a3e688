// Small conveniences of the page itself: language and light by cookie, copying, keys, and what a person has
// chosen or focused while the server draws a table anew.
(() => {
  const root = document.documentElement;
  const get = (name) => document.cookie.split("; ").find((c) => c.startsWith(name + "="))?.split("=")[1];
  const set = (name, value) => {
    document.cookie = `${name}=${value};path=/;max-age=31536000;samesite=strict`;
  };
  // The server draws charts in the colours of the light that is on, so it must know: once, for a first visit.
  const wanted = () => get("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const settle = () => {
    const dark = wanted() === "dark" ? "1" : "0";
    set("dark", dark);
    if (root.dataset.dark !== dark && get("dark") === dark) location.reload();
  };
  settle();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", settle);

  const chosen = new Set(JSON.parse(sessionStorage.getItem("chosen") ?? "[]"));
  const link = () => {
    const to = document.getElementById("compare-chosen");
    if (!to) return;
    to.href = "/compare?runs=" + [...chosen].map(encodeURIComponent).join(",");
    to.classList.toggle("off", chosen.size < 2);
    to.setAttribute("aria-disabled", chosen.size < 2);
  };
  let focused = null;
  const sign = (el) =>
    el?.matches?.("a[href]") ? `a[href="${CSS.escape(el.getAttribute("href"))}"]`
    : el?.matches?.("[data-choose]") ? `[data-choose][value="${CSS.escape(el.value)}"]` : null;
  const restore = () => {
    for (const box of document.querySelectorAll("[data-choose]")) box.checked = chosen.has(box.value);
    link();
    if (focused && document.activeElement === document.body) document.querySelector(focused)?.focus({ preventScroll: true });
  };
  document.addEventListener("focusin", (e) => (focused = sign(e.target)));
  document.addEventListener("change", (e) => {
    if (!e.target.matches?.("[data-choose]")) return;
    e.target.checked ? chosen.add(e.target.value) : chosen.delete(e.target.value);
    sessionStorage.setItem("chosen", JSON.stringify([...chosen]));
    link();
  });
  document.addEventListener("click", (e) => {
    const button = e.target.closest?.("button");
    if (button?.dataset.lang) { set("lang", button.dataset.lang); location.reload(); }
    if (button?.dataset.theme) { set("theme", button.dataset.theme); set("dark", button.dataset.theme === "dark" ? "1" : "0"); location.reload(); }
    if (button?.dataset.copy !== undefined) {
      const text = button.parentElement.querySelector("pre").innerText;
      navigator.clipboard?.writeText(text).then(() => {
        button.classList.add("copied");
        setTimeout(() => button.classList.remove("copied"), 1200);
      });
    }
    if (e.target.closest?.("a[aria-disabled=true]")) e.preventDefault();
    // links of the data screen go there without a load
    const to = e.target.closest?.('a[href^="/data?"]');
    if (to && location.pathname === "/data" && !e.ctrlKey && !e.metaKey && window.emitEvent) {
      e.preventDefault();
      emitEvent("go", to.getAttribute("href"));
    }
  });
  // g then a letter goes to a screen, / to the search, j and k to the next and the last row
  const go = { h: "/", n: "/new", d: "/data", c: "/compare", t: "/chat", s: "/ship", m: "/machine" };
  let leader = 0;
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches?.("input,textarea,select,[contenteditable]")) return;
    if (leader && Date.now() - leader < 1200 && go[e.key]) { leader = 0; location.href = go[e.key]; return; }
    leader = e.key === "g" ? Date.now() : 0;
    if (e.key === "/") {
      const field = document.querySelector("input[type=search], .search input");
      if (field) { e.preventDefault(); field.focus(); }
    }
    if (e.key === "j" || e.key === "k") {
      const rows = [...document.querySelectorAll("tbody a[href]")];
      const at = rows.indexOf(document.activeElement);
      rows[Math.max(0, Math.min(rows.length - 1, at + (e.key === "j" ? 1 : -1)))]?.focus();
    }
  });
  const begin = () => {
    new MutationObserver(restore).observe(document.body, { childList: true, subtree: true });
    restore();
  };
  document.body ? begin() : addEventListener("DOMContentLoaded", begin);
})();
