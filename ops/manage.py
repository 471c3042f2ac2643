#!/usr/bin/env python3
"""Manages a Pulzar cluster; `ops/manage.py --help` lists what it can do. Needs nothing but Python."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ops.manager.command_line import main

if __name__ == "__main__":
    sys.exit(main())
