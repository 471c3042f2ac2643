#!/usr/bin/env bash
# undici 7.30.2 from npm, on Node.js 20.20.2: a redirect interceptor, set up as its documentation shows.
# Guessed: mentioning a global of the language's own fetch, such as FormData or Headers, has no effect on the package.
# Seen: one mention of globalThis.FormData or globalThis.Headers before the package is loaded, and the package's
# getGlobalDispatcher() gives Node's built-in agent of another undici version: every request through the composed interceptor fails
# with "invalid onError method". A mention of globalThis.fetch or of Blob changes nothing. So whether a program
# works depends on an expression without any effect in another module, and on the order of imports.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund undici@7.30.2 >/dev/null
cat >try.cjs <<'END'
const name = process.argv[2];
if (name) void globalThis[name];
const { request, getGlobalDispatcher, interceptors, Agent } = require("undici");
const server = require("node:http").createServer((_, response) => response.end("here"));
server.listen(0, "127.0.0.1", async () => {
  let said;
  try {
    const dispatcher = getGlobalDispatcher().compose(interceptors.redirect({ maxRedirections: 3 }));
    const answer = await request(`http://127.0.0.1:${server.address().port}/`, { dispatcher });
    said = `${answer.statusCode} ${await answer.body.text()}`;
  } catch (error) {
    said = `${error.name}: ${error.message}`;
  }
  console.log(`${name || "nothing"}: ${said}; its own agent: ${getGlobalDispatcher() instanceof Agent}`);
  server.close();
});
END
node -e 'console.log("Node.js", process.version, "with undici", process.versions.undici, "inside; npm undici", require("undici/package.json").version)'
for name in "" fetch Blob FormData Headers; do node try.cjs $name; done | tee seen
diff seen - <<'END'
nothing: 200 here; its own agent: true
fetch: 200 here; its own agent: true
Blob: 200 here; its own agent: true
FormData: InvalidArgumentError: invalid onError method; its own agent: false
Headers: InvalidArgumentError: invalid onError method; its own agent: false
END
