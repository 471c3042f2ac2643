"""The Flask application: every route but the hot ones of the keys, which `master.web.application` puts in front."""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from broker import logs
from broker.http import responses
from broker.refusals import response_to
from broker.settings import Settings
from jobs.errors import BadSecrets
from jobs.secret_file import SecretFile
from master.web.flask_routes.context import UNEXPECTED, Context, ko

log = logs.get(__name__)


def _secrets(settings: Settings) -> SecretFile:
    """The secrets that are masked in the arguments shown: those of this machine, if nodes have the same file here."""
    try:
        return SecretFile(settings.jobs.secrets)
    except BadSecrets as error:
        log.warning("arguments of jobs are shown as they are", reason=error)
        return SecretFile("")


def create_app(parts: Context) -> Flask:
    """The application with all its blueprints."""
    from master.web.flask_routes import admin, job_admin, key_list

    app = Flask("master", static_folder=None)
    app.url_map.merge_slashes = False  # a redirect to the path that may be meant is no answer in the envelope
    app.extensions["pulzar"] = parts
    app.extensions[job_admin.EXTENSION] = job_admin.JobParts(parts.ledger, parts.kept.read, _secrets(parts.settings))
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.register_blueprint(key_list.blueprint)
    app.register_blueprint(admin.blueprint)
    app.register_blueprint(job_admin.blueprint)
    app.register_error_handler(Exception, _failed)
    origin = parts.settings.server.cors

    @app.after_request
    def allow_origin(response: Response) -> Response:
        response.headers.extend(responses.cors_headers(origin))
        return response

    return app


def _failed(error: Exception) -> Response:
    """The answer to a request that was not done."""
    if isinstance(error, HTTPException):
        return _http_failed(error)
    known = response_to(error)
    if known is None:
        log.exception("request failed", method=request.method, path=request.path)
        return ko(500, UNEXPECTED)
    response = ko(known.status, str(known))
    response.headers.extend(known.headers)
    return response


def _http_failed(error: HTTPException) -> Response:
    code = error.code or 500
    messages = {
        404: f"no such path: {request.path}; see /openapi.json for those there are",
        405: f"{request.method} is not possible on {request.path}",
    }
    response = ko(code, messages.get(code, error.description or error.name))
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    if code == 405 and getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(error.valid_methods)  # type: ignore[attr-defined]
    return response
