// What all screens share: times, live parts, questions, the theme, copying. Everything works without it, too.
"use strict";

(() => {
  const units = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const relative = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

  function showTimes(within) {
    for (const element of within.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (isNaN(at)) continue;
      const secs = (at - Date.now()) / 1000;
      const [unit, length] = units.find(([, length]) => Math.abs(secs) >= length) || ["second", 1];
      const text = relative.format(Math.round(secs / length), unit);
      if (element.textContent !== text) element.textContent = text;
      if (!element.title) element.title = local.format(at);
    }
  }

  function addCopyButtons(within) {
    for (const element of within.querySelectorAll("pre[data-copy]:not(:has(button))")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet copy";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await copy(element.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      element.append(button);
    }
  }

  // The clipboard is closed to pages that did not come by HTTPS, apart from this machine's own.
  async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  function say(text, kind) {
    const note = document.createElement("div");
    note.className = `note ${kind}`;
    note.append(text);
    document.getElementById("messages").replaceChildren(note);
  }

  function show(within) {
    showTimes(within);
    addCopyButtons(within);
  }

  // The theme: system, or what the button says.
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("pulzar-theme", root.dataset.theme);
  });

  // Questions before a form is sent; without scripts the server asks.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.confirm || form.elements.confirmed) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const dialog = document.createElement("dialog");
    const article = document.createElement("article");
    const text = document.createElement("p");
    text.textContent = form.dataset.confirm;
    const row = document.createElement("div");
    row.className = "row";
    const leave = document.createElement("button");
    leave.type = "button";
    leave.className = "secondary";
    leave.textContent = "Leave it";
    const go = document.createElement("button");
    go.type = "button";
    go.className = "danger";
    go.textContent = (event.submitter && event.submitter.textContent.trim()) || "Yes";
    row.append(leave, go);
    article.append(text, row);
    dialog.append(article);
    document.body.append(dialog);
    dialog.addEventListener("close", () => dialog.remove());
    leave.addEventListener("click", () => dialog.close());
    go.addEventListener("click", () => {
      const field = document.createElement("input");
      Object.assign(field, { type: "hidden", name: "confirmed", value: "1" });
      form.append(field);
      dialog.close();
      form.requestSubmit(event.submitter);
    });
    dialog.showModal();
    leave.focus();
  }, true);

  // Live parts: not while nobody looks, and only what has changed.
  document.addEventListener("htmx:configRequest", (event) => {
    const tag = event.target.dataset.live !== undefined && event.target.dataset.etag;
    if (tag) event.detail.headers["If-None-Match"] = tag;
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.dataset.live !== undefined && document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const xhr = event.detail.xhr;
    if (event.target.dataset.live !== undefined && xhr && xhr.status === 200) {
      event.target.dataset.etag = xhr.getResponseHeader("ETag") || "";
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) document.querySelectorAll("[data-live]").forEach((part) => htmx.trigger(part, "refresh"));
  });
  let away = false;
  document.addEventListener("htmx:sendError", () => {
    if (!away) say("The master does not answer. This page tries again by itself.", "warn");
    away = true;
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.target.dataset.live === undefined || event.detail.xhr.status !== 401) {
      say(`The master refused this with status ${event.detail.xhr.status}.`, "bad");
    }
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (away) document.getElementById("messages").replaceChildren();
    away = false;
    show(event.detail.target);
  });

  // What was said once stands in the address, and not after the next load.
  const here = new URL(location);
  if (here.searchParams.has("said")) {
    here.searchParams.delete("said");
    here.searchParams.delete("by");
    history.replaceState(history.state, "", here);
  }

  show(document);
  setInterval(() => { if (!document.hidden) showTimes(document); }, 5000);
  window.pulzar = { show, copy, say, csrf: () => JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRF-Token"] };
})();
