"""Pictures of every screen: `ops/screenshots DIR [URL]`. A screen is a row of `SCREENS`.

`ops/screenshots --readme` makes the two of README anew.
"""

from __future__ import annotations

import http.client
import json
import queue
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from PIL import Image
from playwright.sync_api import sync_playwright

from broker import topology
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Announce
from ops.cluster import Cluster
from ops.cluster.network import free_base
from tests import pictures
from tests.ui.browser import DESKTOP, PHONE, launch, open_page

LONG = "media/" + "/".join(f"a folder with a long name {number:02}" for number in range(12)) + "/settings.json"
# Name of the picture, and the address of the screen.
SCREENS = {
    "cluster": "/ui/",
    "node": "/ui/nodes/node-1",
    "keys": "/ui/keys?prefix=reports/2026/",
    "keys-found": "/ui/keys?q=long",
    "keys-deleted": "/ui/keys/deleted",
    "keys-empty": "/ui/keys?prefix=nothing/",
    "key-picture": "/ui/keys/show?key=media/scene.png",
    "key-sound": "/ui/keys/show?key=media/quiet.wav",
    "key-json": f"/ui/keys/show?key={LONG}",
    "key": "/ui/keys/show?key=reports/2026/01/a%20report%20with%20a%20long%20name.csv",
    "extensions": "/ui/extensions",
    "extension": "/ui/extensions/image",
    "api": "/ui/api",
    "api-route": "/ui/api?q=launch_job",
    "jobs": "/ui/jobs",
    "launch": "/ui/jobs/launch?script=keys/clean",
    "job": "/ui/jobs/4",
    "history": "/ui/jobs/history?script=example/factorial",
    "schedules": "/ui/schedules",
    "schedule": "/ui/schedules/5",
    "dead": "/ui/dead",
    "letter": "/ui/dead/show?id=590bcf0b60b008984cf706668591dac5",
    "backup": "/ui/backup",
    "settings": "/ui/settings",
    "verify": "/ui/verify?node=node-1",
    "tokens": "/ui/tokens",
    "audit": "/ui/tokens/audit",
    "error": "/ui/nodes/nobody",
}
SETTLE_MS = 600
# Those of README: name, address, light or dark. They are in docs/pictures, in few colours and of one size.
README = (("cluster", "/ui/", "light"), ("keys", "/ui/keys?prefix=media/", "dark"))
README_FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
README_SIZE = {"width": 1200, "height": 640}
README_COLOURS = 64
MEDIA = ("cover.png", "interview.mp3", "numbers.csv", "plan.pdf", "readme.md", "settings.json", "talk.mp4")


def fill(url: str) -> None:
    """Something to be seen: keys and jobs."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    for number in range(30):
        key = f"reports/2026/{number:02}/a report with a long name.csv".replace(" ", "%20")
        _ask(connection, "PUT", f"/add_key/{key}", b"a,b\n1,2\n" * 200, {"Content-Type": "text/csv"})
    for number in range(4):
        _ask(connection, "PUT", f"/add_key/reports/2026/page%20{number}.txt?ttl=7d", b"words " * 10**number)
    _ask(connection, "PUT", f"/add_key/{quote(LONG)}", b'{"name": "store", "limits": [1, 2.5, null], "open": true}')
    _ask(connection, "PUT", "/add_key/media/scene.png", pictures.packed(pictures.scene()))
    _ask(
        connection,
        "PUT",
        "/add_key/media/quiet.wav",
        b"RIFF\x24\x27\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data\0\x27\0\0" + b"\x80" * 9984,
    )
    for name in ("old.txt", "drafts/old.txt"):
        _ask(connection, "PUT", f"/add_key/{name}", b"precious")
        _ask(connection, "DELETE", f"/delete_key/{name}", b"")
    for number, name in enumerate(("june/1.jpg", "june/2.jpg", "july/1.jpg", *MEDIA), 1):
        _ask(connection, "PUT", f"/add_key/media/{name}", bytes(number * 7_000))
    for number in (5, 7, 12):
        _ask(connection, "POST", "/launch_job/example/factorial", json.dumps({"number": number}).encode())
    _ask(connection, "POST", "/launch_job/example/fibonacci", json.dumps({"count": 40}).encode())
    every: tuple[dict[str, object], ...] = (
        {"cron": "*/15 * * * *"},
        {"cron": "0 9 * * 1", "zone": "Europe/Vienna"},
        {"interval": "days", "time_unit": 1, "repeat": 1},
    )
    for rhythm in every:
        _ask(
            connection, "POST", "/launch_job/example/factorial", json.dumps({"number": 7, "scheduled": rhythm}).encode()
        )
    _ask(connection, "POST", "/scheduled_jobs/5/run", b"")
    _ask(connection, "POST", "/scheduled_jobs/7/pause", b"")
    connection.close()


def bury(broker_url: str) -> None:
    """Dead letters to be seen, unless they are there."""
    link = Link(broker_url, "pictures", list)
    link.start()
    link.wait(30)
    there: queue.Queue[bool] = queue.Queue()
    with link.window(topology.DEAD) as window:
        found: list[object] = []
        window.take(lambda held: found.append(held.headers.get("id")) is None)
    bodies = [
        (b'{"job": "example/factorial", "argumets": {"number": 5}}', "a job has no field 'argumets'", topology.JOBS),
        (
            b'{"job": "no job at all", "note": "' + b"a long text " * 40 + b'"}',
            "job = 'no job at all' is no job",
            topology.JOBS,
        ),
        (encode(Announce("hello")), "a Announce message on pulzar.results", topology.RESULTS),
        (bytes(range(256)), "not a msgpack message of 256 bytes", topology.node_queue("node-1")),
    ]
    for number, (body, reason, name) in enumerate(bodies, 1):
        if f"picture{number}" not in found:
            headers = {"id": f"picture{number}", "reason": reason, "queue": name, "by": "pulzar node node-1"}
            headers |= {"at": int(time.time()) - 3600 * number}
            link.publish(topology.DEAD, body, durable=True, headers=headers, done=there.put)
            there.get(timeout=30)
    link.stop()


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str] | None = None
) -> None:
    connection.request(method, path, body, headers or {})
    connection.getresponse().read()


def take(url: str, directory: Path) -> None:
    """All pictures of the master at `url`."""
    directory.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for place, size in (("desktop", DESKTOP), ("phone", PHONE)):
            for scheme in ("light", "dark"):
                with open_page(browser, url, **size, color_scheme=scheme) as (page, watch):
                    for name, path in SCREENS.items():
                        page.goto(path)
                        page.wait_for_timeout(SETTLE_MS)
                        page.screenshot(path=directory / f"{name}-{place}-{scheme}.png", full_page=True)
                    for error in watch.errors:
                        print(f"{place} {scheme}: {error}")
        browser.close()
    print(f"pictures in {directory}")


def take_for_readme(url: str) -> None:
    """The pictures of README."""
    README_FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for name, path, scheme in README:
            file = README_FOLDER / f"{name}.png"
            with open_page(browser, url, **README_SIZE, color_scheme=scheme) as (page, _):
                page.goto(path)
                page.wait_for_timeout(SETTLE_MS)
                page.screenshot(path=file)
            with Image.open(file) as picture:
                few = picture.convert("RGB").quantize(README_COLOURS, dither=Image.Dither.NONE)
            few.save(file, optimize=True)
            print(f"{file}: {file.stat().st_size} bytes")
        browser.close()


def main() -> int:
    """The command."""
    if not 2 <= len(sys.argv) <= 3:
        print("use: ops/screenshots DIR [URL], or ops/screenshots --readme", file=sys.stderr)
        return 2
    directory = Path(sys.argv[1]).resolve()
    if len(sys.argv) == 3:
        take(sys.argv[2], directory)
        return 0
    with tempfile.TemporaryDirectory() as place, Cluster(Path(place), free_base()) as cluster:
        fill(cluster.master_url)
        bury(cluster.broker_url)
        if sys.argv[1] == "--readme":
            take_for_readme(cluster.master_url)
            return 0
        take(cluster.master_url, directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
