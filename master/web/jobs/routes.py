"""`POST /launch_job/{folder}/{script}` and `POST /cancel_job/{id}`: asked of the controller, which has the ledger."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from broker import integers
from broker.http import request_fields, responses
from broker.http.responses import Response
from broker.messages import jobs
from broker.refusals import BadRequest, NotFound, Unavailable
from broker.server.request import Request
from master.channel import CALL_SECS, Cancel, ControllerClient, Launch
from master.jobs import script_catalog
from master.jobs.ledger import Ledger
from master.web.jobs.launch_request import order_of, what_became

LAUNCH, CANCEL = "/launch_job/", "/cancel_job/"


class Launches:
    """Of one web worker."""

    def __init__(self, controller: ControllerClient, ledger: Ledger, cors: str) -> None:
        """`ledger` is opened to be read."""
        self._controller = controller
        self._ledger = ledger
        self._cors = cors

    async def launch(self, incoming: Request) -> Response:
        """Launch or schedule a job."""
        order, rhythm = order_of(incoming.environ["PATH_INFO"].removeprefix(LAUNCH), await _body(incoming))
        number, safe = await _result(self._controller.call(Launch(jobs.write(order), rhythm)))
        with self._ledger.begin() as txn:
            warnings = script_catalog.warnings(self._ledger, txn, order)
        return responses.make(*what_became(number, safe, warnings), [], self._cors)

    async def cancel(self, incoming: Request) -> Response:
        """Cancel a job or a schedule."""
        text = incoming.environ["PATH_INFO"].removeprefix(CANCEL)
        try:
            number = integers.parse(text, 1)
        except ValueError:
            raise NotFound(f"{text[:40]!r} is no id of a job; it is an integer from 1 on") from None
        message = await _result(self._controller.call(Cancel(number)))
        return responses.make(200, {"job_id": number}, message, [], self._cors)


async def _body(incoming: Request) -> bytes:
    """The body of a request, whole; raises `BadRequest` when it is too long for a job."""
    length = request_fields.content_length(incoming.environ)
    if length is not None and length <= jobs.MAX_BYTES:
        return await incoming.read(length)
    pieces, room = [], jobs.MAX_BYTES
    while length is None and room >= 0 and (piece := await incoming.chunk()):
        pieces.append(piece)
        room -= len(piece)
    if length is not None or room < 0:
        raise BadRequest(
            f"the body has more than {jobs.MAX_BYTES} bytes, the limit; store what is large under a key and"
            f' give {{"{jobs.DATA}": "<key>"}}'
        )
    return b"".join(pieces)


async def _result(asked: Future[Any]) -> Any:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(asked), CALL_SECS)
    except TimeoutError:
        raise Unavailable("the master's controller did not answer in time; look whether it was done") from None
