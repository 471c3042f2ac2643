"""The API is as `/openapi.json` says: Schemathesis makes requests from it, good and bad ones, and finds nothing.

All of its checks, and all of its phases: examples, cases at the limits of schemas, random ones, and sequences along the
document's links. The seed is fixed. `contract.toml` has its settings, `contract_hooks.py` what no schema can say.

`-m contract` has 20 times as many random requests and sequences, for minutes. `CONTRACT_SEED=5` has others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.contract_hooks import KEPT_TOKEN, TARGET
from tests.integration.tokens_tools import Keys
from tests.integration.wire import good
from tests.support import ROOT, Clusters

PHASES = "examples,coverage,fuzzing,stateful"
# They take backups, have a node drained or forgotten, and the index filled again. Meanwhile others are told to wait
# with 503. So they have a turn of their own, and no sequences: no links lead to them.
DISTURBING = "^/(internal/restore|admin/backup|admin/network)"
# Its answer has no end, and Schemathesis waits for that. `test_events.py` has good and bad requests for it.
ENDLESS = "^/events"
EXAMPLES, MANY_EXAMPLES = 12, 240  # of random requests for each operation


class Found(NamedTuple):
    """What Schemathesis said."""

    status: int  # 0: it has found nothing
    requests: int
    text: str


class Site(NamedTuple):
    """A cluster that asks for tokens."""

    keys: Keys
    directory: Path

    @property
    def url(self) -> str:
        """Of the master."""
        return self.keys.cluster.master_url

    def look(self, *options: str, document: str = "", phases: str = PHASES, examples: int = EXAMPLES) -> Found:
        """What Schemathesis finds with these options; `document`: the path of another one than the master's."""
        command = [
            *(str(Path(sys.executable).with_name("st")), "--config-file", "tests/integration/contract.toml", "run"),
            *(document or f"{self.url}/openapi.json", "--url", self.url, "--no-color"),
            *("-H", f"Authorization: Bearer {self.keys.all}", "--checks", "all", "--phases", phases),
            *("--max-examples", str(examples), "--seed", os.environ.get("CONTRACT_SEED", "1"), *options),
        ]
        environment = os.environ | {
            "SCHEMATHESIS_HOOKS": "tests.integration.contract_hooks",
            TARGET: str(self.directory / "target"),
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        made = re.search(r"(\d+) generated", done.stdout)
        return Found(done.returncode, int(made[1]) if made else 0, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def site(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("contract")
    (directory / "tokens").mkdir()
    (directory / "target").mkdir()
    keys = Keys(directory / "tokens" / "tokens")
    assert KEPT_TOKEN in keys.lines
    target = {"PULZAR_BACKUP_TYPE": "directory", "PULZAR_BACKUP_ADDRESS": str(directory / "target")}
    keys.start(make_shared_cluster, **target)
    return Site(keys, directory)


@pytest.mark.timeout(900)
def test_requests_of_all_kinds_are_answered_as_documented(site: Site) -> None:
    found = site.look("--exclude-path-regex", f"{DISTURBING}|{ENDLESS}")
    assert found.status == 0, found.text
    assert found.requests > 3_000
    assert all(f"✅ {phase}" in found.text for phase in ("Examples", "Coverage", "Fuzzing", "Stateful")), found.text
    # The cluster is as good as before
    key = "after/the/requests"
    good(site.keys.ask("PUT", f"/add_key/{key}", site.keys.all, b"value"), 201)
    assert site.keys.ask("GET", f"/get_key/{key}", site.keys.all).body == b"value"


@pytest.mark.timeout(600)
def test_operations_that_disturb_others_are_answered_as_documented(site: Site) -> None:
    found = site.look("--include-path-regex", DISTURBING, phases="examples,coverage,fuzzing")
    assert found.status == 0, found.text
    assert found.requests > 100


@pytest.mark.contract
@pytest.mark.timeout(7200)
def test_very_many_requests_are_answered_as_documented(site: Site) -> None:
    found = site.look("--exclude-path-regex", f"{DISTURBING}|{ENDLESS}", examples=MANY_EXAMPLES)
    assert found.status == 0, found.text
    assert found.requests > 10_000


class Example(NamedTuple):
    """A request that was answered otherwise until it was found, and how it is answered now."""

    method: str
    path: str
    status: int
    allow: str = ""
    headers: tuple[tuple[str, str], ...] = ()


NAME = "0" * 64
EXAMPLES_FOUND = [
    # A repository, a folder of files and a file have not the same methods.
    Example("OPTIONS", "/restic/found/", 204, "OPTIONS, POST"),
    Example("OPTIONS", "/restic/found/data/", 204, "GET, HEAD, OPTIONS"),
    Example("OPTIONS", f"/restic/found/data/{NAME}", 204, "DELETE, GET, HEAD, OPTIONS, POST"),
    Example("OPTIONS", "/restic/found/config", 204, "DELETE, GET, HEAD, OPTIONS, POST"),
    Example("OPTIONS", "/restic/a%20b/", 400),
    Example("POST", "/restic/found/data/", 405, "GET, HEAD, OPTIONS"),
    Example("GET", "/restic/found/", 405, "OPTIONS, POST"),
    Example("DELETE", "/restic/found/", 405, "OPTIONS, POST"),
    # What stands beside the messages is no id of one.
    Example("GET", "/admin/dead/send", 405, "OPTIONS, POST"),
    Example("OPTIONS", "/admin/dead/drop", 204, "OPTIONS, POST"),
    # A checksum that is none was refused by the node, when all of the body was sent.
    Example("PUT", "/get_node/found", 400, headers=(("X-Checksum-Sha256", "x"),)),
    Example("PUT", "/get_node/found", 400, headers=(("Content-MD5", "x"),)),
    Example("PUT", "/add_key/found", 400, headers=(("X-Checksum-Sha256", " ".join(["00"] * 32)),)),
    # A control character is in no key.
    Example("GET", "/keys?prefix=%01", 400),
    Example("GET", "/stats/%01", 400),
    # A key with its version is longer than a key.
    Example("GET", f"/keys?after={'~' * 403}", 200),
    Example("GET", f"/keys?after={'~' * 404}", 400),
    # A flag that counted for nothing was not looked at.
    Example("GET", "/health?ready=yes", 400),
    Example("GET", "/internal/verify?files=1&limit=0", 400),
]


@pytest.mark.parametrize("example", EXAMPLES_FOUND, ids=lambda one: f"{one.method} {one.path[:40]}")
def test_what_was_found_is_mended(site: Site, example: Example) -> None:
    answer = site.keys.ask(example.method, example.path, site.keys.all, headers=dict(example.headers))
    assert answer.status == example.status, answer
    assert answer.headers.get("allow", "") == example.allow
    if answer.status >= 400:
        assert answer.json["status"] == "ko"
        assert answer.headers["content-type"] == "application/json"


LIES = {
    "a status": ("/admin/jobs/{number}", "404", None),
    "a body": ("/health", "200", {"type": "object", "required": ["data"], "properties": {"data": {"type": "integer"}}}),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", LIES)
def test_a_document_that_lies_is_found_out(site: Site, tmp_path: Path, what: str) -> None:
    """Otherwise the tests above could not fail."""
    path, status, schema = LIES[what]
    document: dict[str, Any] = site.keys.ask("GET", "/openapi.json").json
    responses = document["paths"][path]["get"]["responses"]
    if schema is None:
        del responses[status]
    else:
        responses[status]["content"]["application/json"]["schema"] = schema
    place = tmp_path / "openapi.json"
    place.write_text(json.dumps(document))
    found = site.look("--include-path", path, document=str(place), phases="coverage")
    assert found.status == 1, found.text
    assert re.search("Undocumented status code|Response violates schema", found.text)
