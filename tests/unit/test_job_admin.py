"""`/admin/jobs` and its siblings, from a ledger to JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from broker.messages.jobs import Options, Order
from broker.messages.runs import NodeCatalog, Progress, RunState
from broker.refusals import NotFound
from jobs.secret_file import SecretFile
from master.jobs import script_catalog
from master.jobs.history import pages
from master.jobs.history.pages import HistoryFilter
from master.jobs.model import Rhythm, arguments_text
from master.web.flask_routes import job_admin
from master.web.flask_routes.app import _failed
from master.web.flask_routes.job_json import ROW_BYTES, SHOWN_BYTES, SHOWN_DEPTH
from master.web.flask_routes.visible_jobs import VisibleJobs
from tests.unit.desk import NOW, Desk, token

JOB_COLUMNS = {"job_id", "job_name", "parameters", "node", "creation_time"}
SCHEDULE_COLUMNS = {
    "job_id",
    "job_name",
    "parameters",
    "interval",
    "time_unit",
    "repeat",
    "creation_time",
    "next_execution",
}


class Site:
    """The routes over a desk's ledger; values of the store are a dict."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store: dict[str, bytes] = {}
        app = self.app = Flask("test")
        app.extensions[job_admin.EXTENSION] = job_admin.JobParts(desk.ledger, self.read)
        app.register_blueprint(job_admin.blueprint)
        app.register_error_handler(Exception, _failed)
        self.client = app.test_client()

    def keep_secrets(self, file: Path) -> None:
        parts = self.desk.ledger, self.read, SecretFile(str(file))
        self.app.extensions[job_admin.EXTENSION] = job_admin.JobParts(*parts)

    def read(self, key: str, most: int) -> bytes | None:
        value = self.store.get(key)
        return value if value is None else value[-most - 1 :]

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        envelope = answer.get_json()
        assert set(envelope) == {"data", "msg", "status"}
        return envelope["data"] if status == 200 else envelope["msg"]

    def ended(self, state: RunState, options: Options = Options(), log: bytes = b"", output: bytes = b"") -> int:  # noqa: B008
        number = self.desk.launched(options, number=5)
        self.desk.claim(number, run=number)
        self.desk.finish(number, state, run=number, reason="" if state is RunState.COMPLETED else "it broke")
        self.store |= {"log": log, "output": output}
        return number

    def execution(self) -> int:
        """The clock goes on by an hour; id of the job that a schedule launched, which a node has claimed."""
        self.desk.now += 3_600_000
        (action,) = self.desk.tick()
        number: int = action.order.id  # type: ignore[union-attr]
        self.desk.claim(number, run=number)
        return number

    def schedule(self, repeat: bool = True) -> int:
        order = Order("example/report", {"kind": "é"})
        rhythm = Rhythm("hours", 1, repeat)
        return self.desk.write(lambda tables: self.desk.schedules.add(tables, order, rhythm, self.desk.now))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    desk = Desk(tmp_path)
    yield Site(desk)
    desk.ledger.close()


def test_jobs_are_listed_by_state(site: Site) -> None:
    pending, running = site.desk.launched(), site.desk.launched(number=5)
    site.desk.claim(running)
    done, failed = site.ended(RunState.COMPLETED), site.ended(RunState.FAILED)
    cancelled = site.desk.launched()
    site.desk.cancel(cancelled)
    schedule = site.schedule()
    data = site.get("/admin/jobs")
    assert {name: [row["job_id"] for row in rows] for name, rows in data.items()} == {
        "pendings": [running, pending],
        "ready": [done],
        "failed": [cancelled, failed],
        "scheduled": [schedule],
    }
    row = data["pendings"][0]
    assert row.keys() > JOB_COLUMNS
    assert {name: row[name] for name in JOB_COLUMNS} == {
        "job_id": running,
        "job_name": "job",
        "parameters": '{"number":5}',
        "node": "n1",
        "creation_time": NOW // 1000,
    }
    assert (row["state"], row["job_path"], row["source"], row["attempt"]) == ("running", "example/job", "rest", 1)
    assert [row["state"] for row in data["failed"]] == ["cancelled", "failed"]


def test_a_scheduled_job_has_its_times_as_texts_in_utc(site: Site) -> None:
    number = site.schedule()
    (row,) = site.get("/admin/jobs")["scheduled"]
    assert {name: row[name] for name in SCHEDULE_COLUMNS} == {
        "job_id": number,
        "job_name": "report",
        "parameters": '{"kind":"é"}',
        "interval": "hours",
        "time_unit": "1",
        "repeat": 1,
        "creation_time": "2023-11-14 22:13:20.000000",
        "next_execution": "2023-11-14 23:13:20.000000",
    }


def test_lists_come_in_pages(site: Site) -> None:
    numbers = [site.desk.launched() for _ in range(7)]
    newest = numbers[::-1]
    page = site.get("/admin/jobs?limit=3")["pendings"]
    assert [row["job_id"] for row in page] == newest[:3]
    page = site.get(f"/admin/jobs?limit=3&before={newest[2]}&list=pendings")
    assert [row["job_id"] for row in page["pendings"]] == newest[3:6]
    assert page["ready"] == page["failed"] == page["scheduled"] == []
    assert [row["job_id"] for row in site.get("/admin/all_jobs?limit=2")] == newest[:2]
    assert [row["job_id"] for row in site.get(f"/admin/all_jobs?before={newest[4]}")] == newest[5:]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/admin/jobs?limit=0", "limit='0' is no integer from 1 to 1000"),
        ("/admin/jobs?limit=1001", "1 to 1000"),
        ("/admin/all_jobs?limit=-1", "limit='-1'"),
        ("/admin/all_jobs?before=x", "before='x'"),
        ("/admin/jobs?list=all", "list='all' is none of pendings"),
    ],
)
def test_a_bad_parameter_is_told(site: Site, path: str, message: str) -> None:
    assert message in site.get(path, 400)


def test_a_completed_job_has_its_log_output_and_time(site: Site) -> None:
    number = site.ended(RunState.COMPLETED, log=b"line\n", output=b'{"result": 120}')
    data = site.get(f"/admin/jobs/{number}")
    assert {name: data[name] for name in ("job", "status", "log", "time", "output")} == {
        "job": number,
        "status": "completed",
        "log": "line\n",
        "time": 1.5,
        "output": {"result": 120},
    }
    assert data["log_url"] == "http://localhost/get_key/log"
    assert [attempt["state"] for attempt in data["attempts"]] == ["completed"]


@pytest.mark.parametrize("output", [b"just text", b"[NaN]", b"[" * 100_000])
def test_output_that_is_no_json_is_text(site: Site, output: bytes) -> None:
    number = site.ended(RunState.COMPLETED, output=output)
    assert site.get(f"/admin/jobs/{number}")["output"] == output.decode()


@pytest.mark.parametrize("depth", [100, 101, 400, 900, 980, 990, 1_000, 5_000])
@pytest.mark.parametrize("kind", ["list", "object"])
def test_output_that_is_nested_deep_is_shown_in_its_page_and_in_lists(site: Site, depth: int, kind: str) -> None:
    number = site.schedule()
    execution = site.execution()
    site.desk.finish(execution, RunState.COMPLETED, run=execution)
    nested = "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth
    site.store["output"] = nested.encode()
    output = site.get(f"/admin/jobs/{execution}")["output"]
    assert output == (json.loads(nested) if depth <= SHOWN_DEPTH else nested)
    (row,) = site.get(f"/admin/scheduled_jobs/{number}")["last_executions"]
    assert (row["output"], row["output_cut"]) == ((None, True) if len(nested) > ROW_BYTES else (output, False))


@pytest.mark.parametrize("output", [b"1e999", b"[-1e999]", b'{"a": Infinity}', b"1" * 5_000])
def test_output_with_numbers_that_json_has_not_is_text(site: Site, output: bytes) -> None:
    number = site.ended(RunState.COMPLETED, output=output)
    assert site.get(f"/admin/jobs/{number}")["output"] == output.decode()


@pytest.mark.parametrize("text", ["x", "é", '"', "\n", "\u2028", "😀", "\u0000"])
def test_a_row_has_the_beginning_of_long_arguments_and_the_page_has_them_whole(site: Site, text: str) -> None:
    short, long = {"text": text * 100}, {"text": text * 200_000}
    small = site.desk.launched(**short)
    number = site.desk.launched(**long)
    order = Order("example/report", long)
    schedule = site.desk.write(lambda tables: site.desk.schedules.add(tables, order, Rhythm("hours", 1, True), NOW))
    execution = site.execution()
    paths = ["/admin/jobs", "/admin/all_jobs", "/admin/scheduled_jobs", f"/admin/scheduled_jobs/{schedule}"]
    data = [site.get(path) for path in paths]
    rows = [*data[0]["pendings"], *data[0]["scheduled"], *data[1], *data[2], *data[3]["last_executions"]]
    rows = [row for row in rows if row["job_id"] != small]
    assert [row["parameters_cut"] for row in rows] == [True] * 7
    for row in rows:
        assert len(row["parameters"].encode()) <= ROW_BYTES
        assert len(row["parameters"].encode()) > ROW_BYTES - 30
        beginning = json.loads(row["parameters"])
        assert arguments_text(long).startswith(beginning.removesuffix("…"))
    (row,) = [row for row in data[1] if row["job_id"] == small]
    assert (json.loads(row["parameters"]), row["parameters_cut"]) == (short, False)
    for page in (site.get(f"/admin/jobs/{number}"), site.get(f"/admin/jobs/{schedule}"), data[3]):
        assert (json.loads(page["parameters"]), page["parameters_cut"]) == (long, False)
    assert json.loads(site.get(f"/admin/jobs/{execution}")["parameters"]) == long


def test_a_list_of_executions_carries_no_long_logs_or_outputs(site: Site) -> None:
    number = site.schedule()
    for _ in range(20):
        execution = site.execution()
        site.desk.finish(execution, RunState.COMPLETED, run=execution)
    site.store |= {"log": b"x" * SHOWN_BYTES + b"end", "output": b'"' + b"y" * 200_000 + b'"'}
    for path in (f"/admin/scheduled_jobs/{number}", "/admin/scheduled_jobs", "/admin/scheduled_jobs/ok"):
        answer = site.client.get(path)
        assert len(answer.data) < 20 * 4 * ROW_BYTES
    for row in site.get("/admin/scheduled_jobs/ok"):
        assert (len(row["log"]), row["log"][-3:], row["log_cut"]) == (ROW_BYTES, "end", True)
        assert (row["output"], row["output_cut"]) == (None, True)
    page = site.get(f"/admin/jobs/{execution}")
    assert (len(page["log"]), len(page["output"]), page["output_cut"]) == (SHOWN_BYTES, 200_000, False)


def test_what_is_large_is_not_shown_whole(site: Site) -> None:
    number = site.ended(RunState.COMPLETED, log=b"x" * SHOWN_BYTES + b"end", output=b'"' + b"y" * SHOWN_BYTES + b'"')
    data = site.get(f"/admin/jobs/{number}")
    assert (len(data["log"]), data["log"][-3:], data["log_cut"]) == (SHOWN_BYTES, "end", True)
    assert data["output"] is None
    assert data["output_url"] == "http://localhost/get_key/output"


def test_the_end_of_a_large_output_is_not_taken_for_an_output(site: Site) -> None:
    number = site.ended(RunState.COMPLETED, log=b"x", output=b"1" * (SHOWN_BYTES + 1))
    data = site.get(f"/admin/jobs/{number}")
    assert (data["output"], data["log"], data["log_cut"]) == (None, "x", False)


def test_a_log_that_is_gone_is_empty(site: Site) -> None:
    number = site.ended(RunState.FAILED)
    site.store.clear()
    data = site.get(f"/admin/jobs/{number}")
    assert (data["log"], data["output"], data["log_url"]) == ("", None, None)
    assert (data["status"], data["reason"]) == ("failed", "it broke")


def test_a_running_job_shows_its_progress_and_the_end_of_its_log(site: Site) -> None:
    desk = site.desk
    number = desk.launched()
    assert site.get(f"/admin/jobs/{number}")["status"] == "pending"
    desk.claim(number)
    report = Progress("n1", token(1), number, 1, 3, 10, "third", b"so far \xff", 0)
    desk.write(lambda tables: desk.transitions.progress(tables, report))
    data = site.get(f"/admin/jobs/{number}")
    assert (data["status"], data["state"], data["log"]) == ("pending", "running", "so far \ufffd")
    assert data["progress"] == {"done": 3, "total": 10, "text": "third"}


@pytest.mark.parametrize("number", ["77", "0", "-1", "x", "9" * 30, "%C2%B2"])
def test_an_unknown_job_is_404(site: Site, number: str) -> None:
    site.get(f"/admin/jobs/{number}", 404)
    site.get(f"/admin/scheduled_jobs/{number}", 404)
    site.get(f"/admin/scheduled_jobs/ok/{number}", 404)


def test_executions_are_listed_by_outcome_and_schedule(site: Site) -> None:
    desk = site.desk
    number = site.schedule()
    other = site.schedule(repeat=False)
    desk.now += 3_600_000
    by_schedule = {desk.job(action.order.id).schedule: action.order.id for action in desk.tick()}  # type: ignore[union-attr]
    ok, once = by_schedule[number], by_schedule[other]
    for job, state in ((ok, RunState.COMPLETED), (once, RunState.FAILED)):
        desk.claim(job, run=job)
        desk.finish(job, state, run=job, reason="said so")
    failed = site.execution()
    desk.finish(failed, RunState.FAILED, run=failed)
    running = site.execution()
    site.store |= {"log": b"z" * (ROW_BYTES + 1), "output": b"{}"}

    def ids(path: str) -> list[int]:
        return [row["exec_id"] for row in site.get(path)]

    assert ids("/admin/scheduled_jobs/ok") == [ok]
    assert ids("/admin/scheduled_jobs/failed") == [failed, once]
    assert ids("/admin/scheduled_jobs/failed?limit=1") == [failed]
    assert ids(f"/admin/scheduled_jobs/failed/{number}") == [failed]
    assert ids(f"/admin/scheduled_jobs/ok/{other}") == []
    assert ids("/admin/scheduled_jobs") == [once, running]

    one = site.get(f"/admin/scheduled_jobs/{number}")
    assert [row["exec_id"] for row in one["last_executions"]] == [running, failed, ok]
    assert [row["state"] for row in one["last_executions"]] == ["pending", "failed", "ok"]
    assert one["state"] == "scheduled"
    row = one["last_executions"][2]
    assert (row["datetime"], row["output"], row["job_id"]) == ("2023-11-14 23:13:20.000000", {}, number)
    assert len(row["log"]) == ROW_BYTES
    assert site.get(f"/admin/scheduled_jobs/{other}")["state"] == "ended"
    assert site.get(f"/admin/jobs/{ok}")["schedule"] == number
    assert site.get(f"/admin/jobs/{number}")["status"] == "pending"
    assert site.get(f"/admin/jobs/{other}")["status"] == "completed"


def test_a_helper_is_shown_and_its_launch_says_whose_it_is(site: Site) -> None:
    rows = [
        {"path": "a/b", "kind": "script", "error": ""},
        {"path": "a/a", "kind": "helper", "error": "a helper of a/b, which imports it"},
    ]
    desk = site.desk
    for node in ("n1", "n2"):
        message = NodeCatalog(node, "x", rows)
        desk.write(lambda tables, message=message: tables.save_catalog(message))
    shown = [(row["path"], row["kind"], row["nodes"], row["differs"]) for row in site.get("/admin/job_catalog")]
    assert shown == [("a/a", "helper", ["n1", "n2"], False), ("a/b", "script", ["n1", "n2"], False)]
    with desk.ledger.read() as tables:
        assert tables.nodes_with("a/a") == set()
        with pytest.raises(NotFound, match="a/a is no job; it is a helper of a/b, which imports it"):
            script_catalog.check_known(tables, Order("a/a", {}))
        with pytest.raises(NotFound, match="no node has the script a/c"):
            script_catalog.check_known(tables, Order("a/c", {}))
    # A node that has it as a job can run it
    desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "y", [{"path": "a/a", "kind": "class"}])))
    with desk.ledger.read() as tables:
        script_catalog.check_known(tables, Order("a/a", {}))
        assert tables.nodes_with("a/a") == {"n1"}


def test_the_catalog_is_shown(site: Site) -> None:
    script = {"path": "a/b", "description": "d", "args": {"number": "int"}, "category": "c", "author": "me"}
    site.desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "x", [script])))
    (row,) = site.get("/admin/job_catalog")
    assert {name: row[name] for name in script} == script


def test_a_launch_warns_of_what_is_wrong_with_the_script(site: Site) -> None:
    row = {"path": "a/b", "kind": "script", "args": '{"x": "int"}', "problems": ["`reuse = lots` is not counted"]}
    site.desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "x", [row])))
    with site.desk.ledger.read() as tables:
        told = script_catalog.warnings(tables, Order("a/b", {}))
    assert told == [*row["problems"], "the argument x is missing; the script declares it as int"]
    assert site.get("/admin/job_catalog")[0]["problems"] == row["problems"]


def test_secrets_are_masked_wherever_arguments_are_shown(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text("[reports]\nDB = hunter2-hunter2\nNUMBER = 12345678\n")
    file.chmod(0o600)
    site.keep_secrets(file)
    arguments = {"dsn": "x:hunter2-hunter2@h", "pin": 12345678, "other": [1]}
    number = site.desk.launched(Options(argv=("--password", "hunter2-hunter2")), **arguments)
    rhythm = Rhythm("hours", 1, True)
    order = Order("example/report", arguments)
    schedule = site.desk.write(lambda tables: site.desk.schedules.add(tables, order, rhythm, site.desk.now))
    execution = site.execution()
    site.desk.finish(execution, RunState.COMPLETED, run=execution)
    shown = {"dsn": "x:***@h", "pin": "***", "other": [1]}
    detail = site.get(f"/admin/jobs/{number}")
    assert json.loads(detail["parameters"]) == shown
    assert detail["options"]["argv"] == ["--password", "***"]
    for path in (
        "/admin/jobs",
        "/admin/all_jobs",
        f"/admin/jobs/{schedule}",
        "/admin/scheduled_jobs",
        f"/admin/scheduled_jobs/{schedule}",
        "/admin/scheduled_jobs/ok",
        f"/admin/scheduled_jobs/ok/{schedule}",
    ):
        text = json.dumps(site.get(path))
        assert "x:***@h" in text, path
        assert "hunter2" not in text, path
        assert "12345678" not in text, path


def test_passwords_among_arguments_are_shown_nowhere(site: Site) -> None:
    declared = [{"name": "pin", "type": "password"}, {"name": "user", "type": "str"}]
    desk = site.desk
    for node, arguments in (("n1", None), ("n2", declared)):  # one node has an older version of the script
        row = {"path": "example/job", "kind": "script", "arguments": arguments}
        desk.write(lambda tables, node=node, row=row: tables.save_catalog(NodeCatalog(node, "x", [row])))
    arguments = {"pin": "hunter2", "user": "ann", "note": "ü" * 2000}
    number, cut = desk.launched(pin="hunter2", user="ann"), desk.launched(**arguments)
    rhythm = Rhythm("hours", 1, True)
    order = Order("example/job", {"pin": {"deep": ["hunter2"]}, "user": "ann"})
    schedule = desk.write(lambda tables: desk.schedules.add(tables, order, rhythm, desk.now))
    execution = site.execution()
    desk.finish(execution, RunState.COMPLETED, run=execution)
    assert json.loads(site.get(f"/admin/jobs/{number}")["parameters"]) == {"pin": "***", "user": "ann"}
    assert json.loads(site.get(f"/admin/jobs/{cut}")["parameters"]) == arguments | {"pin": "***"}
    assert json.loads(site.get(f"/admin/jobs/{schedule}")["parameters"]) == {"pin": "***", "user": "ann"}
    for path in (
        "/admin/jobs",
        "/admin/all_jobs",
        f"/admin/jobs/{schedule}",
        "/admin/scheduled_jobs",
        f"/admin/scheduled_jobs/{schedule}",
        "/admin/scheduled_jobs/ok",
        f"/admin/scheduled_jobs/ok/{schedule}",
    ):
        text = json.dumps(site.get(path))
        assert "ann" in text, path
        assert "hunter2" not in text, path
    # Nor are they found letter by letter, and a node runs the job with them
    with desk.ledger.read() as view:
        visible = VisibleJobs(view, SecretFile(""))
        for text, found in (("hunter2", []), ("ann", [execution, cut, number])):
            page = pages.page(view, HistoryFilter(text=text), 0, 9, shown=visible)
            assert [job.id for job in page.jobs] == found, text
            assert not any("hunter2" in job.arguments for job in page.jobs)
        kept = view.job(number)
        assert kept
        assert kept.order().arguments == {"pin": "hunter2", "user": "ann"}
