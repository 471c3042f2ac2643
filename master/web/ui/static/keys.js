// Uploads of the screen of keys: files and folders, by drag and drop or chosen, with progress, straight to a node
// when they are large. Without it, the form sends small files.
"use strict";

(() => {
  const section = document.getElementById("upload");
  if (!section) return;
  const AT_ONCE = 3; // uploads
  const ASKED_AT_ONCE = 1000; // keys
  const SILENT_MS = 8000; // after which a node counts as out of reach
  const SHOWN = 60; // rows
  const { root, prefix } = section.dataset;
  const directBytes = Number(section.dataset.direct);
  const form = section.querySelector("form");
  const box = document.getElementById("uploads");
  const csrf = { "X-CSRF-Token": pulzar.csrf() };
  let direct = true; // whether this browser reaches the nodes
  let waiting = [], running = [], failed = [], done = 0, doneBytes = 0, allBytes = 0, allFiles = 0, skipped = 0;
  let samples = []; // [time, bytes sent] of the last seconds

  function element(name, attributes, ...children) {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    return made;
  }

  // The form: files and folders are sent by this script.
  const files = form.elements.file;
  files.closest("label").querySelector("small").remove();
  const folder = element("input", { type: "file", multiple: true, hidden: true, webkitdirectory: true, ariaLabel: "Folder" });
  const pick = element("button", { type: "button", className: "secondary", textContent: "Choose a folder" });
  pick.addEventListener("click", () => folder.click());
  form.querySelector(".row").append(pick, folder);
  section.querySelector("h2").append(element("small", { textContent: "or drop files and folders into the box" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (files.files.length) take([...files.files].map((file) => [file, file.name]));
    else pulzar.say("No file was chosen; choose one first.", "warn");
  });
  folder.addEventListener("change", () => {
    take([...folder.files].map((file) => [file, file.webkitRelativePath || file.name]));
    folder.value = "";
  });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    form.addEventListener(name, (event) => {
      if (!event.dataTransfer || ![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      form.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  form.addEventListener("drop", async (event) => {
    if (!event.dataTransfer) return;
    // Both must be read before anything is waited for.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const plain = [...event.dataTransfer.files];
    const found = [];
    for (const [number, entry] of entries.entries()) {
      if (entry) await walk(entry, "", found);
      else if (plain[number]) found.push([plain[number], plain[number].name]);
    }
    take(found);
  });

  async function walk(entry, path, found) {
    if (entry.isFile) {
      found.push([await new Promise((good, bad) => entry.file(good, bad)), path + entry.name]);
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader gives up to 100 at once
      const part = await new Promise((good, bad) => reader.readEntries(good, bad));
      if (!part.length) return;
      for (const child of part) await walk(child, `${path}${entry.name}/`, found);
    }
  }

  // A key is printable ASCII: marks are taken off letters, and what is left becomes "_".
  const plainName = (path) => path.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^ -~]/gu, "_");

  async function take(found) {
    if (!found.length) return;
    if (!form.reportValidity()) return;
    if (!running.length) skipped = 0;
    const query = { ttl: form.elements.ttl.value.trim(), overwrite: form.elements.overwrite.checked ? "1" : "" };
    let tasks = found.map(([file, path]) => ({ file, key: prefix + plainName(path), sent: 0, query }));
    const changed = tasks.filter((task, number) => task.key !== prefix + found[number][1]).length;
    try {
      if (!query.overwrite) tasks = await settle(tasks);
    } catch (error) {
      pulzar.say(`Nothing was sent: ${error.message}`, "bad");
      return;
    }
    if (!tasks) return;
    if (changed) pulzar.say(`${changed} name${changed === 1 ? " was" : "s were"} changed, since keys are of ASCII characters.`, "warn");
    files.value = "";
    if (!running.length && !waiting.length && !failed.length) { allFiles = allBytes = done = doneBytes = 0; }
    allFiles += tasks.length;
    allBytes += tasks.reduce((sum, task) => sum + task.file.size, 0);
    waiting.push(...tasks);
    work();
  }

  // Keys that are there already, or twice among the files: asked once for all of them.
  async function settle(tasks) {
    const taken = {}, seen = new Set();
    for (let at = 0; at < tasks.length; at += ASKED_AT_ONCE) {
      const keys = [...new Set(tasks.slice(at, at + ASKED_AT_ONCE).map((task) => task.key))];
      Object.assign(taken, (await post("clashes", JSON.stringify({ keys }))).taken);
    }
    for (const task of tasks) {
      if (seen.has(task.key)) taken[task.key] ??= null;
      seen.add(task.key);
    }
    const clashes = Object.keys(taken);
    if (!clashes.length) return tasks;
    const choice = await ask(clashes);
    if (choice === "overwrite") return tasks.map((task) => ({ ...task, query: { ...task.query, overwrite: "1" } }));
    if (choice === "skip") {
      const left = tasks.filter((task) => !(task.key in taken));
      skipped += tasks.length - left.length;
      if (!left.length) pulzar.say("Nothing was sent: all of these keys exist.", "warn");
      return left.length ? left : null;
    }
    if (choice !== "rename") return null;
    return tasks.map((task) => (taken[task.key] ? { ...task, key: taken[task.key] } : task));
  }

  function ask(clashes) {
    return new Promise((answered) => {
      const one = clashes.length === 1;
      const names = clashes.slice(0, 5).map((key) => element("li", { className: "key", textContent: key }));
      if (clashes.length > 5) names.push(element("li", { textContent: `and ${clashes.length - 5} more` }));
      const row = element("div", { className: "row" });
      const question = element("h2", { textContent: one ? "This key exists" : `${clashes.length} of these keys exist` });
      const dialog = element("dialog", {}, element("article", {}, question, element("ul", {}, ...names), row));
      for (const [value, label, kind] of [["", "Leave it", "secondary"], ["skip", one ? "Skip it" : "Skip these", "secondary"], ["rename", "Keep both", "secondary"], ["overwrite", "Replace", "danger"]]) {
        const button = element("button", { type: "button", className: kind, textContent: label });
        button.addEventListener("click", () => { dialog.returnValue = value; dialog.close(value); });
        row.append(button);
      }
      dialog.addEventListener("close", () => { dialog.remove(); answered(dialog.returnValue); });
      document.body.append(dialog);
      dialog.showModal();
    });
  }

  async function post(name, body, query = {}) {
    const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
    const response = await fetch(`${root}keys/${name}?${given}`, { method: "POST", headers: csrf, body });
    const told = await response.json();
    if (!response.ok) throw new Error(told.msg);
    return told.data;
  }

  function work() {
    while (running.length < AT_ONCE && waiting.length) {
      const task = waiting.shift();
      running.push(task);
      send(task).then(() => { done += 1; doneBytes += task.file.size; }, (error) => {
        if (task.cancelled) allBytes -= task.file.size;
        else failed.push(Object.assign(task, { reason: error.message }));
      }).finally(() => {
        running.splice(running.indexOf(task), 1);
        if (!waiting.length && !running.length) finish();
        work();
      });
    }
    draw();
  }

  async function send(task) {
    const { file, key, query } = task;
    Object.assign(task, { sent: 0, reason: "", cancelled: false, stop: () => { task.cancelled = true; } });
    const here = `${root}keys/put?${new URLSearchParams(Object.entries({ key, ...query }).filter(([, value]) => value))}`;
    if (file.size > directBytes && direct) {
      const place = (await post("place", null, { key, ...query })).node;
      // A page that came by HTTPS may not send anything by HTTP.
      if (!task.cancelled && (location.protocol !== "https:" || place.startsWith("https:"))) {
        try {
          return await put(task, place, {}, SILENT_MS);
        } catch (error) {
          if (!error.unreached || task.cancelled) throw error;
          direct = false; // this browser does not reach the nodes, and the master passes on what it gets
        }
      }
    }
    if (task.cancelled) throw new Error("it was cancelled");
    return put(task, here, csrf);
  }

  function put(task, url, headers, silentMs = 0) {
    return new Promise((good, bad) => {
      const request = new XMLHttpRequest();
      let timer = silentMs && setTimeout(() => request.abort(), silentMs);
      task.stop = () => { task.cancelled = true; request.abort(); };
      request.upload.addEventListener("progress", (event) => {
        if (event.loaded) clearTimeout(timer);
        task.sent = Math.min(event.loaded, task.file.size);
      });
      request.addEventListener("load", () => {
        if (request.status === 201) { task.sent = task.file.size; good(); return; }
        bad(new Error(reason(request)));
      });
      for (const name of ["error", "abort"]) {
        request.addEventListener(name, () => {
          const unreached = Boolean(silentMs) && !task.sent;
          bad(Object.assign(new Error(task.cancelled ? "it was cancelled" : "the connection broke"), { unreached }));
        });
      }
      request.addEventListener("loadend", () => clearTimeout(timer));
      request.open("PUT", url);
      if (task.file.type) request.setRequestHeader("Content-Type", task.file.type);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.send(task.file);
    });
  }

  function reason(request) {
    try {
      return JSON.parse(request.responseText).msg;
    } catch {
      return `status ${request.status}`;
    }
  }

  // What is shown: one bar for all, a row for each that runs or has failed.
  const title = element("strong", { ariaLive: "polite" });
  const bar = element("progress", { max: 1, ariaLabel: "Upload" });
  const figures = element("p");
  const list = element("ul");
  const buttons = element("div", { className: "row" });
  const cancel = element("button", { type: "button", className: "secondary", textContent: "Cancel all" });
  const again = element("button", { type: "button", className: "secondary", textContent: "Try all again" });
  buttons.append(cancel, again);
  box.append(title, bar, figures, list, buttons);
  cancel.addEventListener("click", () => {
    for (const task of waiting.splice(0)) allBytes -= task.file.size;
    running.forEach((task) => task.stop());
    draw();
  });
  again.addEventListener("click", () => { waiting.push(...failed.splice(0)); work(); });

  const rows = new Map();
  function row(task) {
    let made = rows.get(task);
    if (!made) {
      const text = element("span", { className: "key" });
      const button = element("button", { type: "button", className: "quiet" });
      button.addEventListener("click", () => {
        if (failed.includes(task)) { failed.splice(failed.indexOf(task), 1); waiting.push(task); work(); } else task.stop();
      });
      made = { text, button, item: element("li", {}, text, button) };
      rows.set(task, made);
    }
    return made;
  }

  function draw() {
    box.hidden = false;
    const sent = doneBytes + running.reduce((sum, task) => sum + task.sent, 0);
    const now = performance.now();
    samples.push([now, sent]);
    samples = samples.filter(([at]) => now - at < 4000);
    const [since, before] = samples[0];
    const speed = now - since > 300 ? Math.max(0, (sent - before) / ((now - since) / 1000)) : 0;
    const busy = running.length + waiting.length;
    bar.value = allBytes ? sent / allBytes : done ? 1 : 0;
    const left = speed ? (allBytes - sent) / speed : 0;
    const told = busy ? `Storing ${allFiles} file${allFiles === 1 ? "" : "s"}` : ended();
    if (title.textContent !== told) title.textContent = told;
    figures.textContent = busy ? `${done} done, ${size(sent)} of ${size(allBytes)}${speed ? `, ${size(speed)}/s, ${Math.ceil(left)} s left` : ""}` : "";
    const shown = [...running, ...failed].slice(0, SHOWN);
    for (const [task, made] of rows) if (!shown.includes(task)) { made.item.remove(); rows.delete(task); }
    for (const task of shown) {
      const { text, button, item } = row(task);
      const bad = failed.includes(task);
      text.textContent = bad ? `${task.key}: ${task.reason} ` : `${task.key} ${task.file.size ? Math.floor(100 * task.sent / task.file.size) : 0} % `;
      button.textContent = bad ? "Try again" : "Cancel";
      button.setAttribute("aria-label", `${button.textContent}: ${task.key}`);
      if (!item.isConnected) list.append(item);
    }
    cancel.hidden = bar.hidden = figures.hidden = !busy;
    again.hidden = busy || failed.length < 2;
  }

  function ended() {
    const parts = [`Stored ${done} file${done === 1 ? "" : "s"}`];
    if (failed.length) parts.push(`${failed.length} could not be stored`);
    if (skipped) parts.push(`skipped ${skipped}`);
    return parts.join(", ");
  }

  const size = (bytes) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let unit = 0;
    while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
    return `${bytes < 99.5 && unit ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
  };

  function finish() {
    draw();
    if (done) htmx.trigger("#list", "stored");
  }

  setInterval(() => { if (running.length) draw(); }, 300);
  window.addEventListener("beforeunload", (event) => { if (running.length) event.preventDefault(); });
})();
