"""`pip install .` gives the command `pulzar`, and nothing of master and nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_up import copy_checkout
from tests.support import clean_environment


@pytest.mark.clean
@pytest.mark.timeout(900)
def test_pip_installs_the_client_alone(tmp_path: Path) -> None:
    # Given a checkout, and an empty virtual environment
    checkout = copy_checkout(tmp_path / "pulzar")
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    # When it is installed
    pip = [str(environment / "bin" / "pip"), "install", "--disable-pip-version-check", "--quiet", str(checkout)]
    subprocess.run(pip, check=True, env=clean_environment())

    # Then the command is there, and the package, and no other one
    def run(*command: str) -> str:
        where = environment / "bin" / command[0]
        text: str = subprocess.run(
            [str(where), *command[1:]],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean_environment(),
        ).stdout
        return text

    assert run("pulzar", "--version").startswith("pulzar 0.")
    assert "complete -F _pulzar pulzar" in run("pulzar", "completion", "bash")
    (packages,) = environment.glob("lib/python*/site-packages")
    assert not {"broker", "master", "node", "jobs"} & {path.name for path in packages.iterdir()}
    assert run("python", "-c", "import pulzar; print(pulzar.Client('store').url)") == "http://store:31414\n"
