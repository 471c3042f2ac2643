"""`ops/up`: a whole Pulzar in the foreground."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from broker.errors import PulzarError
from broker.settings import CONFIG_VARIABLE
from ops.cluster import demo, network, state, terminal
from ops.cluster.cluster import PER_PROCESS, Cluster
from ops.cluster.errors import DemonstrationFailed
from ops.cluster.network import MOST_NODES
from ops.cluster.processes import ROOT

DESCRIPTION = """\
Starts a whole Pulzar: a private RabbitMQ, a master and nodes. Shows that it works by storing, reading and
deleting real files, and stays until Ctrl-C. It installs what is missing first."""

EPILOG = """\
PULZAR_<SECTION>_<KEY> variables reach all processes (ops/server.conf shows the settings), PULZAR_CONFIG names a
file with settings. With PULZAR_BROKER_URL=amqp://user:password@host:port/vhost that RabbitMQ is used and none
is started or installed. cluster.json in the data directory has every address, process id and password, for scripts."""


class Interrupted(BaseException):
    """Raised in the main thread by the first signal to stop."""


def main() -> int:
    """Run until told to stop; the exit status of the program."""
    options = _options()
    os.umask(0o077)  # values, files of jobs and credentials are for their owner alone
    for name in PER_PROCESS:
        if name in os.environ:
            terminal.say(f"{name} is not used here: --ports and --data decide it for each process")
    try:
        cluster = Cluster(
            options.data,
            options.ports,
            options.nodes,
            os.environ.get("PULZAR_BROKER_URL"),
            supervise=True,
            say=terminal.news,
            step=terminal.step,
        )
    except PulzarError as error:
        print(error, file=sys.stderr)
        return 1
    return _Run(cluster, options.caller).run(stay=not options.exit)


class _Run:
    def __init__(self, cluster: Cluster, caller: Path) -> None:
        self._cluster = cluster
        self._caller = caller
        self._stopping = False

    def run(self, stay: bool) -> int:
        cluster = self._cluster
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)
        status, staying = 1, False
        try:
            cluster.start()
            status = self._demonstrate()
            if advice := network.migration_off():
                terminal.say(f"  {advice}")
            if stay:
                staying = True
                self._tell()
                while True:
                    signal.pause()
        except Interrupted:
            # Once the cluster runs, this is how it ends; before that, it was broken off.
            status = status if staying else 130
        except PulzarError as error:
            print(f"\n{error}", file=sys.stderr)
        finally:
            self._stopping = True
            if any(child.running for child in cluster.processes):
                terminal.say()
                with terminal.step("stopping; Ctrl-C again kills what is left"):
                    cluster.stop()
            else:
                cluster.stop()
        return status

    def _demonstrate(self) -> int:
        """Show the store at work; the exit status. The cluster stays up when this fails."""
        try:
            demo.run(self._cluster.master_url, terminal.step, self._cluster.jobs)
        except DemonstrationFailed as error:
            print(f"\nThe demonstration failed: {error}", file=sys.stderr)
            return 1
        if not demo.has_job(self._cluster.jobs):
            terminal.say(f"  no job was run: {self._cluster.jobs} has no {demo.JOB}.py")
        return 0

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            terminal.say(" killing what is left …")
            self._cluster.kill()
            return
        self._stopping = True
        raise Interrupted

    def _tell(self) -> None:
        cluster = self._cluster
        nodes = ", ".join(node.url for node in cluster.nodes)
        console = (
            f"{cluster.rabbit.console_url}  (user and password are in {state.NAME})" if cluster.rabbit else "not ours"
        )
        terminal.say(
            f"\nPulzar is running; Ctrl-C stops it.\n\n"
            f"  REST     {cluster.master_url}\n"
            f"  nodes    {nodes}\n"
            f"  console  {console}\n"
            f"  data     {cluster.directory}\n"
            f"  logs     {cluster.logs}\n\n"
            f"Try it:\n"
        )
        for command in demo.commands(cluster.master_url, self._caller, cluster.jobs):
            terminal.say(f"  {command}")
        terminal.say()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "ops/up", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--exit", action="store_true", help="stop after the demonstration, with status 0 if it went well"
    )
    parser.add_argument(
        "--data", metavar="DIR", type=Path, default=ROOT / "data", help="data directory (default: data)"
    )
    parser.add_argument(
        "--nodes", metavar="N", type=int, default=2, help=f"number of nodes, 1 to {MOST_NODES} (default: 2)"
    )
    parser.add_argument(
        "--ports",
        metavar="BASE",
        type=int,
        default=31414,
        help="master at BASE, nodes at BASE+1 …, AMQP at BASE+50, console at BASE+51 (default: 31414)",
    )
    # ops/up reads this one, before it installs anything.
    parser.add_argument(
        "--without-extensions",
        action="store_true",
        help="do not install what the extensions need; those that lack something answer 501",
    )
    # The directory of the user, before ops/up changed to the repository.
    parser.add_argument("--caller", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = options.caller / options.data
    if os.environ.get(CONFIG_VARIABLE):
        os.environ[CONFIG_VARIABLE] = str(options.caller / os.environ[CONFIG_VARIABLE])
    return options


if __name__ == "__main__":
    sys.exit(main())
