"""The base image, made from Debian's packages, and the wheels for the builds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ops.cluster.processes import ROOT
from ops.images import commands
from ops.locks.lock_file import PRODUCT

SUITE = "trixie"
PYTHON = "3.13"  # of that suite
MIRROR = "http://deb.debian.org/debian"

# What the official image leaves out, and its settings of apt.
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/lib/apt/lists", "var/log")
_CLEAN = "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"
_APT = f"""\
DPkg::Post-Invoke {{ "{_CLEAN}"; }};
APT::Update::Post-Invoke {{ "{_CLEAN}"; }};
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def make_root(cache: Path) -> Path:
    """The archive with the files of the base image, made unless the cache has it. Raises `CommandFailed`."""
    archive = cache / f"debian-{SUITE}.tar"
    if archive.exists():
        return archive
    root = cache / f"debian-{SUITE}"
    shutil.rmtree(root, ignore_errors=True)
    commands.run(["debootstrap", "--variant=minbase", SUITE, str(root), MIRROR])
    for folder in (*_LEFT_OUT, "var/cache/apt"):
        for path in (root / folder).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(_APT)
    made = archive.with_suffix(".new")
    commands.run(["tar", "-C", str(root), "--one-file-system", "-cf", str(made), "."])
    made.replace(archive)
    shutil.rmtree(root)
    return archive


def download_wheels(cache: Path) -> Path:
    """Download what the locks name for the Python of the images with this machine's pip; their folder.

    Raises `CommandFailed`.
    """
    wheels = cache / "wheels"
    wheels.mkdir(exist_ok=True)
    wanted = ["--require-hashes"]
    for lock in PRODUCT:
        wanted += ["-r", str(ROOT / lock)]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
    commands.run([*pip, "--python-version", PYTHON, *wanted, "-d", str(wheels)])
    return wheels
