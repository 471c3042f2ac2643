"""Scripts with libraries that Pulzar does not need itself, of `requirements-libraries.txt`: only with `-m libraries`.

A stand-in of each kind is in `test_runner_workers.py` and `test_runner_habits.py`, and runs always.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.runs.model import State
from tests.support import wait_for
from tests.unit.runs import ROOT, Node, alive

pytestmark = [pytest.mark.libraries, pytest.mark.timeout(600, method="signal")]

REQUIREMENTS = ROOT / "requirements-libraries.txt"
RUN_SECS = 300.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def libraries() -> Path:
    """Where they are installed; done once for these versions and this Python."""
    version = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = ROOT / ".cache" / f"libraries-{version}"
    if not place.exists():
        part = place.with_name(f"{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(part), "-r"]
        subprocess.run([*command, str(REQUIREMENTS)], check=True)
        part.rename(place)
    return place


@pytest.fixture
def node(tmp_path: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A runner whose scripts have the libraries."""
    monkeypatch.setenv("PYTHONPATH", str(libraries))
    node = Node(tmp_path)
    yield node
    node.stop()
    assert not alive(str(tmp_path))


def run(node: Node, text: str, output: object, **fields: object) -> None:
    node.script("test/script", text)
    outcome = node.outcome(node.begin("test/script", **fields), RUN_SECS)
    assert (outcome.state, outcome.reason) == (State.COMPLETED, ""), outcome.log.decode()
    assert json.loads(outcome.output) == output


TORCH = "torch==2.13.0+cpu"  # without the libraries of GPUs, which are some GB; not every package index has that build


@pytest.fixture(scope="module")
def torch() -> Path:
    """Where PyTorch is installed, with what it needs."""
    place = ROOT / ".cache" / f"{TORCH}-{sys.version_info[0]}.{sys.version_info[1]}"
    if not place.exists():
        part = place.with_name(f"{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target", str(part)]
        done = subprocess.run([*command, TORCH], capture_output=True, text=True, check=False)
        if "No matching distribution found" in done.stderr:
            pytest.skip(f"needs a package index with {TORCH}: the other builds are some GB")
        assert done.returncode == 0, done.stderr
        part.rename(place)
    return place


TRAINING = """
    import os
    import torch
    from torch.utils.data import DataLoader, Dataset
    from jobs import Job
    class Squares(Dataset):
        def __len__(self): return 64
        def __getitem__(self, index): return torch.tensor([float(index)]), torch.tensor([float(index * index)])
    class Script(Job):
        def execute(self):
            given = self.arguments
            torch.multiprocessing.set_sharing_strategy(given["sharing"])
            loader = DataLoader(Squares(), batch_size=8, num_workers=2, multiprocessing_context=given["kind"],
                                persistent_workers=True)
            totals = [sum(int(y.sum()) for _, y in loader) for _ in range(2)]
            kept = [torch.ones(100_000).share_memory_() for _ in range(3)]
            self.output(totals)
            if given["end"] == "kill":
                os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["", "kill"])
@pytest.mark.parametrize("sharing", ["file_descriptor", "file_system"])
@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_pytorch_loads_its_data_with_workers_and_leaves_nothing_in_shared_memory(
    node: Node, torch: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sharing: str, end: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{torch}{os.pathsep}{libraries}")
    node.script("test/script", TRAINING)
    before = set(os.listdir("/dev/shm"))
    started = node.begin("test/script", {"kind": kind, "sharing": sharing, "end": end})
    outcome = node.outcome(started, RUN_SECS)
    assert outcome.reason == ("killed by signal 9 (SIGKILL)" if end else ""), outcome.log.decode()
    if not end:
        assert json.loads(outcome.output) == [sum(n * n for n in range(64))] * 2
    wait_for(
        lambda: not [name for name in set(os.listdir("/dev/shm")) - before if re.match(r"torch_|sem\.", name)],
        what="shared memory and semaphores gone",
    )
    assert not node.others()


def test_joblib_has_functions_of_a_job_run_by_its_own_processes(node: Node) -> None:
    text = """
        from joblib import Parallel, delayed
        from jobs import Job
        from .helper import twice
        def square(n): return n * n
        class Script(Job):
            def execute(self):
                return [Parallel(n_jobs=2, backend=backend)(delayed(function)(n) for n in range(4))
                        for backend in ("loky", "multiprocessing", "threading") for function in (square, twice)]
    """
    node.script("test/helper", "def twice(n): return 2 * n")
    run(node, text, [[0, 1, 4, 9], [0, 2, 4, 6]] * 3)


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_joblib_leaves_no_arrays_in_shared_memory(node: Node, end: str) -> None:
    text = f"""
        import os
        import numpy
        from joblib import Parallel, delayed
        from jobs import Job
        class Script(Job):
            def execute(self):
                array = numpy.ones(4_000_000)
                found = Parallel(n_jobs=2, max_nbytes="1M")(delayed(numpy.sum)(array) for _ in range(2))
                self.output([int(number) for number in found])
                self.log(len([name for name in os.listdir("/dev/shm") if "joblib_memmapping" in name]))
                {end}
    """
    before = set(os.listdir("/dev/shm"))
    node.script("test/script", text)
    outcome = node.outcome(node.begin("test/script"), RUN_SECS)
    assert json.loads(outcome.output) == [4_000_000] * 2, outcome.log.decode()
    assert outcome.log.startswith(b"1\n")
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "joblib" in name or "sem." in name]


def test_scikit_learn_searches_in_parallel_with_a_scorer_of_the_scripts_own(node: Node) -> None:
    text = """
        import numpy
        from sklearn.base import BaseEstimator, TransformerMixin
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from jobs import Job
        class Doubled(TransformerMixin, BaseEstimator):
            def fit(self, x, y=None): return self
            def transform(self, x): return 2 * x
        def score(model, x, y): return -float(numpy.abs(model.predict(x) - y).mean())
        class Script(Job):
            def execute(self):
                x = numpy.arange(40.0).reshape(20, 2)
                search = GridSearchCV(make_pipeline(Doubled(), Ridge()), {"ridge__alpha": [0.1, 100.0]},
                                      scoring=score, n_jobs=2, cv=2)
                return search.fit(x, x.sum(axis=1)).best_params_
    """
    run(node, text, {"ridge__alpha": 0.1})


def test_dask_has_a_cluster_of_its_own_processes(node: Node) -> None:
    text = """
        import dask
        from dask.distributed import Client, LocalCluster
        from jobs import Job
        def square(n): return n * n
        class Script(Job):
            def execute(self):
                dask.config.set({"distributed.worker.memory.spill": False})
                with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
                    with Client(cluster) as client:
                        return client.gather(client.map(square, range(4)))
    """
    run(node, text, [0, 1, 4, 9])


def test_pandas_reads_its_value_by_the_suffix_and_writes_to_standard_output(node: Node) -> None:
    stored = node.directory / "stored"
    stored.write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    text = """
        import sys
        import pandas
        from jobs import run
        frame = pandas.read_csv(run.data_path)
        frame.to_csv(sys.stdout.buffer, index=False)
        frame.to_excel("out.xlsx")
        run.output(int(frame["b"].sum()))
    """
    run(node, text, 6, data_path=str(stored), data_key="in/table.csv.gz")
    assert node.ends[-1].log == b"a,b\n1,2\n3,4\n"


def test_openpyxl_reads_its_value_by_the_suffix(node: Node) -> None:
    make = "import openpyxl, shutil\nbook = openpyxl.Workbook()\nbook.active.append([1, 2])\nbook.save('a.xlsx')\n"
    stored = node.directory / "stored"
    node.execute(f"{make}shutil.copy('a.xlsx', {str(stored)!r})")
    text = "import openpyxl\nfrom jobs import run\nrun.output(openpyxl.load_workbook(run.data_path).active['B1'].value)"
    run(node, text, 2, data_path=str(stored), data_key="in/book.xlsx")


@pytest.mark.parametrize("megabytes", [16, 32, 64, 128, 256, 512])
def test_a_limit_of_memory_that_is_too_small_is_said_and_no_import_spins(node: Node, megabytes: int) -> None:
    text = "from sklearn.ensemble import RandomForestClassifier\nfrom jobs import run\nrun.output(1)"
    node.script("test/script", text)
    outcome = node.outcome(node.begin("test/script", memory=megabytes * MIB), RUN_SECS)
    if outcome.state is State.COMPLETED:
        assert megabytes >= 64
    else:
        assert f"{megabytes} MiB" in outcome.reason
        assert megabytes < 512
