"""The benchmark of the extensions: GETs beside them, and a search over all keys."""

from __future__ import annotations

import http.client
import io
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import mean, median, quantiles

from ops import http_client
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, usage
from ops.benchmarks.million import PREFIX, REPLAY_SECS, entries, fill_node
from ops.benchmarks.table import Row, rate_row
from ops.cluster import Cluster
from ops.cluster.network import wait_until

KEYS = 1000
IN_FLIGHT = (1, 16)
AT_ONCE = 8  # requests for OCR
LONGEST_SECS = 120

PAGE = (1240, 1754)  # pixels: A4 at 150 dpi
LINES = 40
WORDS = "The master decides and remembers, RabbitMQ carries, nodes store and run: line {} of the page."

# The names for `--only`, in their order; those of a group share a cluster.
_GROUPS = (("quiet", "ocr"), ("search",))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if not names:
        return
    if names == ["search"]:
        _search(bench)
        return
    # Each request has a process of its own, so all of them run at once.
    with bench.cluster("extensions", PULZAR_EXTENSIONS_PROCESSES=str(AT_ONCE)) as cluster:
        url = f"{cluster.master_url}/add_key/{PREFIX}"
        bench.client.load("put", url, max(IN_FLIGHT), count=KEYS, size=bench.plan.value)
        if "quiet" in names:
            _gets(bench, cluster, "nothing else")
        if "ocr" in names:
            with _reading(cluster) as pages:
                _gets(bench, cluster, f"{AT_ONCE} OCR requests")
            _ocr_row(bench, pages)


def _gets(bench: Bench, cluster: Cluster, beside: str) -> None:
    """Measure GETs of keys that the master answers itself."""
    plan = bench.plan
    url = f"{cluster.master_url}/get_key/{PREFIX}"
    for flight in IN_FLIGHT:

        def get(_: int, flight: int = flight) -> Figures:
            return bench.client.load("get", url, flight, seconds=plan.seconds, size=plan.value, keys=KEYS, random=True)

        bench.add(rate_row(f"GET of {plan.value:,} B, {flight} in flight, beside {beside}", bench.repeat(get)))


@dataclass
class Pages:
    """The pages that were read meanwhile."""

    seconds: list[float] = field(default_factory=list)  # for each page
    errors: dict[str, int] = field(default_factory=dict)
    stopping: bool = False


@contextmanager
def _reading(cluster: Cluster) -> Iterator[Pages]:
    """Have `AT_ONCE` clients send a page again and again while the context lasts."""
    page, pages, lock = _page(), Pages(), threading.Lock()

    def send() -> None:
        while not pages.stopping:
            began = time.monotonic()
            try:
                _, status, body = _ask(cluster, "PUT", "ocr/page.png?search=line+40", page)
                good = status == 200 and b'"contains": true' in body
                problem = "" if good else f"{status} {body[:200].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as error:
                problem = type(error).__name__
            with lock:
                if problem:
                    pages.errors[problem] = pages.errors.get(problem, 0) + 1
                else:
                    pages.seconds.append(time.monotonic() - began)

    # Every process of an extension runs before anything is measured.
    threads = [threading.Thread(target=send) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        if not wait_until(lambda: len(pages.seconds) >= 2 * AT_ONCE or bool(pages.errors), LONGEST_SECS):
            raise RunFailed(f"{len(pages.seconds)} pages were read in {LONGEST_SECS} s")
        del pages.seconds[:]
        yield pages
    finally:
        pages.stopping = True
        for thread in threads:
            thread.join()


def _ocr_row(bench: Bench, pages: Pages) -> None:
    if len(pages.seconds) < 2:
        raise RunFailed(f"{len(pages.seconds)} pages were read: {pages.errors}")
    cuts = quantiles(pages.seconds, n=100)
    what = f"OCR of a page of {PAGE[0]} x {PAGE[1]} pixels, {AT_ONCE} at once, beside those GETs"
    figure = f"{AT_ONCE / mean(pages.seconds):.2f}/s"
    bench.add(Row(what, figure, f"{cuts[49] * 1e3:,.0f}", f"{cuts[98] * 1e3:,.0f}", errors=pages.errors))


def _page() -> bytes:
    """A page of text as PNG, in the font that comes with Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", PAGE, 255)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(24)
    for line in range(1, LINES + 1):
        draw.text((60, 40 * line), WORDS.format(line), fill=0, font=font)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _search(bench: Bench) -> None:
    """Measure searches over the entries of one node, which the master learns by replay."""
    plan = bench.plan
    with bench.cluster("search", nodes=1) as cluster:
        bench.say(f"filling the log of its stopped node with {plan.keys:,} values")
        cluster.stop_node(0)
        fill_node(bench, cluster)
        cluster.start_node(0)
        if not wait_until(lambda: entries(cluster) >= plan.keys, REPLAY_SECS):
            raise RunFailed(f"after {REPLAY_SECS} s the master has {entries(cluster):,} of {plan.keys:,} entries")
        _ask(cluster, "GET", "search/first?limit=1&prefix=none")  # its process needs time to start
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        for what, path in (
            ("nothing found", "nothing-has-this"),
            ("all found", "small"),
            ("by date, nothing found", f"small?gt={tomorrow:%m-%d-%Y}"),
            ("the first 100 found", "7?limit=100"),
            ("with a prefix of a hundredth of them", f"7?prefix={PREFIX}11"),
        ):
            _search_row(bench, cluster, what, path)


def _search_row(bench: Bench, cluster: Cluster, what: str, path: str) -> None:
    def search(_: int) -> dict[str, float]:
        seconds, status, body = _ask(cluster, "GET", f"search/{path}")
        if status != 200:
            raise RunFailed(f"/extension/search/{path} was answered {status}: {body[:300]!r}")
        used = [use.anonymous for use in usage(cluster.master.pid or 0) if use.role == "extensions.worker"]
        return {"seconds": seconds, "found": body.count(b'{"key"'), "bytes": len(body), "memory": max(used)}

    runs = bench.repeat(search)
    last = runs[-1]
    most = max(run["memory"] for run in runs) / MIB
    found = f"{last['found']:,} found, {last['bytes']:,} bytes"
    note = f"{found}; the process had {most:.0f} MiB afterwards without mapped files"
    name = f"search over {bench.plan.keys:,} keys: {what}"
    figure = f"{median(run['seconds'] for run in runs):.3f} s"
    bench.add(
        Row(name, figure, note=note, commands=[f"curl '{cluster.master_url}/extension/search/{path}'"], runs=runs)
    )


def _ask(cluster: Cluster, method: str, path: str, body: bytes | None = None) -> tuple[float, int, bytes]:
    """Ask an extension; the seconds it took, the status and the body."""
    began = time.monotonic()
    reply = http_client.ask(method, f"{cluster.master_url}/extension/{path}", body, timeout=LONGEST_SECS)
    return time.monotonic() - began, reply.status, reply.body
