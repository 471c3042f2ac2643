#!/usr/bin/env bash
# lmdb 3.0.0 from PyPI: Environment.set_mapsize asks for more than the address space of the process has.
# Guessed: it raises, and the environment goes on with the size it had, as LMDB's own documentation lets one expect.
# Seen: it raises MemoryError (Cannot allocate memory), and from then on the environment is closed: reads, writes and stat raise,
# and only opening it anew helps. What was committed is there. So room must be tried before, not by asking for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check lmdb==3.0.0
cat >try.py <<'END'
import resource

import lmdb


def said(what, work):
    try:
        print(f"{what}: {work()!r}")
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {error}")


def write(env):
    with env.begin(write=True) as txn:
        return txn.put(b"second", b"2")


def read(env):
    with env.begin() as txn:
        return txn.get(b"first")


env = lmdb.open("data", map_size=1 << 20)
with env.begin(write=True) as txn:
    txn.put(b"first", b"1")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
said("grow to 16 MiB", lambda: env.set_mapsize(16 << 20))
said("read", lambda: read(env))
said("grow to 64 GiB", lambda: env.set_mapsize(64 << 30))
said("read", lambda: read(env))
said("write", lambda: write(env))
said("map size", lambda: env.info()["map_size"])
env.close()
env = lmdb.open("data", map_size=16 << 20)
said("read when opened anew", lambda: read(env))
END
venv/bin/python -c 'import lmdb, sys; print("Python", sys.version.split()[0], "lmdb", lmdb.__version__)'
venv/bin/python try.py | tee seen
diff seen - <<'END'
grow to 16 MiB: None
read: b'1'
grow to 64 GiB: MemoryError: mdb_env_set_mapsize: Cannot allocate memory
read: Error: Attempt to operate on closed/deleted/dropped object.
write: Error: Attempt to operate on closed/deleted/dropped object.
map size: Error: Attempt to operate on closed/deleted/dropped object.
read when opened anew: b'1'
END
