"""`/admin/tokens` and `/admin/audit`: tokens are listed, made and revoked; what was done with them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Blueprint, Response, request

from broker import logs
from broker.contract.bodies import Body, ListOf, OrNull, Record
from broker.contract.kinds import Integer, Text
from broker.contract.parameters import Parameter
from broker.refusals import BadRequest, Conflict, Forbidden, NotFound, Unavailable
from master.security import audit, gate, token_changes, tokens
from master.security.rights import PATTERN
from master.security.token_changes import FileProtected, RightsMissing, TokenError, TokenExists, TokenMissing
from master.security.tokens import Token, TokensUnreadable
from master.web.flask_routes.context import context, ok

log = logs.get(__name__)

blueprint = Blueprint("tokens", __name__)

LINES = 200
MAX_LINES = 1_000
MOST_RIGHTS = 1_000  # of a token
MAKE = Body(
    Record(
        {
            "rights": (
                ListOf(Text(pattern=PATTERN, what="right"), MOST_RIGHTS),
                "Like read:reports/, launch:tests/* or metrics.",
            ),
            "for": (OrNull(token_changes.DAYS), "How long it is good, like 90d; without it as long as one's own."),
        },
        ["rights"],
    ),
    '{"rights": ["read:reports/", "metrics"], "for": "90d"}, the second of them or not,',
)
ROWS = Parameter("limit", Integer(MAX_LINES), "Most lines.", LINES)


@blueprint.get("/admin/tokens")
def listed() -> Response:
    """Names, rights and last days; never a token or its digest."""
    name = context().settings.security.tokens
    if not name:
        return ok({"file": None, "writable": False, "tokens": [], "problems": []})
    with _told():
        found, wrong = tokens.read(Path(name))
    today = datetime.datetime.now(datetime.UTC).date()
    rows = [
        {
            "name": token.name,
            "rights": [str(right) for right in token.rights.all],
            "until": token.until.isoformat() if token.until else None,
            "over": token.until is not None and token.until < today,
        }
        for token in found
    ]
    return ok({"file": name, "writable": os.access(name, os.W_OK), "tokens": rows, "problems": wrong})


@blueprint.post("/admin/tokens/<name>")
def make(name: str) -> Response:
    """Make a token with rights and an end that who asks has himself. The response has it, this once."""
    path = _file()
    body = MAKE.read(request.get_data())
    days = body.get("for")
    with _told():
        own = _own(path)
        asked, last = token_changes.parse_rights(body["rights"]), token_changes.until(days)
        token_changes.require_within(asked, own.rights)
        if own.until is not None and (last is None or last > own.until):
            last = own.until
        text = token_changes.add(path, name, asked, last, Path(context().settings.server.dir))
    log.info("token made", token=name, by=own.name, until=last or "for ever")
    until = last.isoformat() if last else None
    said = f"token {name} made, good {f'until {until}' if until else 'for ever'}; it is shown this once"
    return ok({"token": text, "until": until}, said, 201)


@blueprint.delete("/admin/tokens/<name>")
def revoke(name: str) -> Response:
    """Revoke a token."""
    path = _file()
    with _told():
        token_changes.revoke(path, name)
    log.info("token revoked", token=name, by=request.environ.get(gate.NAME, ""))
    return ok({"name": name}, f"token {name} revoked")


@blueprint.get("/admin/audit")
def audited() -> Response:
    """The last lines of the audit log, the newest first."""
    limit = ROWS.read(request.args)
    return ok(audit.newest(Path(context().settings.server.dir), limit))


def _file() -> Path:
    name = context().settings.security.tokens
    if not name:
        raise Conflict(
            "this master has no file of tokens; set [security] tokens, and make the first one by manage.py token"
        )
    return Path(name)


def _own(path: Path) -> Token:
    """The token of this request. Raises `Forbidden` for that of a run, which what it makes would outlive."""
    if gate.is_lent(request.environ):
        raise Forbidden("a run or an extension makes no tokens; use a token of your own")
    name = request.environ.get(gate.NAME)
    found = next((token for token in tokens.read(path)[0] if token.name == name), None)
    if found is None:
        raise Forbidden(f"the token {name} was revoked")
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Errors of tokens as responses."""
    try:
        yield
    except TokenMissing as error:
        raise NotFound(str(error)) from error
    except RightsMissing as error:
        raise Forbidden(str(error)) from error
    except FileProtected as error:
        raise Conflict(
            f"{error}; use ops/manage.py token on the master's machine, or move the file into [server] dir"
        ) from error
    except TokenExists as error:
        raise Conflict(str(error)) from error
    except TokensUnreadable as error:
        raise Unavailable("the tokens can't be read at the moment; the master's log says why") from error
    except TokenError as error:
        raise BadRequest(str(error)) from error
