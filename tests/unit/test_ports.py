"""Ports that clusters of their own get: no two programs the same ones, whatever else the machine does."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.support import ROOT

PROGRAMS, BASES = 4, 8

PROGRAM = """
import random
from ops.cluster.network import free_base
random.seed(1)
print(*(free_base() for _ in range(BASES)), flush=True)
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of sockets that end with their process")
def test_programs_that_ask_at_the_same_time_get_other_ports_than_their_neighbours() -> None:
    command = [sys.executable, "-c", PROGRAM.replace("BASES", str(BASES))]
    with ExitStack() as stack:
        # Given programs that ask for ports at once, which nobody listens on as yet, and whose chance has the same seed
        programs = [
            stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(PROGRAMS)
        ]
        # When they have got them
        bases = [base for program in programs if program.stdout for base in program.stdout.readline().split()]
    # Then nobody has what another one has
    assert len(bases) == PROGRAMS * BASES
    assert len(set(bases)) == len(bases), sorted(bases)
