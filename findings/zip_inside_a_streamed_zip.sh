#!/usr/bin/env bash
# fflate 0.8.2 and unzipper 0.12.3 from npm, stream-unzip 0.0.101 from PyPI; a ZIP that Python's zipfile wrote to a pipe.
# Such a writer does not know size and CRC beforehand, so it puts them behind each member (a data descriptor).
# Guessed: a reader of streams either reads stored members with a descriptor, or refuses them.
# Seen: stream-unzip refuses them. The other two look for a descriptor's signature among the bytes of the member. A member
# that is a streamed ZIP has such signatures, and comes out with another length: longer from fflate, which also shows
# the inner file as a member of the outer archive; shorter from unzipper, which then ends with neither an error nor
# its end, one member missing. Neither reports anything. In the file all is right: zipfile reads it whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund fflate@0.8.2 unzipper@0.12.3 >/dev/null
python3 -m venv venv
venv/bin/pip -q install stream-unzip==0.0.101 >/dev/null 2>&1
cat >write.py <<'END'
import io, zipfile
class Pipe(io.RawIOBase):
    def __init__(self): self.taken = bytearray()
    def writable(self): return True
    def write(self, data): self.taken += data; return len(data)
def streamed(members):
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), data)
    return bytes(pipe.taken)
inner = streamed([("report.txt", b"one line of text\n" * 100)])
open("outer.zip", "wb").write(streamed([("notes.txt", b"plain text\n"), ("inner.zip", inner), ("last.txt", b"end\n")]))
with zipfile.ZipFile("outer.zip") as archive:
    print("zipfile:", ", ".join(f"{row.filename} {len(archive.read(row))}" for row in archive.infolist()))
END
cat >fflate.cjs <<'END'
const { Unzip, UnzipInflate, UnzipPassThrough } = require("fflate");
const seen = [];
const unzip = new Unzip((file) => {
  let size = 0;
  file.ondata = (error, data, last) => {
    if (error) seen.push(`${file.name} ${error.message}`);
    else if ((size += data.length, last)) seen.push(`${file.name} ${size}`);
  };
  file.start();
});
unzip.register(UnzipPassThrough);
unzip.register(UnzipInflate);
let said = "no error";
try { unzip.push(new Uint8Array(require("fs").readFileSync("outer.zip")), true); } catch (error) { said = error.message; }
console.log(`fflate: ${seen.join(", ")}; ${said}`);
END
cat >unzipper.cjs <<'END'
const seen = [];
let said = "neither error nor end";
const parse = require("fs").createReadStream("outer.zip").pipe(require("unzipper").Parse());
parse.on("entry", (entry) => entry.buffer().then((data) => seen.push(`${entry.path} ${data.length}`)));
parse.on("error", (error) => { said = error.message.replace(/0x.*/, "…"); });
parse.on("close", () => { said = "no error"; });
process.on("exit", () => console.log(`unzipper: ${seen.join(", ")}; ${said}`));
END
cat >stream.py <<'END'
from stream_unzip import UnsupportedFeatureError, stream_unzip
try:
    print("stream-unzip:", [(name, len(b"".join(data))) for name, _, data in stream_unzip([open("outer.zip", "rb").read()])])
except UnsupportedFeatureError as error:
    print("stream-unzip:", type(error).__name__)
END
{
    python3 write.py
    node fflate.cjs
    node unzipper.cjs
    venv/bin/python stream.py
} | tee seen
diff seen - <<'END'
zipfile: notes.txt 11, inner.zip 1834, last.txt 4
fflate: notes.txt 11, inner.zip 2082, report.txt 1700, last.txt 4; no error
unzipper: notes.txt 11, inner.zip 1740; neither error nor end
stream-unzip: NotStreamUnzippable
END
