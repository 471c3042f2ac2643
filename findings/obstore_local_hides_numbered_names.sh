#!/usr/bin/env bash
# obstore 0.12.1 (Rust's object_store): a store in a directory and one in memory, and names that end with # and digits.
# Guessed: both take the same names, and a listing of a directory names every file in it.
# Seen: the store in memory takes "report#1". The one in a directory refuses to write or read it, and its listing leaves out
# such files without an error. "report#x" and "c#3/d" are fine: it takes only a last "#<digits>" for an unfinished upload of its own.
# A program that copies a directory by listing it loses those files, and its own count of them agrees.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q install obstore==0.12.1 >/dev/null 2>&1
cat >try.py <<'END'
import pathlib

import obstore
from obstore.store import LocalStore, MemoryStore

print("obstore", obstore.__version__)
pathlib.Path("data/c#3").mkdir(parents=True)
for name in ("plain", "report#1", "report#x", "c#3/d", "c#3/e#22"):
    pathlib.Path("data", name).write_text("x")
def names(store):
    return sorted(row["path"] for batch in store.list() for row in batch)
local = LocalStore("data")
print("in the directory:", sorted(str(path.relative_to("data")) for path in pathlib.Path("data").rglob("*") if path.is_file()))
print("listed:", names(local))
memory = MemoryStore()
for name, store in (("memory", memory), ("directory", local)):
    try:
        store.put("new#7", b"x")
        print(f"{name}: new#7 is stored, listed: {'new#7' in names(store)}")
    except Exception as error:
        print(f"{name}: new#7 is refused: {str(error).splitlines()[0]}")
END
venv/bin/python try.py | tee seen
diff seen - <<'END'
obstore 0.12.1
in the directory: ['c#3/d', 'c#3/e#22', 'plain', 'report#1', 'report#x']
listed: ['c#3/d', 'plain', 'report#x']
memory: new#7 is stored, listed: True
directory: new#7 is refused: Generic LocalFileSystem error: Filenames containing trailing '/#\d+/' are not supported: new#7
END
