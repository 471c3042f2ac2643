"""`python -m jobs`: runs a script without any cluster, for writing and debugging it; and lists the scripts."""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from jobs import context, loader, scripts
from jobs.channel import ToTerminal
from jobs.errors import BadScript
from jobs.failures import ending


def main() -> int:
    """The exit status: that of the script, 2 when there is nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Job scripts, without a cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    running = commands.add_parser("run", help="run a script here and now")
    running.add_argument("job", help="folder/script")
    running.add_argument("arguments", nargs="?", default="{}", help="a JSON object", metavar="JSON")
    running.add_argument("--data", type=Path, help="a file that stands for the value of pulzar_data", metavar="FILE")
    running.add_argument("--master", default="", help="the store for keys, host:port", metavar="URL")
    listing = commands.add_parser("list", help="list the scripts")
    for command in (running, listing):
        command.add_argument(
            "--dir", type=Path, default=Path("jobs"), help="folder of the scripts: jobs", metavar="DIR"
        )
    options = parser.parse_args()
    if not options.dir.is_dir():
        parser.error(f"{options.dir} is no directory")
    if options.command == "list":
        return _list(options.dir)
    try:
        arguments = json.loads(options.arguments)
    except ValueError as error:
        parser.error(f"the arguments are no JSON: {error}")
    if not isinstance(arguments, dict):
        parser.error('the arguments are no JSON object, like {"number": 5}')
    if options.data and not options.data.is_file():
        parser.error(f"{options.data} is no file")
    try:
        script = scripts.locate(options.dir, options.job)
    except BadScript as error:
        parser.error(str(error))
    if options.master:
        os.environ["PULZAR_MASTER"] = options.master
    return _run(script, options.arguments, options.data)


def _run(script: scripts.Script, arguments: str, data: Path | None) -> int:
    scratch = tempfile.mkdtemp(prefix="pulzar-job-")
    os.environ |= {
        "PULZAR_ARGUMENTS": arguments,
        "PULZAR_DATA": str(data.resolve()) if data else "",
        "PULZAR_DATA_KEY": data.name if data else "",
        "PULZAR_SCRATCH": scratch,
    }
    context.begin(ToTerminal())
    before = os.getcwd()
    os.chdir(scratch)
    error: BaseException | None = None
    try:
        context.returned(loader.execute(script, loader.Sources()))
    except BaseException as raised:  # noqa: BLE001 - SystemExit and all: how it ends is what is asked
        error = raised
    finally:
        os.chdir(before)
    ended = ending(error, script)
    shutil.rmtree(scratch, ignore_errors=True)
    return ended.status


def _list(directory: Path) -> int:
    for script in scripts.walk(directory):
        try:
            tree = ast.parse(Path(script.file).read_bytes(), script.file)
        except (SyntaxError, ValueError) as error:
            print(f"{script.path:32}  does not compile: {error}")
            continue
        found = scripts.job_class(tree, script.name)
        method = scripts.execute_method(found) if found else None
        text = ast.get_docstring(method or tree) or ""
        first = text.strip().partition("\n")[0].removeprefix("Description:").strip()
        print(f"{script.path:32}  {first or '-'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
