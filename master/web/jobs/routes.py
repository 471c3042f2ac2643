"""Launches and cancels jobs; pauses, resumes and runs schedules. The controller, which has the ledger, does it all.

`POST /launch_job/{folder}/{script}`, `/launch_jobs`, `/cancel_job/{id}`, `/scheduled_jobs/{id}/pause` and the like.
"""

from __future__ import annotations

import asyncio

from broker import integers
from broker.contract.kinds import Text
from broker.contract.parameters import Parameter
from broker.http import request_fields, responses
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.refusals import BadRequest, NotFound, Refused
from broker.server.request import Request
from master.channel import Cancel, ControllerClient, Launch, LaunchMany, PauseSchedule, RunSchedule
from master.jobs import script_catalog, unique_tokens
from master.jobs.ledger import Ledger
from master.security import audit, gate
from master.security.gate import Gate
from master.security.rights import Right
from master.web.jobs import launch_many, own_jobs
from master.web.jobs.launch_many import JobReply, Warner
from master.web.jobs.launch_request import JobLaunch, launch_of, launch_outcome
from master.web.keys.parameters import parameters

LAUNCH, CANCEL, SCHEDULES = "/launch_job/", "/cancel_job/", "/scheduled_jobs/"
ACTIONS = ("pause", "resume", "run")
UNIQUE = Parameter(
    "unique", Text(jobs.MAX_TOKEN), "For run: a token of this call. The same one again is the same job.", ""
)
_STRETCH = 100  # jobs that are read before other requests have their turn


class Launches:
    """The routes that launch and cancel jobs."""

    def __init__(self, controller: ControllerClient, ledger: Ledger, gate: Gate) -> None:
        """`ledger` is opened to be read. `gate` knows who may read the key that a job works on."""
        self._controller = controller
        self._ledger = ledger
        self._gate = gate

    async def launch(self, request: Request) -> Response:
        """Launch or schedule a job."""
        environ = request.environ
        order, rhythm, packed = launch_of(environ["PATH_INFO"].removeprefix(LAUNCH), await _body(request))
        if order.data:
            self._gate.require(environ, Right("read", order.data))
        launch = Launch(packed, rhythm, environ.get(gate.NAME, ""))
        number, safe = await self._controller.ask(launch)
        with self._ledger.read() as view:
            warnings = script_catalog.warnings(view, order)
        return responses.make_plain(*launch_outcome(number, safe, warnings), [])

    async def launch_many(self, request: Request) -> Response:
        """Launch or schedule jobs, each on its own."""
        environ = request.environ
        key = launch_many.check_key(environ.get("HTTP_IDEMPOTENCY_KEY", ""))
        items = launch_many.read_many(await _body(request, launch_many.MAX_BYTES, "send fewer jobs at a time"))
        replies: list[JobReply] = [JobReply(0, 0, "")] * len(items)
        good: list[tuple[int, JobLaunch]] = []
        allowed: set[Right] = set()
        for place, item in enumerate(items):
            if place % _STRETCH == _STRETCH - 1:
                await asyncio.sleep(0)
            try:
                launch = launch_many.launch_of_item(item, unique_tokens.of_key(key, place) if key else "")
                self._require(environ, launch.order, allowed)
            except Refused as error:
                replies[place] = launch_many.refusal_of(error)
            else:
                good.append((place, launch))
        environ[audit.ABOUT] = launch_many.about(launch.order.job for _, launch in good)
        if good:
            await self._launch_all(good, replies, environ.get(gate.NAME, ""))
        return launch_many.respond(replies)

    async def _launch_all(self, good: list[tuple[int, JobLaunch]], replies: list[JobReply], by: str) -> None:
        """Launch what could be read; each of `replies` in its place."""
        rows = await self._controller.ask(LaunchMany([(launch.packed, launch.rhythm) for _, launch in good], by))
        with self._ledger.read() as view:
            warner = Warner(view)
            for (place, launch), (status, said) in zip(good, rows, strict=True):
                if status < 300:
                    replies[place] = JobReply(status, said, "", warner.warnings(launch))
                else:
                    replies[place] = JobReply(status, 0, said)

    def _require(self, environ: Environ, order: Order, allowed: set[Right]) -> None:
        """Raises `Forbidden` when a request lacks a right that a job needs; those that it has go to `allowed`."""
        asked = [Right("launch", order.job), *([Right("read", order.data)] if order.data else [])]
        for right in asked:
            if right not in allowed:
                self._gate.require(environ, right)
                allowed.add(right)

    async def start(self, job: str, arguments: dict[str, object], environ: Environ) -> int:
        """Launch a job of the master itself, which acts for who sent a request; its id. Raises `Refused`."""
        launch = Launch(jobs.write(Order(job, arguments)), None, environ.get(gate.NAME, ""))
        number, _ = await self._controller.ask(launch)
        return int(number)

    async def cancel(self, request: Request) -> Response:
        """Cancel a job or a schedule."""
        number = _id(request.environ["PATH_INFO"].removeprefix(CANCEL))
        with self._ledger.read() as view:
            own_jobs.require(view, number, request.environ)
        message = await self._controller.ask(Cancel(number))
        return responses.make_plain(200, {"job_id": number}, message, [])

    async def act(self, request: Request) -> Response:
        """Pause a schedule, resume it, or launch an execution of it now."""
        environ = request.environ
        text, _, action = environ["PATH_INFO"].removeprefix(SCHEDULES).partition("/")
        if action not in ACTIONS:
            raise NotFound(f"no such path: {environ['PATH_INFO'][:100]}; a schedule has {', '.join(ACTIONS)}")
        number = _id(text)
        unique = UNIQUE.read(parameters(environ["QUERY_STRING"]))
        with self._ledger.read() as view:
            own_jobs.require(view, number, environ)
            schedule = view.schedule(number)
        if schedule is None:
            raise NotFound(f"there is no schedule {number}; GET /admin/scheduled_jobs lists those there are")
        if action != "run":
            message = await self._controller.ask(PauseSchedule(number, action == "pause"))
            return responses.make_plain(200, {"job_id": number}, message, [])
        self._gate.require(environ, Right("launch", schedule.path))
        launched, safe = await self._controller.ask(RunSchedule(number, unique))
        return responses.make_plain(*launch_outcome(launched, safe, []), [])


def _id(text: str) -> int:
    try:
        return integers.parse(text, 1)
    except ValueError:
        raise NotFound(f"{text[:40]!r} is no id of a job; it is an integer from 1 on") from None


async def _body(
    request: Request,
    most: int = jobs.MAX_BYTES,
    advice: str = f'store what is large under a key and give {{"{jobs.DATA}": "<key>"}}',
) -> bytes:
    """The whole body of a request; raises `BadRequest` when it has more than `most` bytes."""
    length = request_fields.content_length(request.environ)
    if length is not None and length <= most:
        return await request.read(length)
    pieces: list[bytes] = []
    room = most if length is None else -1  # bytes
    while room >= 0 and (piece := await request.chunk()):
        pieces.append(piece)
        room -= len(piece)
    if room < 0:
        raise BadRequest(f"the body has more than {most} bytes, the limit; {advice}")
    return b"".join(pieces)
