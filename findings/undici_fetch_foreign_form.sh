#!/usr/bin/env bash
# undici 7.30.2 from npm, on Node.js 20.20.2: its fetch is given a FormData, the class that Node.js has as a global.
# Guessed: it is sent as multipart/form-data, or refused with a TypeError, since it is of another implementation.
# Seen: 17 bytes of text/plain arrive, "[object FormData]", without an error; the file is lost. With the package's own
# FormData the form arrives. (Its `request` refuses the foreign one.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund undici@7.30.2 >/dev/null
cat >try.cjs <<'END'
const undici = require("undici");
const server = require("node:http").createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  console.log(`${request.headers["content-type"].split(";")[0]}: ${body.length < 40 ? body : "a form"}`);
  response.end();
});
server.listen(0, "127.0.0.1", async () => {
  const url = `http://127.0.0.1:${server.address().port}/`;
  for (const Form of [globalThis.FormData, undici.FormData]) {
    const form = new Form();
    form.set("file", new Blob(["content"]), "name.txt");
    await undici.fetch(url, { method: "PUT", body: form });
  }
  server.close();
});
END
node -e 'console.log("Node.js", process.version, "npm undici", require("undici/package.json").version)'
node try.cjs | tee seen
diff seen - <<'END'
text/plain: [object FormData]
multipart/form-data: a form
END
