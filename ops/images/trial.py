"""The trial of a cluster of containers: store, read, run jobs and extensions, and find everything again."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ops.cluster.processes import ROOT
from ops.images.client import Client
from ops.images.composition import Composition, Service
from ops.images.errors import TrialFailed
from ops.images.podman import Podman

MASTER = "http://localhost:31414"
CONSOLE = "http://localhost:15672"
LARGE_BYTES = 5 << 20
LARGE_VALUES = 6
CHUNKED = "trial/chunked.bin"  # sent without its length, so the master relays it
JOB_SECS = 90.0
USER_IDS = {"master": "31413"}  # of nodes, NODE_USER_ID
NODE_USER_ID = "31414"
_FIRST_ADDRESS = 10

Step = Callable[[str], AbstractContextManager[None]]

# Packages of requirements-extensions.txt, each with an expression that proves that it works.
_LIBRARIES = {
    "opencv-python-headless": "__import__('cv2').__version__",
    "pillow": "__import__('PIL').__version__",
    "pytesseract": "str(__import__('pytesseract').get_tesseract_version())",
    "pyodbc": "__import__('pyodbc').version",
    "psycopg2-binary": "__import__('psycopg2').__version__",
}


class Trial:
    """The trial of one composition. `step` shows what is going on."""

    def __init__(
        self, podman: Podman, composition: Composition, password: str, binds: Mapping[str, Path], step: Step
    ) -> None:
        """`binds`: what stands for files of the checkout; for ./extensions an empty directory.

        `password`: that of RabbitMQ's user for people.
        """
        self._podman = podman
        # As in a network of containers, each has an address of its own, and an alias of several has several.
        addresses = {each.name: f"127.0.0.{number}" for number, each in enumerate(composition.services, _FIRST_ADDRESS)}
        self._services = [_listening(each, addresses[each.name]) for each in composition.services]
        self._names = [(name, addresses[each.name]) for each in self._services for name in each.names]
        self._client = Client({port: addresses[each.name] for each in self._services for _, port in each.ports})
        self._password = password
        self._step = step
        self._nodes = [service for service in self._services if service.name.startswith("node-")]
        _extension(binds["./extensions"])
        self._binds = {
            source: binds.get(source, ROOT / source)
            for service in self._services
            for source, _, _ in service.volumes
            if source.startswith(".")
        }
        self._values = {f"trial/large-{number}.bin": os.urandom(LARGE_BYTES) for number in range(LARGE_VALUES)}
        self._values[CHUNKED] = os.urandom(LARGE_BYTES)
        self._values["trial/small.txt"] = (ROOT / "README.md").read_bytes()[:1000]

    def run(self) -> None:
        """Run the whole trial. Raises `TrialFailed` or `CommandFailed`."""
        self._up("starting")
        self._look()
        with self._step(f"storing {len(self._values)} values, large ones straight on nodes"):
            self._store()
        self._read("reading them back")
        jobs = self._jobs()
        with self._step("calling extensions"):
            self._call()
        self._stop()
        with self._step("starting the same containers"):
            for service in self._services:
                self._podman.start(service.name)
                self._podman.wait_healthy(service.name)
        self._again(jobs)
        self._stop()
        with self._step("removing them"):
            for service in self._services:
                self._podman.remove(service.name)
        self._up("making them anew, with their volumes")
        self._again(jobs)
        with self._step("filling the index again, as docs/install.md says"):
            self._podman.execute("master", "python", "ops/manage.py", "--restore")
        self._read("reading once more")
        self._stop()

    def _up(self, what: str) -> None:
        for service in self._services:
            with self._step(f"{what}: {service.name}"):
                self._podman.run(service, self._names, self._binds)
                self._podman.wait_healthy(service.name)

    def _stop(self) -> None:
        with self._step("stopping all, in order"):
            for service in reversed(self._services):
                if status := self._podman.stop(service.name):
                    log = self._podman.log(service.name)
                    raise TrialFailed(f"{service.name} ended with {status} when it was told to stop; its log:\n{log}")

    def _look(self) -> None:
        with self._step("looking at users, ports and the console"):
            for service in self._services:
                user = self._podman.execute(service.name, "id", "-u").strip() if service.build else ""
                if user and user != USER_IDS.get(service.name, NODE_USER_ID):
                    raise TrialFailed(f"{service.name} runs as {user}")
                for _, port in service.ports:
                    if _is_web(service, port):
                        self._client.ask("GET", f"http://localhost:{port}/health")
            self._client.ask("GET", f"{CONSOLE}/api/overview", headers=_login("pulzar", self._password))
            self._client.ask(
                "GET", f"{CONSOLE}/api/overview", headers=_login("guest", "guest"), expected=401, patience=0
            )
            self._client.ask("GET", f"{MASTER}/health?ready=1")
            _until(lambda: len(self._in_synch()) == len(self._nodes), f"{len(self._nodes)} nodes in synch")

    def _in_synch(self) -> list[str]:
        return sorted(row["node"] for row in self._client.ask("GET", f"{MASTER}/admin/network").data if row["synch"])

    def _store(self) -> None:
        for key, value in self._values.items():
            url = f"{MASTER}/add_key/{key}?overwrite=1"
            straight = len(value) >= LARGE_BYTES and key != CHUNKED
            if straight:  # else the master would pass it on
                url = self._client.ask("GET", f"{MASTER}/get_node/{key}?overwrite=1").data["node"]
            stored = self._client.ask("PUT", url, value, chunked=key == CHUNKED, expected=201)
            self._expect_advertised(stored.hosts if straight else stored.hosts[1:])

    def _expect_advertised(self, hosts: Sequence[str]) -> None:
        advertised = {node.environment["PULZAR_VOLUME_ADVERTISE"] for node in self._nodes}
        if strange := set(hosts) - advertised:
            raise TrialFailed(f"{', '.join(strange)}: no node says to be there; they are at {', '.join(advertised)}")

    def _read(self, what: str) -> None:
        with self._step(what):
            for key, value in self._values.items():
                answer = self._client.ask("GET", f"{MASTER}/get_key/{key}")
                if answer.body != value:
                    raise TrialFailed(f"{key}: these are not the bytes that were stored")
                self._expect_advertised(answer.hosts[1:])

    def _jobs(self) -> list[int]:
        jobs = []
        with self._step("running a job on each node that reads a value of another one"):
            for node in self._nodes:
                key = self._not_on(node)
                # The job runs on this node, and its value is on another one.
                body = {"pulzar_data": key, "pulzar_options": {"node": node.name}}
                launched = self._client.ask("POST", f"{MASTER}/launch_job/text/words", json.dumps(body).encode())
                jobs.append(int(launched.data["job_id"]))
            for job in jobs:
                self._expect_completed(job, JOB_SECS)
        return jobs

    def _not_on(self, node: Service) -> str:
        for key in self._values:
            entries = self._client.ask("GET", f"{MASTER}/keys?prefix={key}").data["keys"]
            if len(self._values[key]) >= LARGE_BYTES and node.name not in entries[0]["nodes"]:
                return key
        raise TrialFailed(f"all of the {LARGE_VALUES} large values went to {node.name}")

    def _expect_completed(self, job: int, within: float) -> None:
        def state() -> Any:
            return self._client.ask("GET", f"{MASTER}/admin/jobs/{job}").data

        _until(lambda: state()["status"] != "pending", f"the end of job {job}", within)
        found = state()
        if found["status"] != "completed":
            raise TrialFailed(f"job {job}: {found}")

    def _call(self) -> None:
        answer = self._client.ask("PUT", f"{MASTER}/extension/imagetrial/a/b?c=d", b"12345")
        expected = {"arguments": ["a", "b"], "params": {"c": ["d"]}, "bytes": 5, "keys": sorted(self._values)}
        found = dict(answer.data)
        missing = {name: said for name, said in found.pop("libraries").items() if said.startswith("missing: ")}
        if found != expected or missing:
            raise TrialFailed(f"the extension answers {found}, not {expected}; {missing or 'no library is missing'}")
        example = self._client.ask("GET", f"{MASTER}/extension/example/a/b?x=1").data
        if example != {"my_arg": ["a", "b"], "my_params": {"x": ["1"]}}:
            raise TrialFailed(f"/extension/example/a/b?x=1 answers {example}")

    def _again(self, jobs: list[int]) -> None:
        self._read("finding every value again")
        with self._step("finding nodes, jobs and extensions again"):
            _until(lambda: len(self._in_synch()) == len(self._nodes), f"{len(self._nodes)} nodes in synch")
            if self._in_synch() != sorted(node.name for node in self._nodes):
                raise TrialFailed(f"the nodes have other names now: {self._in_synch()}")
            for job in jobs:
                self._expect_completed(job, 0)
            self._call()
            launched = self._client.ask("POST", f"{MASTER}/launch_job/example/factorial", b'{"number": 5}')
            self._expect_completed(int(launched.data["job_id"]), JOB_SECS)


def _listening(service: Service, address: str) -> Service:
    """The service, made to listen on one address. RabbitMQ listens on all."""
    own = {"PULZAR_SERVER_HOST": address, "PULZAR_VOLUME_HOST": address} if service.build else {}
    return replace(service, environment={**service.environment, **own})


def _extension(scripts: Path) -> None:
    """Copy the extensions of the repository, and write one more for the trial."""
    shutil.copytree(ROOT / "extensions", scripts, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    listed = ROOT / "requirements-extensions.txt"
    text = listed.read_text(encoding="utf-8").lower() if listed.is_file() else ""
    wanted = {name: proof for name, proof in _LIBRARIES.items() if name in text}
    (scripts / "imagetrial.py").write_text(f"""\
import os
from extensions import Extension


def proof(expression):
    try:
        return eval(expression)
    except Exception as error:
        return f"missing: {{error}}"


class Imagetrial(Extension):
    def execute(self):
        return {{
            "arguments": self.arguments,
            "params": self.params,
            "bytes": os.path.getsize(self.file_path),
            "keys": [entry.key for entry in self.store.keys("trial/")],
            "libraries": {{name: proof(expression) for name, expression in {wanted!r}.items()}},
        }}
""")
    scripts.chmod(0o755)
    (scripts / "imagetrial.py").chmod(0o644)


def _is_web(service: Service, port: int) -> bool:
    return service.build is not None and f":{port}" in "".join(service.environment.values())


def _login(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _until(condition: Callable[[], bool], what: str, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TrialFailed(f"{what}: not within {within:g} s")
        time.sleep(0.2)
