"""ops/monitoring: alerts that fire when they should, and a dashboard whose every figure exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from broker import settings, topology
from broker.clock import now_ms
from broker.messages.store import Heartbeat
from broker.metrics import reading
from broker.metrics.exposition import Text
from master.cluster.nodes import Nodes
from master.index.index import Cursor, Index
from master.jobs.ledger import Ledger
from master.web.metrics.report import Sources, report
from node.metrics import figures as of_node
from tests.support import ROOT, metric_rows

FOLDER = ROOT / "ops" / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
TESTED: list[dict[str, Any]] = [
    rule
    for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    for rule in test["alert_rule_test"]
]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus"
)


class Master:
    """What a master knows of two nodes, one of them behind."""

    def __init__(self, directory: Path) -> None:
        config = settings.load(environ={"PULZAR_SERVER_DIR": str(directory)})
        self.index = Index(directory / "index", 1 << 24, write=True)
        self.ledger = Ledger(directory / "ledger", write=True, map_size=1 << 24)
        with self.index.write() as tables:
            for name, seq in (("n1", 50), ("n2", 40)):
                beat = Heartbeat(name, "http://h:1", now_ms(), "1", "e", 1, 50, 10, 5, False, 0.5, 40.0, 3, 2, [], "")
                tables.set_node(beat, now_ms())
                tables.set_cursor(name, Cursor(seq=seq))
        depths = Mock(of=lambda nodes: {topology.node_queue(node): 3 for node in nodes})
        self.sources = Sources(config, self.index, self.ledger, Nodes(self.index, 20.0), depths)

    def text(self) -> bytes:
        return report(self.sources, {"the master": 2e9, "n1": 0}, ready=True).encode()

    def close(self) -> None:
        self.index.close()
        self.ledger.close()


@pytest.fixture
def text(tmp_path: Path) -> bytes:
    """What the master tells."""
    master = Master(tmp_path)
    made = master.text()
    master.close()
    return made


def names(body: bytes) -> set[str]:
    """The names of all figures in a text, those of a histogram's parts included."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", body.decode(), re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return found


def known(of_master: bytes) -> set[str]:
    """All figures of master and node."""
    made = Text()
    made.reading(of_node.LAYOUT, reading.Reading(of_node.LAYOUT.counts, []))
    return names(of_master) | names(made.encode())


def used(expression: str) -> set[str]:
    return set(re.findall(r"\bpulzar_\w+", re.sub(r'"[^"]*"', "", expression)))


def test_the_report_tells_what_the_master_knows(text: bytes) -> None:
    rows = metric_rows(text)
    assert rows["pulzar_ready"] == 1
    assert rows["pulzar_keys"] == 0
    assert (rows['pulzar_node_up{node="n1"}'], rows['pulzar_node_up{node="n2"}']) == (1, 1)
    assert rows['pulzar_node_cursor_lag_records{node="n1"}'] == 0
    assert rows['pulzar_node_cursor_lag_records{node="n2"}'] == 10
    assert rows['pulzar_heartbeat_disk_free_bytes{node="n1"}'] == 5
    assert 0 <= rows['pulzar_node_heartbeat_age_seconds{node="n1"}'] < 600
    assert rows[f'pulzar_queue_messages{{queue="{topology.node_queue("n1")}"}}'] == 3
    assert rows['pulzar_jobs{state="pending"}'] == 0
    assert (rows["pulzar_job_oldest_wait_seconds"], rows["pulzar_timer_overdue_seconds"]) == (0, 0)
    assert rows['pulzar_certificate_end_seconds{of="the master"}'] == 2e9
    assert 'pulzar_certificate_end_seconds{of="n1"}' not in rows
    assert 0 < rows['pulzar_file_used_bytes{file="index"}'] < rows['pulzar_file_most_bytes{file="index"}']
    assert rows["pulzar_backup_active"] == 0
    assert 'pulzar_jobs_ended_total{state="failed"}' in rows


def test_there_are_ten_alerts_each_of_figures_that_exist_with_a_test_and_with_advice(text: bytes) -> None:
    alerts = {rule["alert"] for rule in RULES}
    assert len(alerts) == len(RULES) == 10
    assert {rule["alertname"] for rule in TESTED if rule.get("exp_alerts")} == alerts
    assert {rule["alertname"] for rule in TESTED if not rule.get("exp_alerts")} == alerts, "on a good day none fires"
    figures = known(text)
    assert not {name for rule in RULES for name in used(rule["expr"])} - figures
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert [alert for alert in alerts if f"| `{alert}` |" not in page] == []


def test_every_figure_of_the_dashboard_exists(text: bytes) -> None:
    panels = json.loads((FOLDER / "grafana" / "pulzar.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 20
    assert not {name for expression in expressions for name in used(expression)} - known(text)
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
    ids=lambda command: " ".join(command),
)
def test_promtool_agrees(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_report(text: bytes) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
