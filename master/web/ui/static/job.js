// The page of a job: its log goes on by itself, and what else has changed is put in. All of it is there without this.
"use strict";

(() => {
  const MOST = 1000000; // characters of a log that the page keeps
  const FAST_MS = 1000, SLOW_MS = 4000;
  const log = document.getElementById("log");
  if (!log) return;
  const [lines, rest] = log.children;
  const follow = document.getElementById("follow"), wrap = document.getElementById("wrap");
  const times = document.querySelector("#times input");
  let next = log.dataset.next === undefined ? null : Number(log.dataset.next); // null: nothing more comes
  let attempt = log.dataset.attempt, pause = FAST_MS, timer = 0, busy = false;
  let whole = log.dataset.begin === "0"; // whether the page has the log from its beginning on

  document.getElementById("logtools").hidden = false;
  document.getElementById("times").hidden = next === null;
  follow.checked = next !== null;
  follow.closest("label").hidden = next === null;
  const hit = document.getElementById("hit");
  if (hit) log.scrollTop = hit.offsetTop - log.offsetTop - 60;
  wrap.addEventListener("change", () => log.classList.toggle("unwrapped", !wrap.checked));
  times.addEventListener("change", () => log.classList.toggle("stamped", times.checked));
  follow.addEventListener("change", toEnd);
  log.addEventListener("scroll", () => {
    if (next !== null) follow.checked = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  }, { passive: true });

  function toEnd() {
    if (follow.checked) log.scrollTop = log.scrollHeight;
  }

  function append(text) {
    const at = new Date().toLocaleTimeString();
    const piece = document.createDocumentFragment();
    for (const line of text.split(/(?<=\n)/)) {
      if (!line) continue;
      const span = document.createElement("span");
      span.dataset.at = at;
      span.textContent = line;
      piece.append(span);
    }
    lines.append(piece);
    let over = lines.textContent.length - MOST;
    while (over > 0 && lines.childNodes.length > 1) {
      whole = false;
      over -= lines.firstChild.textContent.length;
      lines.firstChild.remove();
    }
  }

  async function get(query) {
    const response = await fetch(`${log.dataset.url}?attempt=${attempt}&${query}`, { headers: { "HX-Request": "true" } });
    if (!response.ok) throw new Error(String(response.status));
    return response.json();
  }

  async function more() {
    clearTimeout(timer);
    if (next === null || busy || document.hidden) return;
    busy = true;
    try {
      const part = await get(`after=${next}`);
      if (next === null) return;
      const before = next;
      if (part.live) {
        if (part.gap) whole = false;
        if (part.gap && lines.textContent) append("[…]\n");
        if (part.lines) append(part.lines);
        rest.textContent = part.rest;
        next = part.next;
      } else {
        ended(part);
      }
      const changed = next !== before || rest.textContent;
      pause = changed ? FAST_MS : Math.min(SLOW_MS, pause * 1.5);
      if (lines.textContent || rest.textContent) unveil();
      toEnd();
    } catch (error) {
      pause = SLOW_MS; // the master is away, or the job forgotten: app.js says so
    }
    busy = false;
    if (next !== null) timer = setTimeout(more, pause);
  }

  // All of the log is known now. What is shown already stays where it is, if nothing is lacking before it.
  function ended(part) {
    next = null;
    const had = (lines.textContent + rest.textContent).slice(-2000);
    const at = whole && had ? part.lines.lastIndexOf(had) : -1;
    const begun = rest.textContent;
    rest.textContent = "";
    if (at >= 0) return append(begun + part.lines.slice(at + had.length));
    lines.textContent = "";
    append(part.lines);
    refresh(["span"]);
  }

  function unveil() {
    log.hidden = false;
    const silent = document.getElementById("silent");
    if (silent) silent.remove();
  }

  document.getElementById("logs").addEventListener("click", async (event) => {
    const earlier = event.target;
    if (earlier.id !== "earlier") return;
    event.preventDefault();
    const part = await get(`before=${earlier.dataset.before}`);
    const height = log.scrollHeight;
    lines.prepend(part.text);
    follow.checked = false;
    log.scrollTop += log.scrollHeight - height;
    earlier.dataset.before = part.begin;
    if (part.begin <= 0) earlier.remove();
  });

  // The rest of the page, when the state has changed.
  const stampOf = (within) => within.querySelector("[data-stamp]").dataset.stamp;
  let stamp = stampOf(document);

  async function refresh(ids) {
    const response = await fetch(location.pathname + location.search);
    if (!response.ok) return null;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    document.title = page.title;
    for (const id of ids) {
      const fresh = document.importNode(page.getElementById(id), true);
      document.getElementById(id).replaceWith(fresh);
      pulzar.show(fresh);
      htmx.process(fresh);
    }
    return page;
  }

  document.addEventListener("htmx:afterSwap", async (event) => {
    if (event.target.id !== "live" || stampOf(event.target) === stamp) return;
    stamp = stampOf(event.target);
    document.getElementById("told").textContent = event.target.querySelector(".tag").textContent;
    const page = await refresh(["actions", "result", "facts", "size"]);
    if (!page) return;
    const now = page.getElementById("log");
    if (now.dataset.attempt !== attempt && now.dataset.next !== undefined) {
      attempt = now.dataset.attempt;
      whole = true;
      lines.textContent = rest.textContent = "";
      next = 0;
    }
    pause = FAST_MS;
    more();
  });
  document.addEventListener("visibilitychange", more);
  toEnd();
  if (next !== null) timer = setTimeout(more, FAST_MS);
})();
