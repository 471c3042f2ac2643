"""How a run ended is one record; what was written before there was one is read as ever.

The bytes below were made by the code of commit 327db85: a node's `claims.log`, a job's row in the ledger, a message.
"""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import msgpack
import pytest

from broker.errors import MalformedMessage
from broker.messages.codec import encode
from broker.messages.jobs import Options
from broker.messages.runs import Claimed, Finished, Reports, Returned, RunEnd, RunState
from master.index.environment import pack
from master.jobs.ledger import Ledger
from master.jobs.model import Attempt, Job, JobState, unpack_job
from node.jobs.claims import Artifact, Claim, Claims, RunResult
from tests.support import decode

RUNS = [f"{number:032x}" for number in range(5)]
OLD_CLAIMS = (
    "eNqzZGBgSMlnC5nGeFPBgABgYDzL/OIIX7VSVn6SkpWCUqJ+klKtJdCAj+e3fSLCAEOQAS9RDEhWqtUGGvDtWft2IgwwYmc6y/zqCANIy/r+Ph"
    "sitBhzAO18DdHCdUjlFhFaTDiBWt4cYVABagmacJx1EhPhoFEFqn1sa3d4MjPhUPC9AFR8WCM1diYLYYMZ16ZWZJYoFJcklpQWKxgDI+As+4Up"
    "R9gSFXLy07kWsB1RcGa2aTaR9mCflHJ/m02cU+mRj5u+2hzOZ4nwYjp1wnf7tikHbiokJuGH5xgY2xYcUUghACaftv/AAAanHQQgjNX5eakK+W"
    "kKafmlRflA/t47EkZE+MuQYQEwKZxlvzjlCMMChiMMU44wmi5gPKLwXleo9nH1FO1VFxJdn3rzJM6SVzKq1tt9ft/x/tCU9Y/nTj7NAAVwxgI/"
    "INF04VsZEdYagax9dZb9EtxaMIXN1AggYcgzQXU2KzHJEmbuBmDKLtY31zfSB0aPXklFyYLJpx1gZsMYS1KAgeYCZDgd8uAmwnxggmQCmv8GiB"
    "YswOZWAGreDeo="
)
OLD_ROW = (
    "eNq7wyDFujhRP2l5tVKekpVh7UwGZoZleflFuYk5DAsWMExcWLEwe0lRanEJAxcT8wIGBoZFeUY3FQzwAyMNTSPjBRuy8pOK9U31jfVz8tP1Si"
    "pKFhyafNqBAQLgjMWJOTlTZjAuyjMkaKwB85aSjFSFvPyUVIXyxGKF4pL8goLUFBHJQzOYiNFvyLg2tSKzBKgvsaS0WMFQThms0ZigRmOmlcmJ"
    "ecmpOTmpKfIqh2cwExUIDAs0jQ4BAJa1YGk="
)
OLD_MESSAGE = (
    "eNqbwsi2KM9w8jTGmwoGBAADI+sRpura2UwElRqxMzEvSc/PSz3L/Oos+6UNWflJxfrm+kb6OfnpeiUVJQsmn3ZggIDTDhwQxsKSKcxHGCsW5e"
    "UTNN4QAGDGLew="
)
JOB = Job(
    *(5, "a/b", '{"n":1}', Options(attempts=3, argv=("x",)), "k", "rest", 0, 10, JobState.COMPLETED, 3),
    node="n2",
    run=RUNS[2],
    claimed=40,
    started=41,
    ended=50,
    closed=51,
    log_key="jobs/5/3/log.txt",
    progress=(2.0, 2.0, "all"),
    attempts=(
        Attempt(1, "n1", RUNS[0], RunEnd(RunState.LOST, "the node was stopped", 20, 25), False),
        Attempt(2, "n1", RUNS[1], RunEnd(RunState.FAILED, "exit status 1", 30, 35), False),
        Attempt(2, "n3", RUNS[3], RunEnd(RunState.CANCELLED, "cancelled", 31, 36), True),
        Attempt(3, "n2", RUNS[2], RunEnd(RunState.COMPLETED, "", 41, 50), False),
    ),
)
REPORTS = Reports(
    "n1",
    [
        Claimed(RUNS[0], 0, 1, 5, b"{}"),
        Finished(RUNS[2], 7, 2, RunEnd(RunState.LOST, "gone", 1002, 2002), "jobs/7/2/log.txt", "", (2.0, 3.0, "t")),
        Returned(b"x", "no", RUNS[1]),
    ],
)


def old(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_a_node_takes_over_the_claims_of_the_version_before(tmp_path: Path) -> None:
    (tmp_path / "claims.log").write_bytes(old(OLD_CLAIMS))
    claims = Claims(tmp_path)
    # Given runs that were claimed, acknowledged, named, ended and reported by the old code
    hand, named, running = claims.open[RUNS[0]], claims.open[RUNS[1]], claims.open[RUNS[3]]
    assert list(claims.open) == [RUNS[0], RUNS[1], RUNS[3]]
    assert (hand.id, hand.by_hand, hand.acknowledged, claims.order(hand)) == (0, True, True, b'{"job": "a/b"}')
    assert (named.id, named.acknowledged, running.id, running.result) == (77, False, 8, None)
    staged = Artifact(None, "ab" * 16, 100_000, b"d" * 32)
    end = RunEnd(RunState.FAILED, "exit status 3", 1000, 2000)
    assert claims.full_result(hand) == RunResult(end, Artifact.of(b"a log\n"), staged, (1.0, 4.0, "one of four"))
    end = RunEnd(RunState.COMPLETED, "", 1001, 2001)
    assert claims.full_result(named) == RunResult(end, Artifact.of(b""), Artifact.of(b"5"))
    end = RunEnd(RunState.COMPLETED, "", 1002, 2002)
    assert claims.known(7, 2) == Finished(RUNS[2], 7, 2, end, "jobs/7/2/log.txt", "", (2.0, 2.0, "done"))
    assert claims.known(9, 1) == Finished(RUNS[4], 9, 1, RunEnd(RunState.CANCELLED, "", 1004, 1004))
    # When the new code goes on with them, all is there after its next start
    claims.end(running, RunResult(RunEnd(RunState.COMPLETED, "", 1003, 2003)))
    claims.report(Finished(RUNS[1], 77, 1, end))
    claims.close()
    again = Claims(tmp_path)
    assert list(again.open) == [RUNS[0], RUNS[3]]
    assert again.known(77, 1) == Finished(RUNS[1], 77, 1, end)


def test_what_the_new_code_writes_is_what_the_old_code_wrote(tmp_path: Path) -> None:
    """So a node that goes back to the version before reads its claims, and messages in queues are read by both."""
    claims = Claims(tmp_path)
    hand, named, over, running, gone = (
        Claim(run, job, attempt, 1000 + number, by_hand=not job)
        for number, (run, job, attempt) in enumerate(zip(RUNS, (0, 0, 7, 8, 9), (1, 1, 2, 1, 1), strict=True))
    )
    orders = [b'{"job": "a/b"}', b'{"job": "a/c"}', b"", b"", b""]
    claims.add(list(zip((hand, named, over, running, gone), orders, strict=True)))
    claims.acknowledge(hand)
    claims.name(named, 77)
    staged = Artifact(None, "ab" * 16, 100_000, b"d" * 32)
    end = RunEnd(RunState.FAILED, "exit status 3", 1000, 2000)
    claims.end(hand, RunResult(end, Artifact.of(b"a log\n"), staged, (1.0, 4.0, "one of four")))
    end = RunEnd(RunState.COMPLETED, "", 1001, 2001)
    claims.end(named, RunResult(end, Artifact.of(b""), Artifact.of(b"5")))
    end = RunEnd(RunState.COMPLETED, "", 1002, 2002)
    claims.end(over, RunResult(end))
    claims.report(Finished(RUNS[2], 7, 2, end, "jobs/7/2/log.txt", "", (2.0, 2.0, "done")))
    claims.drop(gone)
    claims.close()
    assert (tmp_path / "claims.log").read_bytes() == old(OLD_CLAIMS)
    assert encode(REPORTS) == old(OLD_MESSAGE)


def test_a_message_of_the_version_before_is_read() -> None:
    assert decode(old(OLD_MESSAGE), Reports) == REPORTS


def test_a_job_of_the_version_before_is_read_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpack_job(old(OLD_ROW)) == JOB
    assert unpack_job(pack(JOB)) == JOB
    assert isinstance(unpack_job(old(OLD_ROW)).attempts[0].end, RunEnd)
    # Given a ledger with the row of the version before
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    with monkeypatch.context() as before, ledger.write() as tables:
        before.setattr("master.jobs.ledger.pack", lambda _job: old(OLD_ROW))
        tables.save(None, JOB)
    # Then it is read, and saved as a row of today
    newer = JOB._replace(progress=(3.0, 3.0, "all"))
    with ledger.write() as tables:
        found = tables.job(5)
        assert found == JOB
        tables.save(found, newer)
        assert tables.job(5) == newer
    ledger.close()


@pytest.mark.parametrize("state", RunState)
def test_the_end_of_the_last_run_is_the_end_of_the_job(state: RunState) -> None:
    job = JobState.after(state)
    assert job.final
    assert job.name == ("FAILED" if state is RunState.LOST else state.name)


@pytest.mark.parametrize("state", [-1, 4, 77])
def test_an_end_that_is_none_is_refused(state: int) -> None:
    with pytest.raises(ValueError, match="RunState"):
        RunEnd.unpacked(state, "", 1, 2)
    fields = msgpack.unpackb(old(OLD_MESSAGE))
    fields[3][1][4] = state
    with pytest.raises(MalformedMessage, match=r"RunState|integer"):
        decode(msgpack.packb(fields), Reports)
