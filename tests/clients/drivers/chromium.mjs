// Debian's Chromium: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
// A page of another origin than the store's, http://127.0.0.1:$CLIENTS_PORT, works as a web application does.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";

const [client, operation, url, file] = process.argv.slice(2);
const { chromium } = createRequire(`${process.env.CLIENTS_NPM}/package.json`)("playwright-core");

const PAGE = `<!doctype html><title>clients</title><input type=file><script>
const chosen = () => document.querySelector("input").files[0];

function body(operation) {
  if (operation === "put") return chosen();
  const form = new FormData();
  form.set("file", chosen());
  return form;
}

// The rest from byte "from" on, or all of it.
const headers = (operation, from) => (operation === "resume" ? { Range: "bytes=" + from + "-" } : {});

async function toText(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] ?? "");
    reader.readAsDataURL(blob);
  });
}

async function byFetch(operation, url, from) {
  if (operation === "head") {
    const answer = await fetch(url, { method: "HEAD" });
    return { status: answer.status, said: answer.headers.get("content-length") };
  }
  if (operation === "again") {
    const first = await fetch(url, { method: "PUT", body: chosen() });
    await first.text();
    const answer = await fetch(url.replace("/add_key/", "/get_key/"));
    return { status: answer.status, said: String(first.status), value: await toText(await answer.blob()) };
  }
  const reads = operation === "get" || operation === "resume";
  const options = reads ? { headers: headers(operation, from) } : { method: "PUT", body: body(operation) };
  const answer = await fetch(url, options);
  if (reads) return { status: answer.status, value: await toText(await answer.blob()) };
  return { status: answer.status, said: await answer.text() };
}

function byXhr(operation, url, from) {
  return new Promise((resolve, reject) => {
    const reads = operation === "get" || operation === "resume";
    const request = new XMLHttpRequest();
    request.open(reads ? "GET" : "PUT", url);
    for (const [name, value] of Object.entries(headers(operation, from))) request.setRequestHeader(name, value);
    if (reads) request.responseType = "blob";
    request.onerror = () => reject(new Error("network error"));
    request.onload = async () =>
      resolve(
        reads
          ? { status: request.status, value: await toText(request.response) }
          : { status: request.status, said: request.responseText },
      );
    request.send(reads ? null : body(operation));
  });
}

async function byNode(operation, url) {
  const asked = await fetch(url.replace("/add_key/", "/get_node/"));
  const { data, msg } = await asked.json();
  if (!asked.ok) return { status: asked.status, said: msg };
  return byFetch(operation, data.node);
}

// Plays near the end, then near the beginning, then in the middle: each asks for another part.
async function byAudio(operation, url) {
  const audio = new Audio(url);
  audio.preload = "metadata";
  await new Promise((resolve, reject) => {
    audio.onloadedmetadata = resolve;
    audio.onerror = () => reject(new Error("audio error: " + audio.error.message));
  });
  const places = [];
  for (const part of [0.95, 0.1, 0.6]) {
    await new Promise((resolve) => {
      audio.onseeked = resolve;
      audio.currentTime = audio.duration * part;
    });
    places.push(audio.currentTime.toFixed(1));
  }
  return { status: 206, said: "of " + audio.duration.toFixed(1) + " s at " + places.join(", "), done: true };
}

const CLIENTS = { fetch: byFetch, xhr: byXhr, node: byNode, audio: byAudio };
</script>`;

async function inBrowser(page) {
  await page.goto(`http://127.0.0.1:${process.env.CLIENTS_PORT}/`);
  const from = fs.existsSync(file) ? fs.statSync(file).size : 0;
  if (["put", "form", "again"].includes(operation)) await page.setInputFiles("input", file);
  const seen = await page.evaluate(
    async ([client, operation, url, from]) => {
      try {
        return await CLIENTS[client](operation, url, from);
      } catch (error) {
        return { status: null, said: `${error.name}: ${error.message}` };
      }
    },
    [client, operation, url, from],
  );
  if (seen.value !== undefined) {
    fs.writeFileSync(file, Buffer.from(seen.value, "base64"), { flag: operation === "resume" ? "a" : "w" });
  }
  return { status: seen.status, said: seen.said ?? "", done: seen.done ?? false };
}

const profile = fs.mkdtempSync(path.join(path.dirname(file), "chromium-"));
const server = http.createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end(PAGE));
await new Promise((resolve) => server.listen(Number(process.env.CLIENTS_PORT), "127.0.0.1", resolve));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CLIENTS_CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
try {
  console.log(JSON.stringify(await inBrowser(await context.newPage())));
} finally {
  await context.close();
  fs.rmSync(profile, { recursive: true, force: true });
  server.close();
  server.closeAllConnections();
}
