"""What processes count, the files that they keep it in, and the text for Prometheus."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from broker.metrics import exposition, reading
from broker.metrics.exposition import Text
from broker.metrics.keeper import FOLDER, Keeper
from broker.metrics.layout import SIZES, Counter, Gauge, Histogram, Layout
from broker.metrics.requests import STATUSES, Requests
from master.metrics import figures as of_master
from master.security.routes import TABLE
from node.metrics import figures as of_node
from tests.support import ROOT, metric_rows, wait_for


class Program:
    """Figures like those of a program; each of these stands for a process of it."""

    def __init__(self) -> None:
        self.layout = Layout()
        self.done: Counter = self.layout.counter("done_total", "Done.", ("how",), [("well",), ('a"b\\',)])
        self.took: Histogram = self.layout.histogram("took_seconds", "Took.")
        self.sizes: Histogram = self.layout.histogram("size", "Sizes.", bounds=SIZES)
        self.memory: Gauge = self.layout.gauge("memory_bytes", "Memory.", own=True)
        self.keys: Gauge = self.layout.gauge("keys", "Keys.")

    def keep(self, directory: Path, kind: str) -> Keeper:
        return Keeper(self.layout, directory, kind, lambda: None)

    def text(self, directory: Path) -> dict[str, float]:
        text = Text()
        text.reading(self.layout, reading.read(self.layout, directory))
        return metric_rows(text.encode())


def test_the_figures_of_all_processes_are_added_up(tmp_path: Path) -> None:
    # Given two processes of one kind and one of another, each with its own file
    first, second, third = Program(), Program(), Program()
    keepers = [first.keep(tmp_path, "web"), second.keep(tmp_path, "web"), third.keep(tmp_path, "controller")]
    assert [keeper.name for keeper in keepers] == ["web-0", "web-1", "controller-0"]
    # When each has counted
    first.done.add(0, 2)
    second.done.add(0)
    third.done.add(1, 5)
    for program, value in ((first, 0.0007), (second, 0.3), (third, 100.0)):
        program.took.observe(value)
    first.sizes.observe(3)
    first.memory.set(100)
    second.memory.set(200)
    third.keys.set(7)
    for keeper in keepers:
        keeper.write()
    # Then the text has the sums, and gauges of each process
    rows = first.text(tmp_path)
    assert rows['done_total{how="well"}'] == 3
    assert rows['done_total{how="a\\"b\\\\"}'] == 5
    assert (rows['took_seconds_bucket{le="0.0005"}'], rows['took_seconds_bucket{le="0.001"}']) == (0, 1)
    assert (rows['took_seconds_bucket{le="0.5"}'], rows['took_seconds_bucket{le="60"}']) == (2, 2)
    assert (rows['took_seconds_bucket{le="+Inf"}'], rows["took_seconds_count"]) == (3, 3)
    assert rows["took_seconds_sum"] == pytest.approx(100.3007)
    assert (rows["size_sum"], rows['size_bucket{le="4"}'], rows['size_bucket{le="2"}']) == (3, 1, 0)
    assert (rows['memory_bytes{process="web-0"}'], rows['memory_bytes{process="web-1"}']) == (100, 200)
    assert rows["keys"] == 7
    assert 'memory_bytes{process="controller-0"}' not in rows, "it was not told"
    for keeper in keepers:
        keeper.close()


def test_a_process_counts_on_from_the_one_whose_place_it_takes(tmp_path: Path) -> None:
    # Given a process that has counted and is gone
    first = Program()
    keeper = first.keep(tmp_path, "web")
    first.done.add(0, 3)
    first.memory.set(100)
    keeper.close()
    # When another one begins
    second = Program()
    with_place = second.keep(tmp_path, "web")
    # Then it has the same file, and no counter falls
    assert with_place.name == "web-0"
    second.done.add()
    with_place.write()
    rows = second.text(tmp_path)
    assert rows['done_total{how="well"}'] == 4
    assert 'memory_bytes{process="web-0"}' not in rows
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    with_place.close()


def test_what_a_killed_process_has_counted_stays(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from tests.unit.test_metrics import Program
        program = Program()
        keeper = program.keep(Path(sys.argv[1]), "web")
        program.done.add(0, 9)
        keeper.write()
        print("written", flush=True)
        time.sleep(600)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.kill()
    process.wait()
    process.stdout.close()
    after = Program()
    assert after.text(tmp_path)['done_total{how="well"}'] == 9
    keeper = after.keep(tmp_path, "web")
    assert (keeper.name, after.done.value()) == ("web-0", 9)
    keeper.close()


def test_files_of_another_version_count_for_nothing_and_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "web-0").write_bytes(b"something else" * 100)
    (tmp_path / FOLDER / "web-1").write_bytes(b"")
    program = Program()
    assert program.text(tmp_path)['done_total{how="well"}'] == 0
    keeper = program.keep(tmp_path, "web")
    program.done.add()
    keeper.write()
    assert keeper.name == "web-0"
    assert program.text(tmp_path)['done_total{how="well"}'] == 1
    keeper.close()


def test_gauges_of_a_process_that_stands_still_are_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    keeper = program.keep(tmp_path, "web")
    program.memory.set(5)
    keeper.write()
    assert 'memory_bytes{process="web-0"}' in program.text(tmp_path)
    monkeypatch.setattr(reading, "SILENT_SECS", 0.0)
    assert 'memory_bytes{process="web-0"}' not in program.text(tmp_path)
    keeper.close()


def test_a_keeper_writes_by_itself(tmp_path: Path) -> None:
    program = Program()
    keeper = Keeper(program.layout, tmp_path, "web", lambda: program.keys.set(3), every=0.01)
    keeper.start()
    program.done.add()
    wait_for(lambda: program.text(tmp_path)['done_total{how="well"}'] == 1)
    assert program.text(tmp_path)["keys"] == 3
    keeper.close()


def test_a_disk_that_refuses_figures_ends_no_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).write_text("no folder")
    program = Program()
    keeper = program.keep(tmp_path, "web")
    keeper.write()
    keeper.close()
    assert caplog.text.count("figures of this process can't be kept") == 1


def test_requests_are_counted_by_route_and_status() -> None:
    layout = Layout()
    requests = Requests(layout, [("GET", "/get_key/{key}"), ("PUT", "/add_key/{key}")])
    requests.note(requests.row("GET", "/get_key/{key}"), 200, 0.002)
    requests.note(requests.row("HEAD", "/get_key/{key}"), 404, 0.002)
    requests.note(requests.row("PUT", "/add_key/{key}"), 599, 2)
    requests.note(requests.row("GET", "/nothing"), 404, 0.1)
    text = Text()
    text.reading(layout, reading.Reading(layout.counts, []))
    rows = {name: value for name, value in metric_rows(text.encode()).items() if "_bucket" not in name}
    assert rows == {
        'pulzar_http_requests_total{method="GET",route="/get_key/{key}",status="200"}': 1,
        'pulzar_http_requests_total{method="GET",route="/get_key/{key}",status="404"}': 1,
        'pulzar_http_requests_total{method="PUT",route="/add_key/{key}",status="other"}': 1,
        'pulzar_http_requests_total{method="other",route="other",status="404"}': 1,
        'pulzar_http_request_seconds_sum{method="GET",route="/get_key/{key}"}': 0.004,
        'pulzar_http_request_seconds_count{method="GET",route="/get_key/{key}"}': 2,
        'pulzar_http_request_seconds_sum{method="PUT",route="/add_key/{key}"}': 2,
        'pulzar_http_request_seconds_count{method="PUT",route="/add_key/{key}"}': 1,
        'pulzar_http_request_seconds_sum{method="other",route="other"}': 0.1,
        'pulzar_http_request_seconds_count{method="other",route="other"}': 1,
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (3, "3"),
        (2.5, "2.5"),
        (True, "1"),
        (0.00012, "0.00012"),
        (1.8e12, "1800000000000"),
        (1_795_538_292.411, "1795538292.411"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_as_the_format_has_them(value: float, shown: str) -> None:
    assert exposition.number(value) == shown


@pytest.mark.parametrize("layout", [of_master.LAYOUT, of_node.LAYOUT], ids=["master", "node"])
def test_names_and_labels_follow_the_rules_of_prometheus(layout: Layout) -> None:
    names = [family.name for family in layout.families]
    assert len(names) == len(set(names))
    for family in layout.families:
        assert family.name.startswith("pulzar_")
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.about.endswith("."), family.name
        assert len(set(family.rows)) == len(family.rows)
    assert len(layout.counts) == sum(
        len(family.rows) * family.width for family in layout.families if family.kind != "gauge"
    )


def test_labels_are_of_routes_and_never_of_keys() -> None:
    assert set(TABLE) == set(of_master.REQUESTS.routes)
    assert len(STATUSES) == len(set(STATUSES))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize("figures", [of_master, of_node], ids=["master", "node"])
def test_promtool_finds_nothing_wrong_with_the_text(figures: object) -> None:
    layout: Layout = figures.LAYOUT  # type: ignore[attr-defined]
    text = Text()
    text.reading(layout, reading.Reading(layout.counts, []))
    done = subprocess.run(
        ["promtool", "check", "metrics", "--extended"], input=text.encode(), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
