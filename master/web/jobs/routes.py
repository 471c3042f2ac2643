"""`POST /launch_job/{folder}/{script}` and `POST /cancel_job/{id}`: the controller, which has the ledger, does both."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from broker import integers
from broker.http import request_fields, responses
from broker.http.responses import Response
from broker.messages import jobs
from broker.refusals import BadRequest, NotFound, Unavailable
from broker.server.request import Request
from master.channel import CALL_SECS, Cancel, ControllerClient, Launch
from master.jobs import script_catalog
from master.jobs.ledger import Ledger
from master.web.jobs.launch_request import launch_outcome, order_of

LAUNCH, CANCEL = "/launch_job/", "/cancel_job/"

Reply = TypeVar("Reply")


class Launches:
    """The routes that launch and cancel jobs."""

    def __init__(self, controller: ControllerClient, ledger: Ledger, cors: str) -> None:
        """`ledger` is opened to be read."""
        self._controller = controller
        self._ledger = ledger
        self._cors = cors

    async def launch(self, request: Request) -> Response:
        """Launch or schedule a job."""
        order, rhythm = order_of(request.environ["PATH_INFO"].removeprefix(LAUNCH), await _body(request))
        number, safe = await _reply(self._controller.call(Launch(jobs.write(order), rhythm)))
        with self._ledger.read() as view:
            warnings = script_catalog.warnings(view, order)
        return responses.make(*launch_outcome(number, safe, warnings), [], self._cors)

    async def cancel(self, request: Request) -> Response:
        """Cancel a job or a schedule."""
        text = request.environ["PATH_INFO"].removeprefix(CANCEL)
        try:
            number = integers.parse(text, 1)
        except ValueError:
            raise NotFound(f"{text[:40]!r} is no id of a job; it is an integer from 1 on") from None
        message = await _reply(self._controller.call(Cancel(number)))
        return responses.make(200, {"job_id": number}, message, [], self._cors)


async def _body(request: Request) -> bytes:
    """The whole body of a request; raises `BadRequest` when it is too long for a job."""
    length = request_fields.content_length(request.environ)
    if length is not None and length <= jobs.MAX_BYTES:
        return await request.read(length)
    pieces: list[bytes] = []
    room = jobs.MAX_BYTES if length is None else -1  # bytes
    while room >= 0 and (piece := await request.chunk()):
        pieces.append(piece)
        room -= len(piece)
    if room < 0:
        raise BadRequest(
            f"the body has more than {jobs.MAX_BYTES} bytes, the limit; store what is large under a key and"
            f' give {{"{jobs.DATA}": "<key>"}}'
        )
    return b"".join(pieces)


async def _reply(call: Future[Reply]) -> Reply:
    """The controller's reply to a call; raises the refusal it sent, or `Unavailable` when it takes too long."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(call), CALL_SECS)
    except TimeoutError:
        raise Unavailable("the master's controller did not answer in time; look whether it was done") from None
