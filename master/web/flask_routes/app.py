"""The Flask application: all routes of the master but the hot ones, which `master.web.application` handles."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from broker import logs
from broker.http import responses
from broker.refusals import MethodNotAllowed, NotFound, Refused
from broker.settings import Settings
from jobs.errors import BadSecrets
from jobs.secret_file import SecretFile
from master.jobs.routing import loads
from master.web.flask_routes import (
    admin,
    context,
    contract,
    dead,
    job_admin,
    job_history,
    metrics,
    schedule_preview,
    token_admin,
    verification,
)
from master.web.flask_routes.context import Context

log = logs.get(__name__)


def create_app(parts: Context) -> Flask:
    """The application with all its blueprints."""
    app = Flask("master", static_folder=None)
    app.url_map.converters["letter"] = dead.LetterId
    app.url_map.merge_slashes = False  # a redirect to a similar path would not be in the envelope
    app.extensions[context.EXTENSION] = parts
    app.extensions[admin.API] = contract.api()
    app.extensions[job_admin.EXTENSION] = job_admin.JobParts(
        parts.ledger,
        parts.job_files.read,
        parts.secrets,
        loads=lambda: loads(parts.network.describe()),
        data_wait=parts.settings.jobs.data_wait,
    )
    for room in (admin, dead, job_admin, job_history, metrics, schedule_preview, token_admin, verification):
        app.register_blueprint(room.blueprint)
    app.register_error_handler(Exception, _failed)
    return app


def flask_routes(app: Flask) -> Iterator[tuple[str, str]]:
    """Methods and paths of the application; HEAD goes where GET does, and OPTIONS nowhere."""
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, rule.rule


def secrets_of(settings: Settings) -> SecretFile:
    """The secrets to mask in arguments: those of this machine, if nodes have the same file here."""
    try:
        return SecretFile(settings.jobs.secrets)
    except BadSecrets as error:
        log.warning("arguments of jobs are shown as they are", reason=error)
        return SecretFile("")


def _failed(error: Exception) -> Response:
    """The response to a request that failed."""
    known = _refused(error) if isinstance(error, HTTPException) else error
    return context.from_response(responses.from_error(known, request.environ, "master"))


def _refused(error: HTTPException) -> Refused:
    """An error of Flask as one of ours."""
    if error.code == 404:
        return NotFound(f"no such path: {request.path}; see /openapi.json for those there are")
    if error.code == 405:
        return MethodNotAllowed(request.method, request.path, sorted(getattr(error, "valid_methods", None) or ()))
    refused = Refused(error.description or error.name)
    refused.status = error.code or 500
    return refused
