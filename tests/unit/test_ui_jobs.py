"""Screens of jobs without a browser: inputs, what forms say, lines to copy, windows of logs, outputs, sentences."""

from __future__ import annotations

import ast
import base64
import json
import shlex
from typing import Any

import pytest

from broker.messages import jobs as orders
from broker.messages.jobs import Options
from jobs import docstrings
from master.jobs.model import Job, JobProgress, JobState
from master.web.jobs.launch_request import launch_of
from master.web.ui.frame.pages import TEMPLATES
from master.web.ui.jobs import fields, filled_form, launch_lines, log_sources, log_windows, outputs, sentences
from master.web.ui.jobs import job as page_of_job
from master.web.ui.jobs.fields import Field

DECLARED = """{
    "text": "str: any text", "number": "int", "ratio": {"type": "float", "default": 0.5}, "deep": "bool",
    "unit": {"choices": ["m", 3, true]}, "items": "list", "filter": "json", "day": "date: the first one",
    "at": "datetime", "table": "file: a CSV file", "source": "key", "secret": "password: of the database"
}"""
FIELDS = fields.of_script({"arguments": docstrings.parse_arguments(DECLARED)})
EVIL = "<script>alert(1)</script>'\"&"


def read(**given: str) -> filled_form.Filled:
    return filled_form.read(FIELDS, {name.replace("__", "."): text for name, text in given.items()})


# Inputs


def test_each_declared_type_has_its_input() -> None:
    assert [(field.name, field.kind) for field in FIELDS] == [
        ("text", "text"),
        ("number", "integer"),
        ("ratio", "number"),
        ("deep", "flag"),
        ("unit", "choice"),
        ("items", "list"),
        ("filter", "json"),
        ("day", "date"),
        ("at", "moment"),
        ("table", "file"),
        ("source", "key"),
        ("secret", "password"),
    ]
    assert FIELDS[2].proposed == "0.5"
    assert FIELDS[4].options == [('"m"', "m"), ("3", "3"), ("true", "true")]
    assert FIELDS[7].help == "the first one"


@pytest.mark.parametrize(
    ("declared", "kind", "words"),
    [
        ("file to read", "", "file to read"),
        ("key", "key", ""),
        ("Date: when", "date", "when"),
        ("date, optional", "date", "optional"),
        ("date of birth", "", "date of birth"),
        ("password - of the user", "password", "of the user"),
    ],
)
def test_a_word_that_begins_a_sentence_is_no_type(declared: str, kind: str, words: str) -> None:
    (found,) = docstrings.parse_arguments(json.dumps({"a": declared})) or []
    assert (found["type"], found["help"]) == (kind, words)


@pytest.mark.parametrize("row", [None, {}, {"arguments": None}, {"arguments": "x"}, {"arguments": [1, None]}])
def test_what_a_node_sends_otherwise_makes_no_input(row: dict[str, object] | None) -> None:
    assert fields.of_script(row) == []


# What a form says


def test_a_form_makes_the_arguments_that_were_declared() -> None:
    filled = read(
        a__text=" x ", a__number="-5", a__ratio="2.5", a__deep="false", a__unit="3", a__items="one\r\n two \r\n\r\n",
        a__filter='{"a": [1]}', a__day="2026-11-29", a__at="2026-11-29T08:30", a__source="a/b", a__secret="pw",
        more='{"further": null}', pulzar_data="in/x.csv", o__priority="high", o__timeout="90", o__argv="--count\n5",
        s__timing="repeat", s__interval="hours", s__time_unit="2",
    )  # fmt: skip
    assert filled.problems == {}
    assert filled.body == {
        "text": " x ", "number": -5, "ratio": 2.5, "deep": False, "unit": 3, "items": ["one", "two"],
        "filter": {"a": [1]}, "day": "2026-11-29", "at": "2026-11-29T08:30", "source": "a/b", "secret": "pw",
        "further": None, "pulzar_data": "in/x.csv",
        "pulzar_options": {"timeout": 90, "priority": "high", "argv": ["--count", "5"]},
        "scheduled": {"interval": "hours", "time_unit": 2, "repeat": 1},
    }  # fmt: skip
    assert filled.shown()["secret"] == filled_form.HIDDEN
    order, rhythm, _ = launch_of("a/b", json.dumps(filled.body).encode())
    assert (order.data, order.options.timeout, str(rhythm)) == ("in/x.csv", 90, "every 2 hours")


def test_the_form_and_the_page_have_every_option() -> None:
    given = dict.fromkeys((f"o__{name}" for name in Options._fields), "1")
    assert read(**given).body["pulzar_options"].keys() == set(Options._fields)  # type: ignore[attr-defined]
    template = (TEMPLATES / "jobs/launch.html").read_text()
    assert {name for name in Options._fields if f'name="o.{name}"' in template} == set(Options._fields)
    assert set(page_of_job._OPTIONS) == set(Options._fields)


def test_what_is_empty_is_left_out() -> None:
    filled = read(a__text="  ", a__number="", o__timeout="", o__priority="normal", s__timing="", more=" ")
    assert (filled.body, filled.problems) == ({}, {})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a__number": "2.5"}, "'2.5' is no whole number"),
        ({"a__number": "1_0"}, "no whole number"),
        ({"a__number": "9" * 5000}, "no whole number"),
        ({"a__ratio": "nan"}, "no number"),
        ({"a__deep": "perhaps"}, "neither true nor false"),
        ({"a__unit": '"km"'}, "none of the choices"),
        ({"a__unit": "1"}, "none of the choices"),
        ({"a__items": "[1"}, "no JSON"),
        ({"a__filter": "{"}, "no JSON"),
        ({"a__filter": "[" * 100_000}, "recursion"),
        ({"more": "[1]"}, "no JSON object"),
        ({"more": '{"a": NaN}'}, "NaN"),
        ({"a__text": "x", "more": '{"text": 1}'}, "filled in above"),
        ({"more": '{"pulzar_options": {}}'}, "inputs of its own"),
        ({"o__attempts": "many"}, "attempts: 'many'"),
        ({"s__timing": "repeat", "s__interval": "hours", "s__time_unit": "0"}, "from 1 on"),
        ({"s__timing": "repeat", "s__interval": "years", "s__time_unit": "1"}, "none of minutes"),
        ({"s__timing": "never"}, "none of once"),
    ],
)
def test_what_is_wrong_is_said_beside_its_input(given: dict[str, str], words: str) -> None:
    (problem,) = read(**given).problems.values()
    assert words in problem


def test_a_list_may_be_json_and_items_are_texts() -> None:
    assert read(a__items="[1, [2]]").arguments == {"items": [1, [2]]}
    assert read(a__items="007\n8").arguments == {"items": ["007", "8"]}
    assert fields.text_of("list", ["a", "b"]) == "a\nb"
    for odd in ([" a"], ["a\nb"], [1], [""]):
        assert json.loads(fields.text_of("list", odd)) == odd


def test_the_form_of_a_job_says_what_that_job_said() -> None:
    arguments: dict[str, Any] = {
        "text": EVIL, "number": 0, "ratio": 1.25, "deep": False, "unit": True, "items": ["x", "y"],
        "filter": {"a": "é"}, "day": "2026-01-01", "table": "uploads/t.csv", "secret": "pw", "other": [1],
    }  # fmt: skip
    options = Options(timeout=2.5, attempts=3, priority="low", unique="once", argv=("-v", "x y"))._asdict()
    texts = filled_form.inputs_of(FIELDS, arguments, data="in/k", options=options)
    assert "pw" not in " ".join(texts.values())
    filled = filled_form.read(FIELDS, texts, arguments)
    assert filled.arguments == arguments
    assert filled.body["pulzar_data"] == "in/k"
    assert filled.body["pulzar_options"] == {
        "timeout": 2.5, "attempts": 3, "priority": "low", "argv": ["-v", "x y"],
    }  # fmt: skip
    # And another password counts.
    assert filled_form.read(FIELDS, texts | {"a.secret": "new"}, arguments).arguments["secret"] == "new"


def test_a_masked_argument_that_nobody_changed_keeps_its_true_value() -> None:
    kept = {"text": "dsn=hunter2", "number": 5}
    shown = {"text": "dsn=***", "number": 5}
    filled = read(a__text="dsn=***", a__number="6")
    assert filled_form.restored(filled, shown, kept).body == {"text": "dsn=hunter2", "number": 6}
    assert filled_form.restored(read(a__text="other"), shown, kept).body == {"text": "other"}


# Lines to copy


def test_lines_say_the_same_launch_whatever_is_in_them() -> None:
    body: dict[str, object] = {"text": f"it's {EVIL} $HOME `id`\n", "number": 5, "pulzar_options": {"timeout": 5}}
    made = launch_lines.of_launch("http://m:31414", "a/b", body, token=False)
    words = shlex.split(made.curl)
    assert words[:4] == ["curl", "-X", "POST", "http://m:31414/launch_job/a/b"]
    assert json.loads(words[words.index("-d") + 1]) == body
    (call,) = [
        part for part in ast.walk(ast.parse(made.python)) if isinstance(part, ast.keyword) and part.arg == "json"
    ]
    assert ast.literal_eval(call.value) == body
    order = orders.read(made.message.encode())
    assert (order.job, order.arguments["text"], order.options.timeout) == ("a/b", body["text"], 5)


def test_lines_have_the_token_from_the_environment_and_messages_make_no_schedule() -> None:
    made = launch_lines.of_launch("https://m", "a/b", {"scheduled": {}}, token=True)
    assert '-H "Authorization: Bearer $PULZAR_TOKEN"' in made.curl
    assert 'os.environ["PULZAR_TOKEN"]' in made.python
    ast.parse(made.python)
    assert made.message == ""


# Windows of logs


def reader(log: bytes) -> log_windows.Read:
    return lambda begin, most: log[begin : begin + most]


def test_windows_are_whole_lines_and_lead_back_to_the_beginning() -> None:
    log = b"".join(b"line %06d\n" % number for number in range(15_000))
    read, size = reader(log), len(log)
    window = log_windows.last(read, size)
    assert window.text.startswith("line ")
    assert window.text.endswith("line 014999\n")
    found = window.text
    while window.begin:
        window = log_windows.before(read, size, window.begin)
        found = window.text + found
    assert found == log.decode()


def test_a_line_of_megabytes_is_shown_in_windows_of_whole_characters() -> None:
    log = "é".encode() * 3_000_000
    window = log_windows.last(reader(log), len(log), 10_001)
    assert set(window.text) == {"é"}
    assert len(window.text) == 5_000
    before = log_windows.before(reader(log), len(log), window.begin, 10_001)
    assert set(before.text) == {"é"}


def test_a_text_is_found_forwards_and_backwards_also_where_pieces_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_windows, "PIECE_BYTES", 1 << 14)
    log = bytearray(b"." * (3 * log_windows.PIECE_BYTES))
    places = [5, log_windows.PIECE_BYTES - 3, 2 * log_windows.PIECE_BYTES + 7]
    for place in places:
        log[place : place + 6] = b"NEEdle"
    read, size = reader(bytes(log)), len(log)
    found, at = [], 0
    while (hit := log_windows.search(read, size, "needlE", at)).at >= 0:
        found.append(hit.at)
        at = hit.at + hit.length
    assert found == places
    found, at = [], size
    while (hit := log_windows.search_back(read, size, "needle", at)).at >= 0:
        found.append(hit.at)
        at = hit.at
    assert found == places[::-1]


def test_a_search_ends_after_some_megabytes_and_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_windows, "SCAN_BYTES", 1 << 18)
    monkeypatch.setattr(log_windows, "PIECE_BYTES", 1 << 14)
    size = log_windows.SCAN_BYTES + 4 * log_windows.PIECE_BYTES
    asked: list[int] = []

    def read(begin: int, most: int) -> bytes:
        asked.append(most)
        return b"." * min(most, size - begin)

    hit = log_windows.search(read, size, "x")
    assert hit.at == -1
    assert log_windows.SCAN_BYTES - log_windows.PIECE_BYTES < hit.upto < size
    assert sum(asked) < log_windows.SCAN_BYTES * 1.1
    assert log_windows.search(read, size, "x", hit.upto).upto == size


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("Traceback (most recent call last):", True),
        ("2026-01-01 ERROR no such table", True),
        ("ValueError: x", True),
        ("error: the disk is full", True),
        ("Segmentation fault (core dumped)", True),
        ("0 errors, 3 warnings", False),
        ("no Error here", False),
        ("terror", False),
    ],
)
def test_what_looks_like_an_error(line: str, is_one: bool) -> None:
    log = f"begun\n{line}\nended\n".encode()
    found = log_windows.first_error(reader(log), len(log))
    assert (found.at >= 0) is is_one
    if is_one:
        window = log_windows.around(reader(log), len(log), found)
        assert (window.before, window.hit, window.after) == ("begun\n", f"{line}\n", "ended\n")


def test_a_hit_in_a_line_of_megabytes_is_shown_with_what_is_near() -> None:
    log = b"a" * 500_000 + b"needle" + b"b" * 500_000
    found = log_windows.search(reader(log), len(log), "needle")
    window = log_windows.around(reader(log), len(log), found)
    assert "needle" in window.hit
    assert len(window.text) <= log_windows.WINDOW_BYTES


def test_what_has_come_ends_with_a_line_that_may_go_on() -> None:
    log = "one\ntwé".encode()
    tail = log_windows.tail(reader(log), 0, len(log))
    assert tail == (0, "one\n", "twé", 4)
    more = log + b"\nthree\n"
    assert log_windows.tail(reader(more), tail.next, len(more)) == (4, "twé\nthree\n", "", len(more))


def test_commands_to_a_terminal_are_not_shown() -> None:
    assert (
        log_windows.shown(b"\x1b[31mred\x1b[0m\x1b]0;title\x07\r\n 1%\r 2%\r 3%\nend\0\xff")
        == "red\n 3%\nend\ufffd\ufffd"
    )


def job(**more: Any) -> Job:
    begun = 1_800_000_000_000
    found = Job(7, "a/b", "{}", Options(), "", "rest", 0, begun, started=begun, claimed=begun, node="n1")
    return found._replace(**more)


class Files:
    """Logs and outputs, by key."""

    def __init__(self, **values: bytes) -> None:
        self.values = {name.replace("__", "/").replace("_txt", ".txt"): value for name, value in values.items()}

    def size(self, key: str) -> int | None:
        return len(self.values[key]) if key in self.values else None

    def piece(self, key: str, begin: int, most: int) -> bytes | None:
        return self.values[key][begin : begin + most]


def test_a_log_comes_from_the_ledger_while_the_job_runs_and_is_a_value_afterwards() -> None:
    files: Any = Files(jobs__7__1__log_txt=b"first", jobs__7__2__log_txt=b"second")
    live = JobProgress("r", (0, 0, ""), b"world", 11)
    running = job(state=JobState.RUNNING, attempt=2)
    source = log_sources.of_job(running, live, files)
    assert (source.begin, source.size, source.live) == (6, 11, True)
    assert [source.read(0, 8), source.read(6, 2), source.read(8, 100), source.read(20, 5)] == [
        b"wo",
        b"wo",
        b"rld",
        b"",
    ]
    assert log_sources.of_job(running, live, files, 1).read(0, 99) == b"first"
    assert log_sources.of_job(running, None, files)[:3] == (2, 0, 0)
    ended = job(state=JobState.COMPLETED, attempt=2, log_key="jobs/7/2/log.txt")
    assert log_sources.of_job(ended, None, files).read(1, 3) == b"eco"
    assert log_sources.of_job(job(state=JobState.COMPLETED), None, files).size == 0


# Outputs


@pytest.mark.parametrize(
    ("value", "views"),
    [
        ([{"a": 1, "b": [2]}, {"b": 3, "c": None}], ["table", "tree", "text"]),
        ([[1, 2], [3, 4]], ["table", "tree", "text"]),
        ({"a": [1, 2], "b": ["x", "y"]}, ["table", "tree", "text"]),
        ({"a": {"0": 1}, "b": {"0": 2}}, ["table", "tree", "text"]),
        ({"a": 1}, ["tree", "text"]),
        ({"a": [1], "b": [1, 2]}, ["tree", "text"]),
        ([1, 2], ["tree", "text"]),
        ([[1], [1, 2]], ["tree", "text"]),
        ([], ["tree", "text"]),
        ({}, ["tree", "text"]),
        ("text", ["text"]),
        (None, ["text"]),
        ("iVBORw0KGgo" + "A" * 61, ["picture", "text"]),
        ("iVBORw0KGgo" + "!" * 61, ["text"]),
    ],
)
def test_an_output_has_the_views_that_fit(value: object, views: list[str]) -> None:
    found = outputs.of_output(value)
    assert found.views == views
    assert found.view == views[0]
    assert outputs.of_output(value, "text").text
    assert outputs.of_output(value, "nonsense").view == views[0]


def test_a_table_has_all_columns_and_says_what_is_left_out() -> None:
    table = outputs.table_of([{"a": 1, "b": [2]}, {"b": True, "c": None}])
    assert table == (["a", "b", "c"], [["1", "[2]", ""], ["", "true", "null"]], 0, 0)
    many = outputs.table_of([dict.fromkeys(map(str, range(50)), "x" * 999)] * 500)
    assert many
    assert (len(many.heads), len(many.rows), many.more, many.more_columns) == (30, 200, 300, 20)
    assert {len(cell) for row in many.rows for cell in row} == {outputs.MOST_CELL}


def test_a_tree_is_bounded() -> None:
    def count(node: outputs.Node) -> int:
        return 1 + sum(map(count, node.parts))

    deep: object = "x"
    for _ in range(90):
        deep = {"in": [deep]}
    for value in ([[1] * 100] * 1000, {str(number): {} for number in range(50_000)}, deep):
        assert count(outputs.tree_of(value)) <= outputs.MOST_NODES + outputs.MOST_DEEP + 2
    tree = outputs.tree_of({"a": [1, {"b": None}]})
    assert tree.text == "1 field"
    assert tree.parts[0].parts[1].parts[0] == ("b", "null", [], False)


def test_pictures_are_told_by_their_bytes_or_their_address() -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(60)
    text = base64.b64encode(content).decode()
    assert outputs.picture_of(text) == ("image/png", content)
    assert outputs.picture_of(f"data:image/gif;base64,{text}") == ("image/gif", content)
    # What could have a script in it is no picture here.
    assert outputs.picture_of(f"data:image/svg+xml;base64,{text}") is None
    assert outputs.picture_of(f"data:text/html;base64,{text}") is None
    assert outputs.key_named({"key": "plots/a.png"}) == "plots/a.png"
    assert outputs.key_named("http://n:1/get_key/plots/a.png?x=1") == "plots/a.png"
    assert outputs.key_named([1]) == outputs.key_named({"key": 1}) == ""


# Sentences

NOW = 1_800_000_060.0


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (job(state=JobState.PENDING, node="", started=0), "It waits for a free slot."),
        (
            job(state=JobState.PENDING, attempt=2, due=1, reason="it broke."),
            "Attempt 1 failed: it broke. Attempt 2 begins",
        ),
        (job(state=JobState.RUNNING), "Runs on n1. It began"),
        (job(state=JobState.RUNNING, attempt=3), "Attempt 3 runs on n1."),
        (job(state=JobState.RUNNING, cancelling=True), "Asked to stop on n1. What does not end within 5 s is killed."),
        (job(state=JobState.COMPLETED, ended=1_800_000_003_000), "Completed on n1 after 3.0 s,"),
        (job(state=JobState.FAILED, ended=1_800_000_003_000, attempt=2), "Failed on n1 in attempt 2 after 3.0 s,"),
        (job(state=JobState.CANCELLED, node="", started=0, closed=1), "Cancelled,"),
    ],
)
def test_the_state_is_a_sentence(found: Job, words: str) -> None:
    assert words in sentences.of_job(found, NOW).words


def test_a_sentence_says_what_is_usual() -> None:
    running = job(state=JobState.RUNNING)
    assert sentences.of_job(running, NOW, usual=90).then == "; it usually takes 1 min 30 s, so about 30 s are left"
    assert sentences.of_job(running, NOW, usual=20).then == "; it usually takes 20 s, and is 40 s late"
    assert sentences.of_job(running, NOW, usual=50).then == "; it usually takes 50 s"
    assert sentences.of_job(job(state=JobState.PENDING), NOW, why="All slots are busy.").words == "All slots are busy."


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (job(), "over HTTP"),
        (job(by="ann"), "by ann"),
        (job(source="queue", by="q"), "by q by a message to RabbitMQ"),
        (job(source="schedule", schedule=3), "by schedule 3"),
    ],
)
def test_who_launched_it_is_said(found: Job, words: str) -> None:
    assert sentences.launched(found) == words


def test_an_input_without_a_name_of_its_own_is_a_text() -> None:
    assert filled_form.read([Field(EVIL, "text")], {f"a.{EVIL}": "x"}).arguments == {EVIL: "x"}
