"""Tokens and rights at real masters and nodes: every route with none, a wrong, an expired, a revoked and the right one."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from broker import settings
from broker.http import signing
from jobs.client import Client as JobsClient
from jobs.errors import StoreError
from master.security.rights import KINDS, ON_KEYS, ON_NAMES, Right
from master.security.routes import TABLE
from ops import http_client
from tests.integration.tokens_tools import Keys, today
from tests.integration.wire import Answer, Client, good, payload, refused, target_of
from tests.support import Clusters, unique, wait_for

VALUE = b"a value"
LARGE = 2_000_000
# Pages of the web page are for browsers: tests/ui has them.
API = [row for row in TABLE if row[1] not in ("/", "/ui") and not row[1].startswith("/ui/")]
GUARDED = sorted(row for row in API if TABLE[row].need is not None)
OPEN = sorted(row for row in API if TABLE[row].need is None)


@pytest.fixture(scope="module")
def keys(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("tokens") / "tokens")
    made.start(make_shared_cluster)
    made.settle()
    return made


class Case:
    """A route of the table as a request, and what it needs."""

    def __init__(self, keys: Keys, method: str, path: str) -> None:
        self.keys = keys
        self.key = unique()
        keys.put(self.key, VALUE)
        self.job = keys.launch(keys.all, scheduled={"interval": "weeks", "time_unit": 9, "repeat": 0})
        parts = {"key": self.key, "arguments": "example/a", "script": "example/factorial", "node_id": "node-1"}
        parts |= {"job": str(self.job), "number": str(self.job), "letter_id": "0" * 32}
        parts |= {"action": "pause", "repository": self.key, "type": "data"}
        self.method = method
        parts["prefix"] = f"{self.key}/"
        keys.put(f"{self.key}/x", VALUE)
        query = {
            "/copy/{key}": f"to={self.key}.new",
            "/move/{key}": f"to={self.key}.new",
            "/internal/verify": "node=node-1",
            "/lifetime/{key}": "ttl=1h",
            "/schedule_preview": "interval=days&time_unit=1&repeat=1",
            "/restic/{repository}/": "create=true",
        }
        self.body = {"PUT": b"another value", "POST": b'{"number": 3}'}.get(method, b"")
        parts["name"] = hashlib.sha256(self.body or VALUE).hexdigest() if "{repository}" in path else "nobody"
        path_of = path.replace("{folder}/{script}", "{script}")
        self.target = re.sub(r"\{(\w+)\}", lambda part: parts[part[1]], path_of)
        if "{repository}" in path and method != "POST" and not path.endswith("/"):
            assert keys.ask("POST", self.target, keys.all, VALUE).status == 200
        if path in ("/admin/dead/send", "/admin/dead/drop"):
            self.body = json.dumps({"ids": [parts["letter_id"]]}).encode()
        if path in ("/internal/restore", "/admin/backup"):
            self.body = b"{}"
        need = TABLE[method, path].need
        assert need
        environ = {"PATH_INFO": self.target, "QUERY_STRING": query.get(path, ""), "REQUEST_METHOD": method}
        self.needed = need(environ, path.partition("{")[0])
        if path == "/sign":
            self.body = json.dumps({"key": self.key}).encode()
            self.needed = (Right("read", self.key),)
        if path == "/launch_jobs":
            self.body = b'{"jobs": [{"job": "example/factorial", "arguments": {"number": 3}}]}'
            self.needed = (Right("launch", "example/factorial"),)
        if path in ("/add_key/{key}", "/get_node/{key}"):
            query[path] = "overwrite=1"
        self.target += f"?{query[path]}" if path in query else ""

    def ask(self, token: str | None) -> Answer:
        if self.target == "/events":
            return self.keys.begin(self.target, token)
        return self.keys.ask(self.method, self.target, token, self.body)

    def state(self) -> object:
        """What a refused request must leave as it is."""
        jobs = good(self.keys.ask("GET", "/admin/jobs?limit=1000", self.keys.all))
        nodes = good(self.keys.ask("GET", "/admin/network", self.keys.all))
        restored = good(self.keys.ask("GET", "/internal/restore", self.keys.all))
        return (
            self.keys.ask("GET", f"/get_key/{self.key}", self.keys.all).body,
            {name: [row["job_id"] for row in rows] for name, rows in jobs.items() if name in ("scheduled",)},
            sum(len(rows) for rows in jobs.values()),
            [row["node"] for row in nodes],
            [row["generation"] for row in restored["nodes"]],
        )


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=lambda part: str(part))
def test_every_route_is_for_who_has_its_right_and_for_nobody_else(keys: Keys, method: str, path: str) -> None:
    # Given tokens of all kinds
    case = Case(keys, method, path)
    needed = [str(right) for right in case.needed]
    # All rights but this one: those of other kinds, and the same for other names
    kinds = {right.kind for right in case.needed}
    others = [kind if kind not in (*ON_KEYS, *ON_NAMES) else f"{kind}:other/x" for kind in sorted(KINDS)]
    others = [right for right in others if right.partition(":")[0] in (*ON_KEYS, *ON_NAMES) or right not in kinds]
    others = [
        right for right in others if right != "admin" and not (right.startswith("launch") and TABLE[method, path].own)
    ]
    some = needed or ["metrics"]  # there is no token without a right
    right = keys.make("right", some)
    lacking = keys.make("lacking", others)
    expired = keys.make("expired", some, today() - datetime.timedelta(1))
    revoked = keys.make("revoked", some)
    keys.settle()
    assert case.ask(revoked).status not in (401, 403) if method in ("GET", "HEAD") else True
    del keys.lines["revoked"]
    keys.settle()
    before = case.state()
    # When it is asked for without the right
    for kind, token, status in (
        ("none", None, 401),
        ("wrong", f"pz_right_{'0' * 48}", 401),
        ("expired", expired, 401),
        ("revoked", revoked, 401),
        *([("lacking", lacking, 403)] if needed else []),
    ):
        answer = case.ask(token)
        # Then it is refused, with the reason
        assert answer.status == status, (kind, answer)
        if method != "HEAD":
            message = refused(answer, status)
            assert kind != "lacking" or f"lacks the right {needed[0]}" in message
        assert (status == 401) == ("www-authenticate" in answer.headers)
    # And nothing has changed
    assert case.state() == before
    # And with the right it is done
    answer = case.ask(right)
    allowed = {
        "/admin/network/{node_id}": 409,  # it is heard from
        "/undelete/{key}": 409,  # the key is there
        "/admin/backup": 400,  # there is no target
        "/admin/dead/{letter_id}": 404,  # there is none, as for the next two
        "/admin/dead/send": 404,
        "/admin/dead/drop": 404,
        "/admin/tokens/{name}": {"POST": 400, "DELETE": 404}.get(method),  # it is told no rights; there is none
    }
    assert answer.status < 400 or answer.status == allowed.get(path), answer


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_a_route_that_needs_no_right_looks_itself(keys: Keys, method: str, path: str) -> None:
    answer = keys.ask(method, path.replace("{key}", unique()), None, b"{}" if method == "POST" else b"")
    if path == "/internal/commit/{key}":
        assert "not signed" in refused(answer, 403)
    else:
        assert answer.status == 200


def test_the_matrix_has_every_right_of_a_route() -> None:
    assert len(GUARDED) > 25
    assert {str(right.kind) for right in map(Right, KINDS)} >= {"read", "write", "delete", "launch", "extension"}


def test_nobody_gives_a_right_or_a_time_that_he_has_not(keys: Keys) -> None:
    tomorrow = today() + datetime.timedelta(1)
    admin = keys.make("admin", ["admin", "read:a/"], tomorrow)
    reader = keys.make("reader", ["read:", "metrics"])
    keys.settle()

    def make(name: str, token: str, body: object) -> Answer:
        return keys.ask("POST", f"/admin/tokens/{name}", token, json.dumps(body).encode())

    assert make("x", reader, {"rights": ["read:"]}).status == 403
    answer = make("x", admin, {"rights": ["read:b/", "launch:*", "metrics"]})
    assert (answer.status, "read:b/, launch:*" in answer.json["msg"]) == (403, True)
    made = make("x", admin, {"rights": ["read:a/b/", "jobs"], "for": "90d"})
    assert (made.status, made.json["data"]["until"]) == (201, tomorrow.isoformat())
    assert make("x", admin, {"rights": ["jobs"]}).status == 409
    for bad in ({}, {"rights": []}, {"rights": "read:"}, {"rights": [1]}, {"rights": ["reed:"]}, {"rights": ["jobs"], "for": "0d"}, []):  # fmt: skip
        assert make("y", admin, bad).status == 400, bad
    assert keys.ask("DELETE", "/admin/tokens/nobody", admin).status == 404
    assert keys.ask("GET", "/admin/tokens", reader).status == 403
    listed = keys.ask("GET", "/admin/tokens", admin).json["data"]
    assert {row["name"]: row["until"] for row in listed["tokens"]}["x"] == tomorrow.isoformat()
    # What acts for an admin has his rights, and can't make what outlives it.
    known = settings.load(environ={"PULZAR_GENERAL_SECRET": keys.cluster.secret})
    lent = signing.sign_caller(known.secret(), "admin", int(time.time()) + 60)
    assert keys.ask("GET", "/admin/tokens", lent).status == 200
    assert "makes no tokens" in refused(make("z", lent, {"rights": ["jobs"]}), 403)
    # Who did what is in the audit log.
    audited = good(keys.ask("GET", "/admin/audit?limit=50", keys.all))
    assert ("POST", "/admin/tokens", "x", "admin", 201) in {
        (row["method"], row["route"], row["about"], row["name"], row["status"]) for row in audited
    }
    assert made.json["data"]["token"] not in json.dumps(audited)


def test_a_token_that_was_made_is_good_until_it_is_revoked(keys: Keys) -> None:
    made = good(keys.ask("POST", "/admin/tokens/short", keys.all, b'{"rights": ["metrics"]}'), 201)
    text = made["token"]
    wait_for(lambda: keys.ask("GET", "/admin/status", text).status == 200, what="the token to be known")
    good(keys.ask("DELETE", "/admin/tokens/short", keys.all))
    wait_for(lambda: keys.ask("GET", "/admin/status", text).status == 401, what="the token to be revoked")
    assert "short" not in keys.ask("GET", "/admin/tokens", keys.all).body.decode()


# How a token is sent.


def curl(*arguments: str) -> tuple[int, bytes]:
    command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


def test_curl_sends_it_as_a_password_and_a_redirect_to_a_node_needs_none(keys: Keys, tmp_path: Path) -> None:
    file, got, key = tmp_path / "file", tmp_path / "got", unique()
    file.write_bytes(payload(LARGE))
    master = keys.cluster.master_url
    sent = ("-u", f"ci:{keys.all}")
    assert curl(*sent, "-L", "-T", str(file), f"{master}/add_key/{key}")[0] == 201
    assert curl(*sent, "-L", "-o", str(got), f"{master}/get_key/{key}")[0] == 200
    assert got.read_bytes() == payload(LARGE)
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {urlsplit(master).hostname} login ci password {keys.all}\n")
    assert curl("--netrc-file", str(netrc), f"{master}/keys?prefix={key}")[0] == 200
    assert curl(f"{master}/keys?prefix={key}&token={keys.all}")[0] == 401


def test_the_clients_of_jobs_and_ops_send_the_token_of_the_environment(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small, large = unique(), unique()
    with pytest.raises(StoreError, match="401"):
        JobsClient(keys.cluster.master_url, patience=0).store(b"x", small)
    monkeypatch.setenv("PULZAR_TOKEN", keys.all)
    client = JobsClient(keys.cluster.master_url)
    client.store(b"x", small)
    client.store(payload(LARGE), large)
    assert client.fetch(large) == payload(LARGE)
    assert [row["key"] for row in client.keys(small)] == [small]
    client.delete(small)
    reply = http_client.ask("GET", f"{keys.cluster.master_url}/get_key/{large}", redirects=1)
    assert (reply.status, reply.body) == (200, payload(LARGE))
    assert len(set(reply.hosts)) == 2


# Nodes.


def test_a_node_answers_no_read_that_is_not_signed(keys: Keys) -> None:
    key = unique()
    stored = good(keys.ask("PUT", f"/add_key/{key}", keys.all, payload(LARGE)), 201)
    assert stored["url"] == f"{keys.cluster.master_url}/get_key/{key}"
    node = keys.ask("GET", f"/get_key/{key}", keys.all).headers["location"]
    with Client(node) as client:
        assert client.request("GET", target_of(node)).body == payload(LARGE)
        plain = target_of(node).partition("?")[0]
        assert "not signed" in refused(client.request("GET", plain), 403)
        refused(client.request("GET", plain, headers={"Authorization": f"Bearer {keys.all}"}), 403)


def test_a_node_gets_the_data_of_a_job_without_a_token(keys: Keys) -> None:
    key = unique()
    keys.put(key, VALUE)
    job = keys.launch(keys.all, pulzar_data=key, pulzar_options={"attempts": 1})
    state = wait_for(
        lambda: (
            (row := good(keys.ask("GET", f"/admin/jobs/{job}", keys.all)))["state"] in ("completed", "failed") and row
        ),
        what="the job",
    )
    assert state["state"] == "completed", state


# Jobs.


def test_a_launch_needs_the_right_to_read_its_data(keys: Keys) -> None:
    key = unique()
    keys.put(key, VALUE)
    narrow = keys.make("narrow", ["launch:example/*", f"read:{key}/"])
    wide = keys.make("wide", ["launch:example/*", f"read:{key}"])
    keys.settle()
    before = len(good(keys.ask("GET", "/admin/all_jobs?limit=1000", keys.all)))
    body = f'{{"number": 3, "pulzar_data": "{key}"}}'.encode()
    assert f"the right read:{key}" in refused(keys.ask("POST", "/launch_job/example/factorial", narrow, body), 403)
    assert len(good(keys.ask("GET", "/admin/all_jobs?limit=1000", keys.all))) == before
    good(keys.ask("POST", "/launch_job/example/factorial", wide, body))


def test_of_many_jobs_those_are_launched_that_the_token_has_the_rights_for(keys: Keys) -> None:
    key = unique()
    keys.put(key, VALUE)
    token = keys.make("many", ["launch:example/fact*", f"read:{key}"])
    keys.settle()
    wait_for(lambda: keys.ask("GET", "/admin/job_catalog", keys.all).json["data"], what="the catalog")
    jobs = [
        {"job": "example/factorial", "arguments": {"number": 3}},
        {"job": "example/fibonacci", "arguments": {"count": 3}},
        {"job": "example/factorial", "arguments": {"number": 3, "pulzar_data": key}},
        {"job": "example/factorial", "arguments": {"number": 3, "pulzar_data": f"other/{key}"}},
    ]
    answer = keys.ask("POST", "/launch_jobs", token, json.dumps({"jobs": jobs}).encode())
    assert answer.status == 207
    first, second, third, fourth = answer.json["data"]
    assert [reply["code"] for reply in answer.json["data"]] == [202, 403, 202, 403]
    assert "launch:example/fibonacci" in second["msg"]
    assert f"read:other/{key}" in fourth["msg"]
    for reply in (first, third):  # they are his own
        assert good(keys.ask("GET", f"/admin/jobs/{reply['data']['job_id']}", token))


def test_who_launches_sees_and_cancels_his_own_jobs_alone(keys: Keys) -> None:
    mine = keys.make("mine", ["launch:example/*"])
    keys.settle()
    later = {"scheduled": {"interval": "weeks", "time_unit": 9, "repeat": 1}}
    own, others = keys.launch(mine, **later), keys.launch(keys.all, **later)
    done, foreign = keys.launch(mine), keys.launch(keys.all)
    for job in (own, done):
        assert good(keys.ask("GET", f"/admin/jobs/{job}", mine))["job_id"] == job
    for job in (others, foreign):
        assert "lacks the right jobs" in refused(keys.ask("GET", f"/admin/jobs/{job}", mine), 403)
        assert "lacks the right jobs" in refused(keys.ask("POST", f"/cancel_job/{job}", mine), 403)
    assert others in [row["job_id"] for row in good(keys.ask("GET", "/admin/jobs", keys.all))["scheduled"]]
    good(keys.ask("POST", f"/cancel_job/{own}", mine))
    refused(keys.ask("GET", "/admin/jobs/999999", mine), 404)


def test_who_launches_lists_his_own_jobs_and_scripts_alone(keys: Keys) -> None:
    lister = keys.make("lister", ["launch:example/fact*"])
    reader = keys.make("reader", ["read:", "metrics"])
    keys.settle()
    later = {"scheduled": {"interval": "weeks", "time_unit": 9, "repeat": 1}}
    own, others = keys.launch(lister, **later), keys.launch(keys.all, **later)
    done, foreign = keys.launch(lister), keys.launch(keys.all)
    lists = good(keys.ask("GET", "/admin/jobs", lister))
    assert {row["job_id"] for rows in lists.values() for row in rows} == {own, done}
    assert [row["job_id"] for row in good(keys.ask("GET", "/admin/all_jobs", lister))] == [done]
    assert good(keys.ask("GET", f"/admin/all_jobs?before={done}", lister)) == []
    assert {done, foreign} <= {row["job_id"] for row in good(keys.ask("GET", "/admin/all_jobs", keys.all))}
    assert [row["job_id"] for row in good(keys.ask("GET", "/admin/scheduled_jobs", lister))] == [own]
    assert good(keys.ask("GET", "/admin/scheduled_jobs/ok", lister)) == []
    assert good(keys.ask("GET", f"/admin/scheduled_jobs/{own}", lister))["job_id"] == own
    for path in (f"/{others}", f"/ok/{others}", f"/failed/{others}"):
        assert "lacks the right jobs" in refused(keys.ask("GET", f"/admin/scheduled_jobs{path}", lister), 403)
    assert [row["path"] for row in good(keys.ask("GET", "/admin/job_catalog", lister))] == ["example/factorial"]
    for path in ("jobs", "all_jobs", "scheduled_jobs", "scheduled_jobs/ok", "scheduled_jobs/failed", "job_catalog"):
        assert "lacks the right jobs" in refused(keys.ask("GET", f"/admin/{path}", reader), 403)


def test_a_run_acts_for_who_launched_it_and_its_token_dies_with_it(make_cluster: Clusters, tmp_path: Path) -> None:
    # Given a script that stores what it is told, and tells its token
    folder = tmp_path / "scripts" / "test"
    folder.mkdir(parents=True)
    (folder / "writes.py").write_text(
        "import os\n"
        "from jobs import Job\n"
        "class Writes(Job):\n"
        "    def execute(self):\n"
        "        self.store(b'by a run', self.arguments['key'])\n"
        "        return os.environ['PULZAR_TOKEN']\n"
    )
    keys = Keys(tmp_path / "tokens")
    keys.start(make_cluster, PULZAR_JOBS_DIR=str(tmp_path / "scripts"))
    robot = keys.make("robot", ["launch:test/*", "write:out/"])
    keys.settle()

    def run(key: str) -> dict[str, Any]:
        wait_for(lambda: keys.ask("GET", "/admin/job_catalog", keys.all).json["data"], what="the catalog")
        body = json.dumps({"key": key, "pulzar_options": {"attempts": 1}}).encode()
        job = good(keys.ask("POST", "/launch_job/test/writes", robot, body))["job_id"]

        def ended() -> dict[str, Any] | None:
            row: dict[str, Any] = good(keys.ask("GET", f"/admin/jobs/{job}", keys.all))
            return row if row["state"] in ("completed", "failed") else None

        row = wait_for(ended, what="the run")
        assert row
        return row

    # When it stores where its launcher may, and where he may not
    done, failed = run("out/a"), run("other/a")
    # Then it has his rights
    assert done["state"] == "completed", done
    assert keys.ask("GET", "/get_key/out/a", keys.all).body == b"by a run"
    assert (failed["state"], "lacks the right write:other/a" in failed["reason"] + failed["log"]) == ("failed", True)
    refused(keys.ask("GET", "/get_key/other/a", keys.all), 404)
    # And its token is worth nothing any more
    token = done["output"]
    assert re.fullmatch(r"pzr_[0-9]+_1_[0-9a-f]{48}", token)
    refused(keys.ask("PUT", "/add_key/out/b", token, b"x"), 401)


# The file.


def test_a_master_does_not_start_with_a_file_that_others_may_read(make_cluster: Clusters, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.touch(0o644)
    cluster = make_cluster(nodes=1, env={"PULZAR_SECURITY_TOKENS": str(path)}, start=False)
    with pytest.raises(Exception, match=r"master"):
        cluster.start()
    assert "its owner alone" in cluster.master.tail(20)


def test_while_the_file_is_away_nobody_is_let_in(make_cluster: Clusters, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.start(make_cluster)
    keys.settle()
    keys.path.rename(tmp_path / "away")
    wait_for(lambda: keys.ask("GET", "/keys", keys.all).status == 503, what="503")
    assert keys.ask("GET", "/health").status == 200
    keys.write()
    wait_for(lambda: keys.ask("GET", "/keys", keys.all).status == 200, what="200 again")
