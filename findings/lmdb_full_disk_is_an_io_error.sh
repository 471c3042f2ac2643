#!/usr/bin/env bash
# lmdb 3.0.0 from PyPI: commits until the disk is full, 27 times, each with a disk of another size. The disk is a limit of
# file size (RLIMIT_FSIZE): as a full filesystem does, the kernel then takes a part of a write and refuses the next one.
# Guessed: the commit fails with the system's word for "no room" (here EFBIG), as an lmdb.DiskError.
# Seen: 26 times it is EIO, "Input/output error", as a plain lmdb.Error. LMDB takes any short write for that and does not
# ask again. Only where the room ends exactly between two writes is it the system's error. So a full disk looks like a
# broken one, and who waits for ENOSPC or DiskError misses it nearly always. What was committed before is there each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q install lmdb==3.0.0 >/dev/null 2>&1
cat >full.py <<'END'
import resource, sys
import lmdb
limit = int(sys.argv[1]) * 4096
env = lmdb.open(f"env-{limit}", map_size=1 << 30, sync=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
stored = 0
try:
    while True:
        with env.begin(write=True) as txn:
            for number in range(stored, stored + 50):
                txn.put(b"%08d" % number, bytes(1000))
        stored += 50
except lmdb.Error as error:
    said = f"{type(error).__name__}: {str(error).rpartition(': ')[2]}"
with env.begin() as txn:
    good = sum(len(value) == 1000 for _, value in txn.cursor())
print(f"{said}; {'all' if good == stored else 'not all'} of what was committed is there")
END
venv/bin/python -c 'import lmdb; print("lmdb", lmdb.__version__, "with LMDB", ".".join(map(str, lmdb.version())))'
for pages in $(seq 60 3 140); do venv/bin/python full.py "$pages"; done | sort | uniq -c | sed 's/^ *//' | tee seen
diff seen - <<'END'
1 Error: File too large; all of what was committed is there
26 Error: Input/output error; all of what was committed is there
END
