// Clients of Node.js: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { Readable } from "node:stream";

const [client, operation, url, file] = process.argv.slice(2);
// The packages are installed elsewhere: CLIENTS_NPM is that folder.
const require = createRequire(`${process.env.CLIENTS_NPM}/package.json`);
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const size = () => fs.statSync(file).size;
const bytes = () => fs.readFileSync(file);
const stream = () => fs.createReadStream(file);
const blob = () => new Blob([bytes()]);
// Where the value is read that is stored at this address.
const ofValue = url.replace("/add_key/", "/get_key/");

async function* blocks() {
  for await (const block of stream()) yield block;
}

function form(FormData = globalThis.FormData) {
  const form = new FormData();
  form.set("file", blob(), "value");
  return form;
}

// fetch in any of its implementations.
function fetching(body, fetch, pipe = () => Readable.toWeb(stream()), FormData = undefined) {
  return async () => {
    if (operation === "get") {
      const answer = await fetch(url);
      fs.writeFileSync(file, Buffer.from(await answer.arrayBuffer()));
      return [answer.status, ""];
    }
    if (operation === "head") {
      const answer = await fetch(url, { method: "HEAD" });
      return [answer.status, answer.headers.get("content-length")];
    }
    if (operation === "again") {
      const first = await fetch(url, { method: "PUT", body: body() });
      await first.text();
      const answer = await fetch(ofValue);
      fs.writeFileSync(file, Buffer.from(await answer.arrayBuffer()));
      return [answer.status, String(first.status)];
    }
    const chosen = { put: body, stream: pipe, form: () => form(FormData) }[operation]();
    const options = { method: "PUT", body: chosen };
    if (operation === "stream") options.duplex = "half";
    const answer = await fetch(url, options);
    return [answer.status, await answer.text()];
  };
}

async function ky(body) {
  const { default: ky } = await load("ky");
  const ask = { get: ky.get, head: ky.head }[operation] ?? ky.put;
  return fetching(body, async (url, options) => ask(url, options))();
}

async function undiciRequest(follow) {
  const { request, getGlobalDispatcher, interceptors, FormData } = await load("undici");
  const dispatcher = follow
    ? getGlobalDispatcher().compose(interceptors.redirect({ maxRedirections: 3 }))
    : getGlobalDispatcher();
  if (operation === "get") {
    const answer = await request(url, { dispatcher });
    fs.writeFileSync(file, Buffer.from(await answer.body.arrayBuffer()));
    return [answer.statusCode, ""];
  }
  if (operation === "head") {
    const answer = await request(url, { dispatcher, method: "HEAD" });
    return [answer.statusCode, answer.headers["content-length"]];
  }
  if (operation === "again") {
    const first = await request(url, { dispatcher, method: "PUT", body: bytes() });
    await first.body.text();
    const answer = await request(ofValue, { dispatcher });
    fs.writeFileSync(file, Buffer.from(await answer.body.arrayBuffer()));
    return [answer.statusCode, String(first.statusCode)];
  }
  // It knows its own kind of form only
  const body = { put: bytes, stream, form: () => form(FormData) }[operation]();
  const answer = await request(url, { dispatcher, method: "PUT", body });
  return [answer.statusCode, await answer.body.text()];
}

async function axios(streamed) {
  const { default: axios } = await load("axios");
  if (operation === "get") {
    const answer = await axios.get(url, { responseType: "arraybuffer" });
    fs.writeFileSync(file, answer.data);
    return [answer.status, ""];
  }
  if (operation === "head") {
    const answer = await axios.head(url);
    return [answer.status, answer.headers["content-length"]];
  }
  if (operation === "again") {
    const one = axios.create({ httpAgent: new http.Agent({ keepAlive: true }) });
    const first = await one.put(url, bytes()).catch((error) => error.response);
    const answer = await one.get(ofValue, { responseType: "arraybuffer" });
    fs.writeFileSync(file, answer.data);
    return [answer.status, String(first.status)];
  }
  let answer;
  if (operation === "form") answer = await axios.putForm(url, { file: stream() });
  else if (operation === "stream") answer = await axios.put(url, stream());
  else if (streamed) answer = await axios.put(url, stream(), { headers: { "Content-Length": size() } });
  else answer = await axios.put(url, bytes());
  return [answer.status, JSON.stringify(answer.data)];
}

async function got(streamed) {
  const { default: got } = await load("got");
  if (operation === "get") {
    const answer = await got(url);
    fs.writeFileSync(file, answer.rawBody);
    return [answer.statusCode, ""];
  }
  if (operation === "head") {
    const answer = await got.head(url);
    return [answer.statusCode, answer.headers["content-length"]];
  }
  if (operation === "again") {
    const one = got.extend({ agent: { http: new http.Agent({ keepAlive: true }) }, throwHttpErrors: false });
    const first = await one.put(url, { body: bytes() });
    const answer = await one(ofValue);
    fs.writeFileSync(file, answer.rawBody);
    return [answer.statusCode, String(first.statusCode)];
  }
  const body = { put: streamed ? stream : bytes, stream, form }[operation]();
  const headers = streamed ? { "content-length": String(size()) } : {};
  const answer = await got.put(url, { body, headers });
  return [answer.statusCode, answer.body];
}

async function superagent() {
  const { default: superagent } = await load("superagent");
  if (operation === "get") {
    const answer = await superagent.get(url).buffer(true).parse(superagent.parse.image);
    fs.writeFileSync(file, answer.body);
    return [answer.status, ""];
  }
  if (operation === "head") {
    const answer = await superagent.head(url);
    return [answer.status, answer.headers["content-length"]];
  }
  if (operation === "stream") {
    return new Promise((resolve, reject) => {
      const request = superagent.put(url);
      request.on("response", (answer) => resolve([answer.status, answer.text]));
      request.on("error", reject);
      stream().pipe(request);
    });
  }
  const request = superagent.put(url);
  const answer = operation === "form"
    ? await request.attach("file", file)
    : await request.set("Content-Type", "application/octet-stream").send(bytes());
  return [answer.status, answer.text];
}

async function needle(follow) {
  const { default: needle } = await load("needle");
  const options = follow ? { follow_max: 3, follow_keep_method: true } : {};
  if (operation === "get") {
    const answer = await needle("get", url, null, { follow_max: 3, parse: false });
    fs.writeFileSync(file, answer.body);
    return [answer.statusCode, ""];
  }
  if (operation === "head") {
    const answer = await needle("head", url, null, { follow_max: 3 });
    return [answer.statusCode, answer.headers["content-length"]];
  }
  if (operation === "form") {
    const data = { file: { file, content_type: "application/octet-stream" } };
    const answer = await needle("put", url, data, { ...options, multipart: true });
    return [answer.statusCode, JSON.stringify(answer.body)];
  }
  const answer = await needle("put", url, operation === "stream" ? stream() : bytes(), options);
  return [answer.statusCode, JSON.stringify(answer.body)];
}

function httpRequest() {
  return new Promise((resolve, reject) => {
    if (operation === "get") return reject(new Error("no redirect is followed"));
    const headers = operation === "put" ? { "Content-Length": size() } : {};
    const request = http.request(url, { method: "PUT", headers }, async (answer) => {
      let text = "";
      for await (const part of answer) text += part;
      resolve([answer.statusCode, text]);
    });
    request.on("error", reject);
    stream().pipe(request);
  });
}

const CLIENTS = {
  "fetch": fetching(bytes, fetch),
  "fetch-blob": fetching(blob, fetch),
  // With the form of Node.js it would send the text "[object FormData]".
  "undici": async () => {
    const { fetch, FormData } = await load("undici");
    return fetching(bytes, fetch, undefined, FormData)();
  },
  "undici-request": () => undiciRequest(false),
  "undici-request-follow": () => undiciRequest(true),
  "node-fetch": async () => fetching(bytes, (await load("node-fetch")).default, stream)(),
  "node-fetch-blob": async () => fetching(blob, (await load("node-fetch")).default, stream)(),
  "ky": () => ky(bytes),
  "axios": () => axios(false),
  "axios-stream": () => axios(true),
  "got": () => got(false),
  "got-stream": () => got(true),
  "superagent": superagent,
  "needle": () => needle(false),
  "needle-follow": () => needle(true),
  "http": httpRequest,
};

function seen(error) {
  const status = error.response?.statusCode ?? error.response?.status ?? error.status ?? null;
  const causes = [];
  for (let one = error; one; one = one.cause) causes.push(`${one.name}: ${one.message} ${one.code ?? ""}`.trim());
  return { status, said: causes.join(" < ") };
}

let said;
try {
  const [status, text] = await CLIENTS[client]();
  said = { status, said: text };
} catch (error) {
  said = seen(error);
}
// A late error of the connection is not what the caller sees.
fs.writeSync(1, `${JSON.stringify(said)}\n`);
process.exit(0);
