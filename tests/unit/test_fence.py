"""What a run can't reach. Each test runs in every mode that this machine and this user allow."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import SettingsError
from broker.messages.runs import RunState
from broker.settings import General, Jobs, Settings, Volume
from node.runs.fence import groups, kernel, plan
from node.runs.fence.options import FenceOptions
from node.runs.fence.quota import ScratchUse
from node.runs.zygote_client import sweep_as
from tests.support import wait_for
from tests.unit.runs import ROOT, Node

CANARY = "amqp://node:canary-7281@broker"
NOBODY = pwd.getpwnam("nobody")


class Place:
    """A node's directory with secrets in it, below one that every user can reach."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.data = top / "data"
        self.log = self.data / "log"
        self.config = top / "server.conf"
        self.data.mkdir()
        self.log.write_text(CANARY)
        self.config.write_text(CANARY)
        self.node = Node(self.data / "runs", scripts=top / "scripts")

    def options(self, mode: str = "auto", **fields: object) -> FenceOptions:
        """A fence for this place."""
        shown = [str(self.node.scripts), str(ROOT), sys.prefix, sys.base_prefix]
        options = FenceOptions(mode, [str(self.data), str(self.config)], shown)
        return options._replace(**fields)  # type: ignore[arg-type]


@pytest.fixture
def place() -> Iterator[Place]:
    """A place; what runs there is stopped."""
    top = Path(tempfile.mkdtemp(prefix="pulzar-fence-"))
    top.chmod(0o755)
    made = Place(top)
    yield made
    made.node.stop()
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(params=["own user", "other user", "without namespaces"])
def fenced(place: Place, request: pytest.FixtureRequest) -> Place:
    """A place whose runner has started, and says in `parts` what it could do."""
    options = place.options()
    if request.param == "other user":
        if os.geteuid():
            pytest.skip("only root can give runs another user")
        options = options._replace(user=NOBODY.pw_uid, group=NOBODY.pw_gid)
    if request.param == "without namespaces":
        options = options._replace(mode="off")
    place.node.start(fence=options)
    place.node.script("test/first", "print('ready')")
    assert place.node.run("test/first").end.state is RunState.COMPLETED
    return place


def parts(place: Place) -> set[str]:
    """What is in force."""
    return set(place.node.runner.fenced)


def test_a_run_reads_and_writes_no_file_of_the_node(fenced: Place) -> None:
    # When a script tries every way to the node's log and its configuration
    outcome = fenced.node.execute(
        f"""
        import os
        places = ["{fenced.log}", "{fenced.config}"]
        for way in ("root", "cwd"):
            places += [f"/proc/{{pid}}/{{way}}{fenced.log}" for pid in (os.getppid(), {os.getpid()})]
        for place in places:
            try:
                print("read", open(place).read())
            except OSError as error:
                print(type(error).__name__)
            try:
                open(place, "a").write("written")
            except OSError as error:
                print(type(error).__name__)
        """
    )
    # Then it gets nothing, where the fence holds; root is kept from nothing in /proc
    if "user" in parts(fenced):
        assert b"canary" not in outcome.log
        assert fenced.log.read_text() == CANARY
    elif "files" in parts(fenced):
        assert b"canary" not in outcome.log.split(b"\n")[0]
        if os.geteuid():
            assert fenced.log.read_text() == CANARY
    else:
        assert b"canary" in outcome.log


def test_a_run_sees_its_own_scratch_alone(fenced: Place) -> None:
    # Given a run with a secret in its scratch
    fenced.node.script(
        "test/holder",
        """
        import time
        open("secret.txt", "w").write("mine")
        print("holding", flush=True)
        time.sleep(60)
        """,
    )
    holder = fenced.node.begin("test/holder")
    fenced.node.printed(holder, "holding")
    # When another one looks around
    outcome = fenced.node.execute(
        """
        import os
        print(os.listdir("..") == [os.path.basename(os.getcwd())])
        """
    )
    # Then it finds itself, where there is a fence
    expected = b"True\n" if "files" in parts(fenced) else b"False\n"
    assert outcome.log == expected
    fenced.node.runner.cancel(holder)
    fenced.node.outcome(holder)


def test_a_run_signals_nothing_but_its_own_processes(fenced: Place) -> None:
    with subprocess.Popen(["sleep", "120"]) as victim:
        outcome = fenced.node.execute(
            f"""
            import os, signal, subprocess
            for pid in ({victim.pid}, os.getppid()):
                try:
                    os.kill(pid, 0)
                    print("reached")
                except PermissionError:
                    print("refused")
            child = subprocess.Popen(["sleep", "60"])
            child.kill()
            print("own", child.wait())
            """
        )
        victim.kill()
    assert outcome.end.state is RunState.COMPLETED, outcome
    if "signals" in parts(fenced):
        assert outcome.log == b"refused\nrefused\nown -9\n"
    elif "user" in parts(fenced):
        assert outcome.log.startswith(b"refused\n")
    assert outcome.log.endswith(b"own -9\n")


def test_the_fence_holds_where_modules_are_loaded_ahead(fenced: Place) -> None:
    fenced.node.runner.expect([("csv",)])
    wait_for(lambda: any(member.ready for member in fenced.node.runner._fleet.members()))
    text = f"""
        import os, sys
        print("csv" in sys.modules, os.getuid(), os.listdir(os.path.dirname(os.environ["PULZAR_SCRATCH"])))
        print(open("{fenced.log}").read())
    """
    fenced.node.script("test/script", text)
    token = fenced.node.begin("test/script", modules=("csv",))
    log = fenced.node.outcome(token).log.decode()
    user = NOBODY.pw_uid if fenced.node.work.stat().st_gid == NOBODY.pw_gid else os.getuid()
    assert log.startswith(f"True {user} ['{token}']\n")
    assert (CANARY in log) == (not {"files", "user"} & parts(fenced))


def test_the_fence_holds_where_a_process_is_used_again(fenced: Place) -> None:
    text = f"""
        # pulzar: reuse=100
        import os
        from jobs import run
        above = os.path.dirname(run.scratch)
        seen = [os.getuid(), sorted(os.listdir(above)), sorted(os.listdir(os.path.dirname(above)))]
        run.output([os.getpid(), *seen, run.data_path and run.data_path.read_text()])
        print(run.data_path and run.data_path.name)
        print(open("{fenced.log}").read())
    """
    text = text.replace("print(open", "import contextlib\n        with contextlib.suppress(OSError): print(open")
    file = fenced.node.script("test/again", text)
    os.utime(file, (1, 1))
    value = fenced.data / "value"
    value.write_text("lent")
    # Given runs in one process, with values that they work on
    fenced.node.run("test/again")
    found = []
    for number in range(1, 4):
        token = fenced.node.begin("test/again", data_path=str(value), data_key=f"a/{number}.csv")
        outcome = fenced.node.outcome(token)
        assert outcome.end.state is RunState.COMPLETED, outcome
        found.append(json.loads(outcome.output))
        # Then each sees its own value and directory, and nothing of the node
        assert outcome.log.startswith(f"{number}.csv\n".encode())
        assert (CANARY.encode() in outcome.log) == (not {"files", "user"} & parts(fenced))
    assert len({pid for pid, *_ in found}) == 1
    for number, (_, user, own, others, text) in enumerate(found, 1):
        assert (own, len(others), text) == ([f"{number}", f"{number}.data"], 1, "lent")
        assert (user == NOBODY.pw_uid) == ("user" in parts(fenced) and os.geteuid() == 0)
    assert value.read_text() == "lent"


def test_a_run_has_no_environment_of_the_zygote_and_no_descriptor_of_the_node(fenced: Place) -> None:
    # When a script reads the environments of all processes that it can, and lists its descriptors
    outcome = fenced.node.execute(
        """
        import os
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if b"PULZAR_NODE_RUNS" not in open(f"/proc/{pid}/environ", "rb").read():
                    continue
            except OSError:
                continue
            text = open(f"/proc/{pid}/environ", "rb").read()
            print("found", b"hidden" in text)
        for name in os.listdir("/proc/self/fd"):
            try:
                print("fd", os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
            except OSError:
                pass
        """
    )
    assert b"found True" not in outcome.log
    kinds = {line for line in outcome.log.decode().splitlines() if line.startswith("fd")}
    assert kinds <= {"fd pipe", "fd /dev/null", *(kind for kind in kinds if kind.startswith("fd /proc/"))}


def test_a_killed_run_leaves_no_process(fenced: Place) -> None:
    # Given a run whose processes left its session, twice forked
    fenced.node.script(
        "test/daemons",
        """
        import os, time
        for _ in range(3):
            if not os.fork():
                os.setsid()
                if os.fork():
                    os._exit(0)
                os.environ.clear()
                time.sleep(300)
        print("all there", flush=True)
        time.sleep(300)
        """,
    )
    run = fenced.node.begin("test/daemons")
    fenced.node.printed(run, "all there")
    fenced.node.runner.cancel(run)
    assert fenced.node.outcome(run).end.state is RunState.CANCELLED
    assert not [pid for pid in processes_in(fenced.node.work) if f"scratch/{run}" in os.readlink(f"/proc/{pid}/cwd")]


def processes_in(directory: Path) -> list[int]:
    """The processes whose working directory is there."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.readlink(f"/proc/{name}/cwd").startswith(f"{directory}/scratch"):
                    found.append(int(name))
            except OSError:
                continue
    return found


def test_a_lent_value_is_read_and_its_name_removed_while_the_copy_stays(fenced: Place) -> None:
    value = fenced.data / "value"
    value.write_bytes(b"content")
    value.chmod(0o600)
    outcome = fenced.node.execute(
        """
        import os
        path = os.environ["PULZAR_DATA"]
        print(open(path).read(), os.path.basename(path), os.path.exists(path))
        os.unlink(path)
        """,
        data_path=str(value),
        data_key="folder/name.csv",
    )
    assert outcome.log == b"content name.csv True\n", outcome
    assert value.read_bytes() == b"content"
    wait_for(lambda: not list((fenced.node.work / "scratch").iterdir()))


def test_shared_memory_and_the_machines_tmp_are_as_before(fenced: Place) -> None:
    file = fenced.top / "written"
    fenced.top.chmod(0o777)
    outcome = fenced.node.execute(
        f"""
        open("{file}", "w").write("by a run")
        name = "/dev/shm/pulzar-fence-test-{os.getpid()}"
        open(name, "w").write("x")
        import os
        os.unlink(name)
        """
    )
    assert outcome.end.state is RunState.COMPLETED, outcome
    assert file.read_text() == "by a run"


def has_namespaces(place: Place) -> bool:
    """Whether this user may have them."""
    return "files" in parts(place)


def test_each_run_may_have_a_tmp_of_its_own(place: Place) -> None:
    place.node.start(fence=place.options(tmp="private"))
    script = """
    import os, tempfile
    print(os.path.exists("/tmp/left"), tempfile.gettempdir())
    open("/tmp/left", "w").write("x")
    """
    first, second = place.node.execute(script), place.node.execute(script)
    if not has_namespaces(place):
        pytest.skip("this user may have no namespaces")
    assert first.log == second.log == b"False /tmp\n"
    assert not Path("/tmp/left").exists()
    wait_for(lambda: not list((place.node.work / "scratch").iterdir()))


def test_without_a_network_loopback_is_all_there_is(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        try:
            place.node.start(fence=place.options(network=False))
        except SettingsError as error:
            pytest.skip(f"this user may have no namespaces: {error}")
        outcome = place.node.execute(
            f"""
            import socket
            for address in (("127.0.0.1", {server.getsockname()[1]}), ("192.0.2.1", 80)):
                try:
                    socket.create_connection(address, 5)
                    print("connected")
                except OSError as error:
                    print(error.strerror)
            inside = socket.create_server(("127.0.0.1", 0))
            socket.create_connection(inside.getsockname(), 5)
            print("inside")
            """
        )
    assert outcome.log == b"Connection refused\nNetwork is unreachable\ninside\n", outcome
    assert "network" in parts(place)


def test_a_fence_that_is_required_and_can_not_be_had_refuses_to_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a machine that allows no more namespaces
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import ctypes
from node.runs.fence import kernel
def unshare(flags): raise OSError(28, "No space left on device")
kernel.unshare = unshare
from node.runs import zygote
zygote.main()
"""
    starter = place.top / "python"
    program = place.top / "starter.py"
    program.write_text(code)
    starter.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {program} "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(starter))
    # When a node starts that must have it
    with pytest.raises(SettingsError, match="fence = required"):
        place.node.start(fence=place.options("required"))
    # Then none runs; and where a fence is only wanted, runs go on, and what lacks is said
    place.node.runner.stop()
    place.node.start(fence=place.options())
    assert place.node.execute("print('done')").log == b"done\n"
    assert "files" not in parts(place)


def test_scratch_has_a_quota(place: Place) -> None:
    place.node.start(fence=place.options(scratch=4 << 20))
    outcome = place.node.execute(
        """
        import os, time
        os.mkdir("deep")
        for number in range(40):
            with open(f"deep/{number}", "wb") as file:
                file.write(os.urandom(1 << 20))
                os.fsync(file.fileno())
        time.sleep(120)
        """
    )
    assert outcome.end.state is RunState.FAILED
    assert outcome.end.reason == "used more than 4 MiB of its scratch directory ([jobs] scratch)"
    assert place.node.execute("open('small', 'w').write('x')").end.state is RunState.COMPLETED


def test_a_quota_is_counted_a_part_at_a_time(tmp_path: Path) -> None:
    # Given more files than one look takes
    for number in range(1500):
        (tmp_path / str(number)).write_bytes(b"x")
    use = ScratchUse([str(tmp_path), str(tmp_path / "missing")])
    # Then it takes several to find them
    looks = 0
    while not use.exceeds(1499 * 4096):
        looks += 1
        assert looks < 10
    assert looks >= 1


def cgroup() -> Path:
    """A cgroup of version 2 for this test alone; the test is skipped where that can't be."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    top = next((line.split()[4] for line in mounts if " - cgroup2 " in line), "")
    if not top:
        pytest.skip("there is no cgroup2 on this machine")
    place = Path(top) / f"pulzar-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        place.mkdir()
    except OSError as error:
        pytest.skip(f"{top} can't be written: {error.strerror}")
    return place


def test_a_cgroup_ends_all_that_is_in_it() -> None:
    place = cgroup()
    group = groups.Group(place)
    try:
        # Given processes in a cgroup, of which one left its session
        child = subprocess.Popen(
            ["sh", "-c", "read go; setsid sleep 300 & sleep 300"], stdin=subprocess.PIPE, start_new_session=True
        )
        made = groups.Group.make(place, "run", child.pid)
        assert made
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.close()
        wait_for(lambda: len(made.pids()) == 3)
        # When it is killed
        made.kill()
        # Then all are gone, and so is the cgroup in the end
        assert child.wait(60) == -9
        wait_for(lambda: not made.pids())
        assert made.remove()
        assert not (place / "run").exists()
        assert not made.out_of_memory()
    finally:
        group.remove()


def test_limits_hold_in_a_cgroup_that_has_the_controllers() -> None:
    place = cgroup()
    try:
        runs = place / "runs"
        controllers = (place / "cgroup.controllers").read_text().split()
        if not {"pids", "memory"} <= set(controllers):
            assert "without" in groups.objection(place)
            pytest.skip(f"pids and memory are not among the controllers here: {controllers}")
        assert groups.prepare(place=place) == str(runs)
        assert groups.objection(runs) == ""
        with subprocess.Popen(["sleep", "60"]) as child:
            made = groups.Group.make(runs, "one", child.pid)
            assert made
            assert made.limit(20, 64 << 20)
            made.kill()
        made.remove()
    finally:
        for folder in ("runs", "node", "."):
            groups.Group(place / folder).remove()


def test_the_nodes_processes_hide_their_environment() -> None:
    # Given a process that hides, as agent, data server and their parent do
    code = "import sys; from broker import process; process.hide(); print('hidden', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PULZAR_BROKER_URL": CANARY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout
        assert child.stdout.readline() == b"hidden\n"
        assert Path(f"/proc/{child.pid}").stat().st_uid == os.geteuid()
        assert Path(f"/proc/{child.pid}/environ").stat().st_uid == 0  # others of its user may not open it
        if os.geteuid():
            with pytest.raises(PermissionError):
                Path(f"/proc/{child.pid}/environ").read_bytes()
    finally:
        child.communicate(b"")


def test_settings_of_a_fence_that_can_not_be_are_refused(tmp_path: Path) -> None:
    volume = Volume(dir=str(tmp_path))
    for jobs, text in (
        (Jobs(user="nobody-of-that-name"), "there is no such user"),
        (Jobs(user="root"), "is root"),
        (Jobs(fence="off", network=False), "need a fence"),
        (Jobs(fence="off", user="nobody"), "need a fence"),
    ):
        with pytest.raises(SettingsError, match=text):
            plan.of(Settings(volume=volume, jobs=jobs))
    if os.geteuid():
        with pytest.raises(SettingsError, match="may not start processes of another user"):
            plan.of(Settings(volume=volume, jobs=Jobs(user="daemon")))
    found = plan.of(
        Settings(volume=volume, jobs=Jobs(cgroups="off"), general=General(secret="file:/etc/x")), {"PULZAR_CONFIG": "c"}
    )
    assert {str(tmp_path), "/etc/x", str(Path("c").absolute())} <= set(found.hidden)
    assert plan.of(Settings(jobs=Jobs(fence="off"))) == FenceOptions()


def test_only_the_runners_directory_is_open_to_the_user_of_runs(tmp_path: Path) -> None:
    for name in ("log", "values", "runs/work", "runs/inputs"):
        (tmp_path / name).mkdir(parents=True)
    before = os.umask(0o022)
    try:
        plan.open_way(tmp_path, os.getegid())
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o007 for name in ("log", "values", "runs", "runs/inputs")}
    assert modes == {"log": 0, "values": 0, "runs": 1, "runs/inputs": 0}


def test_what_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.unshare(1)
    with pytest.raises(OSError, match="No such file"):
        kernel.mount("none", "/missing/anywhere", "tmpfs", 0)


def test_the_rest_of_a_run_of_another_user_is_found_as_that_user(place: Place) -> None:
    if os.geteuid():
        pytest.skip("only root can give runs another user")
    # Given a process of a run that is left over, of another user
    mark = "5" * 64
    code = f"from node.runs.processes import Marks; Marks('{mark}').put(7); print('up', flush=True); input()"
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    left = subprocess.Popen(
        [python, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[]
    )
    try:
        assert left.stdout
        assert left.stdout.readline() == b"up\n"
        # When a process of that user looks for it, then it is gone
        options = place.options(user=NOBODY.pw_uid, group=NOBODY.pw_gid)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", python)
            assert sweep_as(options, mark, 20) == 0
        assert left.wait(60) == -9
    finally:
        left.kill()
        left.communicate()
