"""What people do with dead letters: look at them, send them again, drop them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from broker import phases, topology
from broker.errors import LinkDown
from broker.link import Copy, Held, Link, Window
from broker.refusals import BadRequest, Conflict, NotFound, Unavailable
from master.dead_letters import letter
from master.dead_letters.journal import Journal, Note, Notes, Step
from master.dead_letters.letter import Letter

LOOK = 2_000  # messages of a look at most
MOST_AT_ONCE = 1_000
GONE = "it is not there any more: somebody has sent or dropped it, or it was too old"


class Page(NamedTuple):
    """Letters, the oldest first."""

    letters: list[Letter]
    total: int  # messages in the queue
    following: str  # the id to go on after; "" when there are no more


class Failure(NamedTuple):
    """A letter that nothing was done with."""

    id: str
    reason: str


class Done(NamedTuple):
    """What came of a request about several letters."""

    done: list[str]  # ids
    failed: list[Failure]


class _Look:
    """The letters of one look at the queue."""

    def __init__(self, window: Window, notes: Notes, whole: Container[str]) -> None:
        """`whole`: the ids of those whose bodies are needed."""
        self.window = window
        self.notes = notes
        self.letters: dict[str, Letter] = {}
        self.looked = 0
        self._whole = whole
        self._finished: dict[str, list[int]] = {}  # sent before, and here again: tags by id

    def add(self, held: Held) -> None:
        """Take in one more message."""
        self.looked += 1
        number = held.fingerprint()
        note = self.notes.get(number)
        if note is not None and note.step is Step.SENT:
            tags = self._finished.setdefault(number, [])
            if len(tags) < note.copies:
                tags.append(held.tag)
                return
        found = letter.read(held, number, None if number in self._whole else letter.KEPT_BYTES)
        known = self.letters.setdefault(number, found)
        if known is not found:
            known.held += found.held
        known.unsure = note is not None and note.step is Step.SENDING

    def finish(self) -> None:
        """Remove what was sent before for good."""
        if tags := [tag for tags in self._finished.values() for tag in tags]:
            self.window.ack(tags)


class DeadLetters:
    """The dead letters of this master. Any thread but that of the link may use it; each call waits for RabbitMQ."""

    def __init__(self, link: Link, directory: Path, *, apart: bool) -> None:
        """`directory`: of the master, for the journal. `apart`: each process is a user of its own in RabbitMQ."""
        self._link = link
        self._apart = apart
        self._journal = Journal(directory)

    def page(self, limit: int, after: str = "") -> Page:
        """A page of letters. Raises `Conflict` when the one to go on after is gone, `Unavailable`."""
        begun = not after

        def more(look: _Look) -> bool:
            nonlocal begun
            if begun:
                return len(look.letters) <= limit
            if after in look.letters:
                begun = True
                look.letters.clear()
            return True

        with self._look(more) as look:
            if not begun and after not in look.letters:
                raise Conflict(f"there is no message {after[:80]} to go on after; begin with the first page")
            rows = list(look.letters.values())
            following = rows[limit - 1].id if len(rows) > limit else ""
            return Page(rows[:limit], look.window.ready, following)

    def one(self, number: str) -> Letter:
        """One letter. Raises `NotFound`, `Unavailable`."""
        with self._look(lambda look: number not in look.letters, {number}) as look:
            if number not in look.letters:
                raise NotFound(f"there is no dead message {number[:80]}: {GONE}")
            return look.letters[number]

    def drop(self, numbers: Sequence[str]) -> Done:
        """Remove letters for good. Raises `BadRequest`, `Unavailable`."""
        wanted = _checked(numbers)
        with self._look() as look:
            done = [number for number in wanted if number in look.letters]
            look.window.ack(tag for number in done for tag in look.letters[number].tags)
            self._close(look, done)
        return Done(done, [Failure(number, GONE) for number in wanted if number not in done])

    def send(self, numbers: Sequence[str], queue: str = "", body: bytes | None = None) -> Done:
        """Send letters to the queues that they came from, or to `queue`; with another `body`.

        Raises `BadRequest`, `Unavailable`.
        """
        wanted = _checked(numbers)
        if body is not None and len(wanted) != 1:
            raise BadRequest(f"another body can be given for one message, received {len(wanted)} ids")
        failed: list[Failure] = []
        with self._look(whole=set(wanted)) as look:
            copies: list[Copy] = []
            owners: list[str] = []
            for number in wanted:
                found = look.letters.get(number)
                if found is None:
                    failed.append(Failure(number, GONE))
                    continue
                target = topology.again(queue or found.queue)
                if objection := self._objection(found, queue or found.queue, target):
                    failed.append(Failure(number, objection))
                    continue
                for held in found.held[: found.times]:
                    copies.append(Copy(held, target, held.body if body is None else body, _headers(found)))
                    owners.append(number)
            there = self._publish(look, copies, owners)
            done = list(dict.fromkeys(owner for owner, one in zip(owners, there, strict=True) if one))
            failed += [
                Failure(number, f"RabbitMQ has no queue {topology.again(queue or look.letters[number].queue)}")
                for number in dict.fromkeys(owners)
                if number not in done
            ]
            self._close(look, done)
        return Done(done, failed)

    def _publish(self, look: _Look, copies: Sequence[Copy], owners: Sequence[str]) -> list[bool]:
        """Publish copies, and take those that arrived out of `pulzar.dead`; the journal has each step before it."""
        if not copies:
            return []
        for owner in owners:
            look.notes[owner] = Note(Step.SENDING, 0, time.time())
        self._journal.write(look.notes)
        phases.announce("dead.noted")
        there = look.window.publish(copies)
        phases.announce("dead.published")
        for owner in set(owners):
            arrived = sum(one for one, of in zip(there, owners, strict=True) if of == owner)
            found = look.letters[owner]
            del look.notes[owner]
            if arrived:
                copies_out = len(found.held) if found.numbered else arrived
                look.notes[owner] = Note(Step.SENT, copies_out, time.time())
                found.held = found.held[:copies_out]
        self._journal.write(look.notes)
        phases.announce("dead.confirmed")
        sent = [owner for owner in dict.fromkeys(owners) if owner in look.notes]
        look.window.ack(tag for owner in sent for tag in look.letters[owner].tags)
        phases.announce("dead.acknowledged")
        return there

    def _close(self, look: _Look, done: Sequence[str]) -> None:
        """End the look. What is certainly out of the queue needs no note any more."""
        if not look.window.close():
            return  # what was acknowledged may come again; the journal knows
        gone = [number for number in done if look.notes.pop(number, None) is not None]
        if gone:
            self._journal.write(look.notes)

    def _objection(self, found: Letter, queue: str, target: str) -> str:
        """Why a letter can't be sent to a queue; "" when it can."""
        if not queue:
            return "it does not say which queue it came from; give one"
        if not target:
            return f"messages of {queue} are not sent again: they are out of date, or it is no queue of Pulzar"
        known = found.buried_by == topology.MASTER_USER or not self._apart
        if not known and not topology.may_have_had(topology.node_of(found.buried_by), target):
            return f"the user {found.buried_by or 'that put it here'} has no messages of {target}; it may be forged"
        return ""

    @contextmanager
    def _look(self, more: Callable[[_Look], bool] = lambda _look: True, whole: Container[str] = ()) -> Iterator[_Look]:
        """Look at the queue, as long as `more` says so. Everything goes back at the end."""
        try:
            with self._journal.locked() as notes, self._link.window(topology.DEAD) as window:
                look = _Look(window, notes, whole)

                def taken(held: Held) -> bool:
                    look.add(held)
                    return look.looked < LOOK and more(look)

                window.take(taken)
                look.finish()
                yield look
        except LinkDown as error:
            raise Unavailable(f"{error}; look at the list: it says which messages may have been sent") from error


def _checked(numbers: Sequence[str]) -> list[str]:
    wanted = list(dict.fromkeys(numbers))
    if not wanted or len(wanted) > MOST_AT_ONCE:
        raise BadRequest(f"give 1 to {MOST_AT_ONCE} ids of messages, received {len(wanted)}")
    return wanted


def _headers(found: Letter) -> dict[str, object]:
    headers = {**found.headers, letter.AGAIN: secrets.token_hex(8)}
    if topology.node_of(found.user):
        headers[topology.ON_BEHALF] = found.user
    return headers
