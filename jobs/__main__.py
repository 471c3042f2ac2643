"""`python -m jobs`: runs a script without a cluster, to write and debug it, and lists the scripts."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

from jobs import closing, context, docstrings, loader, reading, scripts, surroundings
from jobs.channel import ToTerminal
from jobs.errors import BadScript, BadSecrets
from jobs.failures import ending
from jobs.secret_file import SecretFile, Secrets

_MOST_DEEP = 32  # lists and objects in each other that a cluster takes


def main() -> int:
    """Run or list. Returns the exit status of the script, 2 when there is none to run."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Job scripts, without a cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a script here and now")
    run.add_argument("job", help="folder/script")
    run.add_argument("arguments", nargs="?", default="{}", help="a JSON object", metavar="JSON")
    run.add_argument("--data", type=Path, help="a file that stands for the value of pulzar_data", metavar="FILE")
    run.add_argument("--master", default="", help="the store for keys, host:port", metavar="URL")
    run.add_argument("argv", nargs="*", default=[], help="for sys.argv of the script, behind --", metavar="-- WORD")
    run.add_argument("--secrets", default="", help="a file of secrets, as a node has it", metavar="FILE")
    listing = commands.add_parser("list", help="list the scripts")
    for command in (run, listing):
        command.add_argument(
            "--dir", type=Path, default=Path("jobs"), help="folder of the scripts: jobs", metavar="DIR"
        )
    options = parser.parse_args()
    if not options.dir.is_dir():
        parser.error(f"{options.dir} is no directory")
    if options.command == "list":
        return _list(options.dir)
    try:
        arguments = _arguments(options.arguments)
    except ValueError as error:
        parser.error(str(error))
    if options.data and not options.data.is_file():
        parser.error(f"{options.data} is no file")
    try:
        script = scripts.locate(options.dir, options.job)
        secrets = SecretFile(options.secrets).of(script.folder) if options.secrets else None
    except (BadScript, BadSecrets) as error:
        parser.error(str(error))
    verdict = _verdict(script)
    if verdict and verdict.kind == "helper":
        parser.error(f"{script.path} is no job; it is {verdict.error}")
    for text in _odd(verdict, [*arguments, *(["pulzar_data"] if options.data else [])]):
        print(f"warning: {text}", file=sys.stderr)
    if options.master:
        os.environ["PULZAR_MASTER"] = options.master
    return _run(script, options.arguments, options.data, options.argv, secrets)


def _arguments(text: str) -> dict[str, object]:
    """The arguments, checked as a cluster does. Raises `ValueError` with the reason."""
    try:
        arguments = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"the arguments have more than {_MOST_DEEP} lists or objects in each other") from None
    except ValueError as error:
        raise ValueError(f"the arguments are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError('the arguments are no JSON object, like {"number": 5}')
    _check(arguments, _MOST_DEEP)
    return arguments


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _check(value: object, deep: int) -> None:
    if not deep:
        raise ValueError(f"the arguments have more than {_MOST_DEEP} lists or objects in each other")
    if isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(item, deep - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the arguments have the number {value}, which JSON has not")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError("the arguments have an integer of more than 64 bits; send it as text")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"the arguments have half of a character: {value[:20]!r}")


def _verdict(script: scripts.Script) -> reading.Verdict | None:
    """What the script is; None when it is not among those of its folder."""
    found = scripts.walk(Path(script.directory), _complain)
    texts = {each.name: reading.look(each.path, file) for each, file in found if each.folder == script.folder}
    return reading.judge(script.folder, texts).get(script.name)


def _odd(verdict: reading.Verdict | None, given: list[str]) -> list[str]:
    """Warnings about a script, and about the arguments with these names, compared with those that it declares."""
    return [*verdict.problems(), *docstrings.compare(verdict.documented()["arguments"], given)] if verdict else []


def _run(script: scripts.Script, arguments: str, data: Path | None, argv: list[str], secrets: Secrets | None) -> int:
    place = Path(tempfile.mkdtemp(prefix="pulzar-job-"))
    scratch = place / "scratch"
    scratch.mkdir()
    surroundings.prepare(place / "path")
    directory = Path(script.directory)
    os.environ |= surroundings.environment(os.environ, place / "path", directory) | {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PULZAR_ARGUMENTS": arguments,
        "PULZAR_DATA": str(data.resolve()) if data else "",
        "PULZAR_DATA_KEY": data.name if data else "",
        "PULZAR_SCRATCH": str(scratch),
    }
    if secrets:
        os.environ |= {name: secrets.known[name] for name in secrets.variables}
    tempfile.tempdir = None  # the next temporary file looks at TMPDIR again
    # As on a node, scripts do not see our packages.
    ours = (os.getcwd(), os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[:] = [str(place / "path"), *(path for path in sys.path if os.path.abspath(path or ".") not in ours)]
    context.begin(ToTerminal(), secrets=secrets.known if secrets else None)
    before, modules = os.getcwd(), len(sys.modules)
    os.chdir(scratch)
    error: BaseException | None = None
    try:
        context.returned(loader.execute(script, loader.Sources(), argv))
    except BaseException as raised:  # noqa: BLE001 - SystemExit and all: how it ends is what is asked
        error = raised
    ended = ending(error, script)
    del error
    closing.finish(script, modules)
    os.chdir(before)
    shutil.rmtree(place, ignore_errors=True)
    return ended.status


def _list(directory: Path) -> int:
    folders: dict[str, dict[str, reading.Text]] = {}
    for script, file in scripts.walk(directory, _complain):
        folders.setdefault(script.folder, {})[script.name] = reading.look(script.path, file)
    for folder, texts in folders.items():
        for name, verdict in reading.judge(folder, texts).items():
            said = next((text.strip() for text in verdict.docstrings if text.strip()), "-")
            first = said.partition("\n")[0].removeprefix("Description:").strip()
            print(f"{f'{folder}/{name}':32}  {verdict.error or first}")
            for text in verdict.problems():
                print(f"{'':32}  warning: {text}")
    return 0


def _complain(directory: str, reason: str) -> None:
    print(f"{directory}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
