"""Every block of the README and of docs is run here, or said to be run elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from master.web.flask_routes import contract
from ops.cluster import Cluster
from tests.support import Clusters, http_request, put, wait_for

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
SECS = 60

# By how they begin: what can't be run here, and where it is.
ELSEWHERE = {
    "./ops/up  ": "tests/integration/test_up.py starts it; the other is how tests are run",
    "./ops/up\n": "tests/integration/test_up.py starts it",
    "            REST": "a picture",
    "[general]\nquotas": "settings; tests/integration/test_quotas.py has such ones",
    "./ops/up --exit": "they start clusters of their own; tests/integration/test_up.py and tests/integration/test_manage.py",
    "sudo ops/install": "as root, on a Debian of its own: tests/integration/test_install.py, with -m install",
    "cd /opt/pulzar/current": "tests/integration/test_install.py and tests/integration/test_rights.py",
    "rabbitmqctl add_user": "it asks for a password; tests/integration/test_roles.py has such users",
    "sudo systemctl edit": "it opens an editor; tests/integration/test_install.py has a job inside this hardening",
    "curl http://localhost:31414/metrics  ": "tests/integration/test_metrics.py asks for all of these",
    "docker compose --profile": "it needs Docker; tests/unit/test_compose.py and tests/unit/test_monitoring.py",
    "ops/docker/users": "they need Docker; ops/test-images and tests/unit/test_compose.py",
    "./ops/bench": "it measures for an hour; ops/benchmarks/__main__.py is what it runs",
    "rabbitmqadmin": "rabbitmqadmin 2 comes with RabbitMQ 4.3; tests/integration/test_rabbitmq.py",
    "# Scripts of these folders": "tests/unit/test_secrets.py has such files",
    "sudo systemctl stop": "as root, with a new RabbitMQ; tests/integration/test_install.py and tests/integration/test_rabbitmq.py",
    "sudo sysctl": "as root; tests/faults/test_workers.py looks at both values",
    "ops/manage.py token": "tests/unit/test_tokens_command.py makes such tokens",
    "[security]": "tests/integration/test_tokens.py has such a file",
    "ci 5f70": "tests/unit/test_tokens.py reads such lines",
    '{"time"': "tests/integration/test_audit.py reads such lines",
    "curl -u ci:$PULZAR_TOKEN http": "tests/integration/test_links.py makes such links",
    "curl -u ci:$PULZAR_TOKEN -L": "tests/integration/test_tokens.py sends tokens so",
    "[backup]\nactive = True": "settings for a file; tests/unit/test_settings.py reads them",
    "pip install openapi-python-client": "it downloads; tests/integration/test_generated_client.py",
    "from io import BytesIO": "tests/integration/test_generated_client.py generates such a package",
    '{"data": [{"code": 202': "what the command before it shows; tests/integration/test_jobs_launch_many.py",
    "export RESTIC_REPOSITORY": "it forgets and prunes; tests/integration/test_restic.py does all of that",
    "cd /mnt/backup/pulzar": "it needs a backup; tests/unit/test_backup_directory.py runs it",
    "[general]\nreplicas": "settings; tests/integration/test_replicas.py has such ones",
    "./ops/manage.py drain": "it needs a third node; tests/faults/test_repair.py drains one",
    "[server]\ncert": "settings; tests/integration/test_tls.py has such ones",
    "ops/manage.py certificates": "tests/integration/test_tls.py makes such certificates",
    "curl --cacert": "it needs a certificate; tests/integration/test_tls.py runs curl so",
    "docker compose run": "it needs Docker, and volumes of before",
    "python3 -m pip install": "it installs; tests/integration/test_installed_client.py does that",
    "[office]": "tests/unit/test_command_settings.py has such a file",
    "$ curl -N": "it has no end; tests/integration/test_events.py listens so",
    "$ curl -sL -H 'If-None-Match": "it waits for a change; tests/integration/test_waiting_reads.py makes one",
    "channel.queue_declare(": "tests/integration/test_events.py binds such a queue",
    "docker build -f": "they need Docker; ops/test-images and tests/unit/test_dockerfiles.py",
    "docker buildx": "the same, with the day of the packages; tests/unit/test_dockerfiles.py",
}
FILE = re.compile(r"# ((?:extensions|jobs/mine)/[a-z_]+\.py)\n")  # its first line says where it goes
FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
ENDED = "this command has ended with"

# An answer that is an error is one for the shell, too; otherwise the last answer would run into the next prompt.
PULZAR = 'pulzar() { python3 -m pulzar "$@"; }\n'
CURL = (
    PULZAR
    + 'curl() { command curl -sS --fail-with-body "$@" || { echo "status $?: curl $*" >&2; return 1; }; echo; }\n'
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def elsewhere(self) -> list[str]:
        """How it begins, if it is run elsewhere."""
        return [begins for begins in ELSEWHERE if self.text.startswith(begins)]


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```([a-z]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(page, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if not block.elsewhere and not FILE.match(block.text)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the top of a checkout is for a reader, with the extensions and the job that pages show."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copy(ROOT / "README.md", place)
    for folder in ("docs", "extensions", "jobs"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "jobs" / "mine").mkdir()
    for folder in ("ops", "pulzar"):
        (place / folder).symlink_to(ROOT / folder)
    for block in BLOCKS:
        if match := FILE.match(block.text):
            (place / match[1]).write_text(block.text)
    return place


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters, place: Path) -> Cluster:
    folders = {"PULZAR_EXTENSIONS_DIR": str(place / "extensions"), "PULZAR_JOBS_DIR": str(place / "jobs")}
    cluster = make_shared_cluster(own_broker=True, env=folders)
    (place / "data").symlink_to(cluster.directory)
    # What the demonstration of ops/up has done before a reader comes: one job.
    launched = wait_for(lambda: launch(cluster), 30, "the scripts to be known")
    assert launched == 1
    return cluster


def launch(cluster: Cluster) -> int:
    answer = http_request("POST", f"{cluster.master_url}/launch_job/example/factorial", b'{"number": 3}')
    return int(answer.data["job_id"]) if answer.status == 200 else 0


@pytest.fixture(autouse=True)
def _in_place(cluster: Cluster, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("PULZAR_URL", cluster.master_url)


def here(text: str, cluster: Cluster) -> str:
    """The text with the addresses and files of this test."""
    master = urlsplit(cluster.master_url).netloc
    return text.replace("localhost:31414", master).replace("/tmp/", f"{os.getcwd()}/")


def run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECS, check=False)
    assert done.returncode == 0, f"{command}\n{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shell(text: str) -> str:
    return run(["bash", "-euc", CURL + text])


def shape(value: Any) -> Any:
    """What an answer says, but for what is another each time: numbers, digests, addresses."""
    if isinstance(value, dict):
        if len(value) > 1 and all(isinstance(part, int) for part in value.values()):
            return {"*": len(value)}
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    if isinstance(value, str):
        return re.sub(r"[0-9a-f]{64}|[0-9]+", "0", value)
    return "a number" if isinstance(value, int | float) and not isinstance(value, bool) else value


def console(block: Block, cluster: Cluster) -> None:
    """Each command answers as the lines below it say, and fails only where they show an error."""
    parts = [part.partition("\n") for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]]
    # In one shell, as a reader has it: variables stay
    script = "".join(f"{command}\nprintf '\\n{ENDED} %s\\n' $?\n" for command, _, _ in parts)
    said = re.split(rf"^{ENDED} (\d+)$\n", run(["bash", "-uc", CURL + here(script, cluster)]), flags=re.MULTILINE)
    assert len(said) == 2 * len(parts) + 1, said
    for (command, _, expected), answer, status in zip(parts, said[::2], said[1::2], strict=False):
        if expected.startswith("{"):
            wanted = json.loads(expected)
            assert shape(json.loads(answer)) == shape(wanted), f"{command}\n{answer}"
            assert (status != "0") == (wanted["status"] == "ko"), f"{command}: {status}"
        else:
            assert (answer.strip(), status) == (expected.strip(), "0"), command


def test_every_block_is_run_here_or_elsewhere() -> None:
    fences = {page: len(FENCE.findall((ROOT / page).read_text())) for page in PAGES}
    seen = {page: 2 * sum(block.page == page for block in BLOCKS) for page in PAGES}
    assert fences == seen, "a fence that this test does not understand"
    unknown = {block.language for block in RUN} - {"bash", "console", "python", "javascript", "csharp"}
    assert not unknown
    begun = [begins for block in BLOCKS for begins in block.elsewhere]
    assert sorted(begun) == sorted(ELSEWHERE), "each is the beginning of one block"
    assert {block.language for block in RUN} >= {"bash", "console", "python", "javascript", "csharp"}
    # And what is said to run the others is there
    named = [name for reason in ELSEWHERE.values() for name in re.findall(r"[a-z]+/[\w/.-]+\w", reason)]
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_route_is_named() -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES)
    routes = contract.api()["paths"]
    missing = [route for route in routes if not re.search(rf"(?<=[ `]){re.escape(route)}(?=[`?])", text)]
    assert {route for route in missing if not route.startswith("/internal/")} == set()


def jobs_have_run(cluster: Cluster) -> None:
    """The job that the page shows how to write, and those that it publishes by hand."""

    def rows() -> list[Any]:
        return list(http_request("GET", f"{cluster.master_url}/admin/all_jobs").data)

    def area() -> Any:
        number = next(row["job_id"] for row in rows() if row["job_path"] == "mine/area")
        return http_request("GET", f"{cluster.master_url}/admin/jobs/{number}").data

    def by_hand() -> list[Any]:
        return [row for row in rows() if row["source"] == "queue" and row["state"] == "completed"]

    wait_for(lambda: area()["status"] != "pending", 30, "the end of the job that the page shows how to write")
    assert (area()["status"], area()["output"]) == ("completed", 12)
    wait_for(lambda: len(by_hand()) == 12, 30, "the jobs that were published by hand")


def backup_is_whole(cluster: Cluster) -> None:
    """The backup has the node's log."""
    assert "node-1/log/00000001.seg" in run(["tar", "-tzf", "node-1.tar.gz"])


AFTERWARDS: dict[str, Callable[[Cluster], None]] = {"docs/jobs.md": jobs_have_run, "docs/operate.md": backup_is_whole}


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in RUN))
def test_what_stands_on_a_page_does_what_it_says(page: str, cluster: Cluster, place: Path) -> None:
    # In the order of a reader, since some go on from others
    for block in (block for block in RUN if block.page == page):
        text = here(block.text, cluster)
        if block.language == "console":
            console(block, cluster)
        elif block.language == "bash":
            shell(text)
        elif block.language == "python":
            run([sys.executable, "-"], text)
        elif block.language == "javascript":
            assert run(["node", "--input-type=module"], text) == "from JavaScript\n"
        else:
            (place / "Program.cs").write_text(text)
            run(["mcs", "-r:System.Net.Http.dll", "Program.cs"])
            assert run(["mono", "Program.exe"]) == "from C#\n"
    AFTERWARDS.get(page, lambda cluster: None)(cluster)


def test_the_extension_that_uses_the_store_does_what_it_says(cluster: Cluster) -> None:
    assert put(cluster, "letters/short.txt", b"Dear reader").status == 201
    answer = http_request("GET", f"{cluster.master_url}/extension/digest/letters")
    assert answer.status == 200, answer.body
    assert answer.data["beginnings"] == {"letters/short.txt": "Dear reader"}
    assert answer.data["job_id"] > 0
