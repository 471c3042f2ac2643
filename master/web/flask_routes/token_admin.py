"""`/admin/tokens` and `/admin/audit`: tokens are listed, made and revoked; what was done with them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Blueprint, Response, request

from broker import logs
from broker.refusals import BadRequest, Conflict, Forbidden, NotFound, Unavailable
from master.security import audit, gate, token_changes, tokens
from master.security.token_changes import FileProtected, RightsMissing, TokenError, TokenExists, TokenMissing
from master.security.tokens import Token, TokensUnreadable
from master.web.flask_routes.context import context, ok
from master.web.keys import parameters

log = logs.get(__name__)

blueprint = Blueprint("tokens", __name__)

LINES = 200
MAX_LINES = 1_000


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
    body: object = request.get_json(force=True, silent=True)
    if not isinstance(body, dict) or set(body) - {"rights", "for"} or not isinstance(body.get("rights"), list):
        raise BadRequest(
            'give {"rights": ["read:reports/", "metrics"], "for": "90d"}, the second of them or not, as JSON'
        )
    days = body.get("for")
    if not all(isinstance(right, str) for right in body["rights"]) or not isinstance(days, str | None):
        raise BadRequest("rights are texts like read:reports/, and for is a text like 90d")
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
    limit = parameters.integer("limit", request.args.get("limit"), LINES, MAX_LINES)
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
