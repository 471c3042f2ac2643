"""`ops/audit`: known vulnerabilities of what is locked."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ops.cluster.processes import ROOT
from ops.cluster.terminal import say
from ops.locks import lock_file

NOT_REACHED = 3
DESCRIPTION = """\
Asks a database of vulnerabilities for every package of requirements*.lock, by pip-audit. The exit status is that of
pip-audit: 0 if none is known, 1 if one is. It is 3 if none is known, but the database could not be asked, or does not
have a package. Other arguments go to pip-audit, such as --vulnerability-service osv or --ignore-vuln ID."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask; the exit status."""
    parser = argparse.ArgumentParser("ops/audit", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--lock", action="append", metavar="FILE", help="only this lock; may be repeated. Default: all of them"
    )
    options, others = parser.parse_known_args(arguments)
    locks: list[str] = options.lock or [lock_file.lock_of(source) for source in lock_file.SOURCES]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
        for lock in locks:
            command += ["--requirement", lock]
        done = subprocess.run(
            [*command, *others, "--format", "json", "--output", str(report)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            print(done.stderr.strip(), file=sys.stderr)
            if done.returncode == 2:  # of its arguments
                return 2
            print("The audit could not be made: the reason is above. Nothing is known of any package.", file=sys.stderr)
            return NOT_REACHED
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    for line in told(packages):
        say(line)
    unasked = any("skip_reason" in package for package in packages)
    return NOT_REACHED if unasked and done.returncode == 0 else done.returncode


def told(packages: Sequence[dict[str, Any]]) -> list[str]:
    """What a person reads of a report of pip-audit."""
    lines = []
    for package in packages:
        for one in package.get("vulns", ()):
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            names = ", ".join([one["id"], *one["aliases"]])
            lines.append(f"{package['name']} {package['version']}: {names}; mended in {fixed}")
    number = len(lines) or "no"
    unasked = [package["name"] for package in packages if "skip_reason" in package]
    lines += [f"not known to the database: {', '.join(unasked)}"] if unasked else []
    return [*lines, f"{len(packages) - len(unasked)} packages asked for: {number} known vulnerabilities"]


if __name__ == "__main__":
    sys.exit(main())
