#!/usr/bin/env bash
# uvloop 0.21.0 and Python's multiprocessing.connection: an event loop reads a connection by a duplicate of its descriptor
# (loop.add_reader), and threads go on to send over it.
# Guessed: add_reader only watches the descriptor, as asyncio's does, so sending blocks while the other end is slow.
# Seen: uvloop (libuv) makes the descriptor non-blocking, and with it every duplicate. A long send_bytes then fails in the middle
# with BlockingIOError. The connection stays open, and the other end takes the next message for the rest of this one: from then
# on it waits for bytes that never come. With asyncio's own loop both messages arrive.
# Nothing happens until a message meets a full buffer, which tests of short messages never see.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q install uvloop==0.21.0 >/dev/null 2>&1
cat >try.py <<'END'
import asyncio, multiprocessing, os, threading, time

import uvloop

def receive(connection, got):
    time.sleep(0.5)  # it is slow for a moment
    while connection.poll(1):
        got.append(len(connection.recv_bytes()))

def ask(name, loop):
    ours, theirs = multiprocessing.Pipe()
    watched = os.dup(ours.fileno())
    loop.add_reader(watched, lambda: None)
    got = []
    # A daemon: it may wait for the rest of a message for ever.
    reader = threading.Thread(target=receive, args=(theirs, got), daemon=True)
    reader.start()
    said = []
    for size in (4_000_000, 10):
        try:
            ours.send_bytes(bytes(size))
            said.append("sent")
        except BlockingIOError:
            said.append("BlockingIOError")
        time.sleep(1)
    reader.join(4)
    print(f"{name}: blocking {os.get_blocking(ours.fileno())}, {', '.join(said)}; received {got}, waits {reader.is_alive()}")

print("uvloop", uvloop.__version__)
ask("asyncio", asyncio.SelectorEventLoop())
ask("uvloop", uvloop.new_event_loop())
os._exit(0)
END
venv/bin/python -u try.py | tee seen
diff seen - <<'END'
uvloop 0.21.0
asyncio: blocking True, sent, sent; received [4000000, 10], waits False
uvloop: blocking False, BlockingIOError, sent; received [], waits True
END
