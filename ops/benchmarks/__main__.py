"""./ops/bench: measures Pulzar on this machine beside yardsticks, and says which targets it reached."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

STORE = {
    "put": "PUT of 1 KiB at 1, 16 and 64 in flight",
    "get": "GET of 1 KiB from the master at 16 and 1 in flight, by wrk and by load",
    "delete": "DELETE at 16 in flight",
    "redirect": "GET through the redirect to a node",
    "large": "1 GiB by curl, beside nginx; memory meanwhile",
    "million": "1,000,000 keys: GET, memory, replay into an empty master",
    "nginx": "PUT and GET of 1 KiB by nginx, as a yardstick",
    "tokens": "PUT and GET of 1 KiB at 16 in flight with tokens and audit, beside the same without",
}
JOBS = {
    "one": "no-op job from launch to result, one at a time, beside Celery and RQ",
    "many": "2,000 no-op jobs at once, beside Celery and RQ",
    "long": "100 jobs of a second over 4 slots",
    "launch": "launching alone, 16 in flight, and by requests of 1,000 jobs",
    "memory": "memory of the nodes' agents over 20,000 jobs",
}
EXTENSIONS = {
    "quiet": "GET of 1 KiB while nothing else is done",
    "ocr": "GET of 1 KiB while eight OCR requests run at once",
    "search": "search over 1,000,000 keys: all, by date, with a limit, by prefix",
}
RECOVERY = {
    "replay": "1,000,000 keys of 20 B to 1 KiB by replay into an empty master",
    "listing": "all of them by pages of 1,000",
    "folders": "1,000 folders of 1,000 keys, with the counters of each",
    "archive": "an archive of 10,000 values of 1 KiB, beside tar of such files",
    "backup": "backups of 1,000,000 values of 1 KiB and 4 of 1 GiB, beside cp -r; PUTs meanwhile",
    "restic": "restic's backup and restore of 2 GiB, beside the same with a local directory",
}

PAGE = {
    "screens": "every screen of the web page with 1,000,000 keys and 1,000,000 jobs",
    "open": "what an open page of the cluster costs the master",
}
CLIENT = {
    "sync": "pulzar sync of 10,000 files of 10 KiB up, again without a change, and down",
    "file": "pulzar put and get of 4 GiB, beside curl",
}
SCALE = {
    "keys": "10,000,000 keys: replay, memory, GET, pages and restart, beside 1,000",
    "jobs": "1,000,000 finished jobs: launch, lists and one job, beside 1,000",
    "pending": "the same with 100,000 pending ones",
    "schedules": "10,000 schedules that are not due",
    "large": "one value of 20 GiB up and down, and the memory meanwhile",
    "nodes": "50 nodes, 48 of them played, beside 2",
}
EVENTS = {
    "fanout": "1,000 PUTs of 1 KiB a second while 100 clients listen to each event, beside the same without",
    "waiters": "memory for 5,000 requests that wait for keys, and how soon they are answered",
}
REPLICAS = {
    "put": "PUT of 1 KiB on two of three nodes, beside one",
    "large": "1 GiB by curl on two of three nodes, beside one",
    "failover": "GET by curl while a holder was just killed",
    "memory": "the index's bytes for each key with two holders, beside one",
    "repair": "a wiped node's 200,000 small values and some large ones copied again, beside rsync",
}


def main() -> int:
    """Measure; exit status 0 without errors, whether the targets were reached or not, else 1."""
    options = _parse()
    signal.signal(signal.SIGTERM, _stop)
    # These need .venv; --help does not.
    from ops.benchmarks import (
        against,
        command_line,
        events,
        extensions,
        jobs,
        machine,
        page,
        peers,
        recovery,
        replicas,
        scale,
        store,
    )
    from ops.benchmarks.bench import QUICK, Bench, Plan
    from ops.benchmarks.client import Client
    from ops.benchmarks.table import markdown

    plan = dataclasses.replace(QUICK if options.quick else Plan(), nodes=options.nodes)
    if options.what == "store":
        plan = dataclasses.replace(plan, small=options.small)
    if getattr(options, "against", None) and not options.quick:
        plan = dataclasses.replace(plan, runs=against.RUNS)
    if options.runs:
        plan = dataclasses.replace(plan, runs=options.runs)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pulzar-bench-", dir=options.dir) as folder:
        directory = Path(folder)
        bench = Bench(directory, plan, Client(directory))
        described, versions = machine.describe(directory), machine.versions()
        if options.what == "jobs" and options.against:
            complete = against.measure_jobs(bench, options.against, options.only or ["one"])
        elif options.what == "jobs":
            versions |= peers.versions()
            complete = jobs.measure(bench, options.only or list(JOBS))
        elif options.what == "extensions":
            complete = extensions.measure(bench, options.only or list(EXTENSIONS))
        elif options.what == "page":
            complete = page.measure(bench, options.only or list(PAGE))
        elif options.what == "scale":
            complete = scale.measure(bench, options.only or list(SCALE))
        elif options.what == "replicas":
            complete = replicas.measure(bench, options.only or list(REPLICAS))
        elif options.what == "events":
            complete = events.measure(bench, options.only or list(EVENTS))
        elif options.what == "client":
            complete = command_line.measure(bench, options.only or list(CLIENT))
        elif options.what == "recovery":
            complete = recovery.measure(bench, options.only or list(RECOVERY))
        elif options.against:
            complete = against.measure(bench, options.against, options.only or list(STORE))
        else:
            complete = store.measure(bench, options.only or list(STORE))
    said = shlex.join(["./ops/bench", *options.shown])
    print(f"\n{markdown(bench.rows)}\n")
    if options.quick:
        print("Short runs of small amounts: this shows that everything works, the figures mean little.\n")
    runs = "one run" if plan.runs == 1 else f"medians of {plan.runs} runs"
    print(f"`{said}`: {runs}, {plan.seconds:g} s each, {plan.nodes} nodes, {time.monotonic() - began:.0f} s in all.\n")
    for row in bench.rows:
        if row.note:
            print(f"- {row.name}: {row.note}")
    print("- machine: " + "; ".join(f"{name} {value}" for name, value in described.items()))
    print("- versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()))
    print("- commands:")
    for row in bench.rows:
        for command in row.commands:
            print(f"    - {row.name}: `{command.replace(str(directory), '$DIR')}`")
    if options.json:
        record: dict[str, Any] = {
            "command": said,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "plan": dataclasses.asdict(plan),
            "machine": described,
            "versions": versions,
            "rows": [dataclasses.asdict(row) | {"verdict": row.verdict()} for row in bench.rows],
        }
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if complete and not any(row.errors for row in bench.rows) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./ops/bench", description=__doc__)
    parser.add_argument("--caller", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for what, measured, text in (
        ("store", STORE, "the key-value store"),
        ("jobs", JOBS, "the job system"),
        ("extensions", EXTENSIONS, "extensions, and the store beside them"),
        ("page", PAGE, "the web page"),
        ("client", CLIENT, "the command line"),
        ("recovery", RECOVERY, "replay, lists of all keys, archives, backups"),
        ("replicas", REPLICAS, "values on several nodes"),
        ("events", EVENTS, "listeners, and requests that wait for keys"),
        ("scale", SCALE, "many keys, jobs, schedules and nodes, beside few"),
    ):
        names = "; ".join(f"{name}: {said}" for name, said in measured.items())
        command = commands.add_parser(what, help=text, description=f"What is measured: {names}.")
        _add_options(command, measured)
        if what == "store":
            command.add_argument(
                "--small",
                type=int,
                default=100,
                metavar="BYTES",
                help="size of one of the million values (default 100)",
            )
        if what in ("store", "jobs"):
            jobs = "no-op jobs: one, unless --only names others of one, many and launch,"
            compared = "put, get, delete and redirect" if what == "store" else jobs
            command.add_argument(
                "--against",
                metavar="COMMIT",
                help=f"compare {compared} with an older commit, in alternating runs",
            )
    options = parser.parse_args()
    arguments = sys.argv[1:]
    options.shown = arguments[2:] if arguments[:1] == ["--caller"] else arguments
    for name in ("json", "dir"):
        if getattr(options, name):
            setattr(options, name, options.caller / getattr(options, name))
    return options


def _add_options(command: argparse.ArgumentParser, measured: dict[str, str]) -> None:
    names = ", ".join(measured)
    command.add_argument("--quick", action="store_true", help="one short run of each, to see that everything works")
    command.add_argument("--only", nargs="+", choices=measured, metavar="NAME", help=f"only these of {names}")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every run there as well")
    command.add_argument("--runs", type=int, default=0, metavar="N", help="runs of each; a row shows their median")
    command.add_argument("--nodes", type=int, default=2, metavar="N", help="nodes of the cluster (default 2)")
    # /tmp may be in memory, where an fsync costs nothing.
    command.add_argument("--dir", type=Path, default="/var/tmp", metavar="DIR", help="for the data (default /var/tmp)")


def _stop(number: int, frame: object) -> NoReturn:
    # As after Ctrl-C: everything that was started is stopped on the way out.
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
