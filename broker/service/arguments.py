"""The command line of a service, and the settings that follow from it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from broker import settings
from broker.settings import Settings


def parse_arguments(program: str, description: str) -> Settings:
    """The settings, from the file that `--config` names and the environment; child processes get the same."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--config", type=Path, help="configuration file; see ops/server.conf", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.config:
        os.environ[settings.CONFIG_VARIABLE] = str(arguments.config.resolve())
    return settings.load()


def web_workers(config: Settings) -> int:
    """The number of web workers of a master."""
    return config.server.workers or max(1, (os.cpu_count() or 1) // 2)
