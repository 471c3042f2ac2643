"""The document of the API, `/openapi.json`: `openapi.json` beside this file, and what handlers declare of requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from broker.contract import document
from broker.contract.bodies import Body
from broker.contract.document import Operation
from broker.contract.kinds import Choice, Integer, Schema, Text
from broker.contract.parameters import Parameter, header, path
from broker.http import checksums, content_types
from broker.messages.jobs import NAME_PATTERN, SCRIPT_PATTERN
from master.events.audience import AFTER, LAST_ID, OF_TYPES, PREFIX
from master.jobs.model import INTERVALS
from master.security import restic_paths, tokens
from master.web.flask_routes import (
    admin,
    dead,
    job_admin,
    job_history,
    schedule_preview,
    token_admin,
    verification,
)
from master.web.jobs import launch_many, launch_schemas
from master.web.jobs.launch_request import MOST_CRON
from master.web.jobs.routes import ACTIONS, UNIQUE
from master.web.keys import archives, deleted_keys, lifetimes, links, listing, transfers, writes
from master.web.keys.parameters import (
    BELOW,
    CHANGE_CONDITIONS,
    KEY,
    OVERWRITE,
    TEMPORAL,
    TTL,
    UPLOAD,
    VISIBLE,
    WAIT,
)
from master.web.restic import repositories

_FILE = Path(__file__).with_name("openapi.json")

_HEADER = Text(pattern=VISIBLE)
_READ = (
    KEY,
    header("Range", _HEADER, "bytes=0-99, several, or -100 for the last 100."),
    header(
        "If-Range",
        _HEADER,
        "The range only when this ETag or date still holds; a date only from the second after the value's on.",
    ),
    header("If-None-Match", _HEADER, "304 when the value has one of these ETags."),
    header("If-Modified-Since", _HEADER, "304 when the value is not newer."),
    header("If-Match", _HEADER, "412 unless the value has one of these ETags."),
    header("If-Unmodified-Since", _HEADER, "412 when the value is newer."),
)
_SENT = (
    header("Content-MD5", Text(pattern=checksums.MD5), "MD5 of the body in base64; 400 when it differs."),
    header(
        "X-Checksum-Sha256",
        Text(pattern=checksums.SHA256),
        "SHA-256 of the body in hexadecimal; 400 when it differs.",
    ),
    header(
        "Content-Encoding",
        Text(content_types.MAX_ENCODING, "[0-9A-Za-z]+(?:-[0-9A-Za-z]+)*(?:, ?[0-9A-Za-z]+(?:-[0-9A-Za-z]+)*)*"),
        "Kept as Content-Type is: names of encodings. aws-chunked is refused with 400.",
    ),
    header("Content-Range", Text(pattern="bytes 0-[0-9]{1,19}/[0-9]{1,19}"), "400 unless it is the whole value."),
)
_TRANSFER = (KEY, transfers.TO, OVERWRITE, TEMPORAL, TTL, *CHANGE_CONDITIONS)
_LIST = (*listing.PARAMETERS, deleted_keys.DELETED)
_ARCHIVE = (BELOW, archives.FORMAT)
_PAGE = (job_admin.ROWS, job_admin.BEFORE)
_NUMBER = path("number", Integer(), "Id of the job, or of the schedule.", 0)
_EXECUTIONS = (_NUMBER, *_PAGE)
_NODE = path("node_id", Text(), "Name of the node.", "")
_FOLDER = path("folder", Text(pattern=NAME_PATTERN), "Folder of the script.", "")
_SCRIPT = path("script", Text(pattern=SCRIPT_PATTERN), "Name of the script; .py at its end is dropped.", "")
_EXTENSION = (
    path("app_id", Text(pattern="[a-z][a-z0-9_]{0,63}"), "Name of the extension.", ""),
    path("arguments", Text(), "Arguments, any number of them with slashes between them, or none.", ""),
)
_REPOSITORY = path(
    "repository",
    Text(restic_paths.MOST, restic_paths.REPOSITORY),
    "Its name: letters, digits and ._@-; or up to four of them with slashes.",
    "",
)
_FILES = (_REPOSITORY, path("type", Choice(*restic_paths.KINDS), "The kind of file.", ""))
_RESTIC_FILE = (
    *_FILES,
    path("name", Text(pattern=restic_paths.NAME), "The SHA-256 of the file, in hexadecimal.", ""),
)
_TOKEN = path("name", Text(pattern=tokens.NAME), "Of the token: letters, digits, . _ and -, up to 63.", "")
_TIMING = "As in `scheduled` of a launch."
_PREVIEW = (
    Parameter("interval", Choice(*INTERVALS), _TIMING, ""),
    Parameter("time_unit", Integer(), _TIMING, 0),
    Parameter("repeat", Integer(1, 0), _TIMING, 0),
    Parameter("cron", Text(MOST_CRON), "Five fields of cron, instead of interval and time_unit.", ""),
    Parameter("zone", Text(), "The time zone of cron's fields; UTC unless given.", ""),
    schedule_preview.COUNT,
)
_VERIFY = (verification.NODE, verification.AFTER, verification.ROWS, verification.READ, verification.FILES)
_IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    Text(launch_many.MAX_KEY, VISIBLE),
    f"Of up to {launch_many.MAX_KEY} characters. The same request with the same key launches no job twice: each is "
    "answered with the id that it has. Jobs with a unique token of their own keep that.",
)

PARAMETERS: Mapping[Operation, tuple[Parameter[Any], ...]] = {
    ("PUT", "/add_key/{key}"): (KEY, *UPLOAD, *_SENT),
    ("HEAD", "/add_key/{key}"): _READ,
    ("GET", "/get_key/{key}"): (*_READ, WAIT),
    ("HEAD", "/get_key/{key}"): (*_READ, WAIT),
    ("GET", "/get_node/{key}"): (KEY, *UPLOAD),
    ("PUT", "/get_node/{key}"): (KEY, *UPLOAD, *_SENT),
    ("DELETE", "/delete_key/{key}"): (KEY, *CHANGE_CONDITIONS, writes.PURGE),
    ("POST", "/copy/{key}"): _TRANSFER,
    ("POST", "/move/{key}"): _TRANSFER,
    ("POST", "/undelete/{key}"): (KEY, deleted_keys.VERSION, OVERWRITE, *CHANGE_CONDITIONS),
    ("POST", "/lifetime/{key}"): (KEY, lifetimes.TTL, TEMPORAL, *CHANGE_CONDITIONS),
    ("GET", "/keys"): _LIST,
    ("HEAD", "/keys"): _LIST,
    ("POST", "/sign"): (),
    ("GET", "/events"): (PREFIX, OF_TYPES, AFTER, LAST_ID),
    ("GET", "/stats"): (),
    ("HEAD", "/stats"): (),
    ("GET", "/stats/{prefix}"): (BELOW,),
    ("HEAD", "/stats/{prefix}"): (BELOW,),
    ("GET", "/archive/{prefix}"): _ARCHIVE,
    ("HEAD", "/archive/{prefix}"): _ARCHIVE,
    ("GET", "/admin/status"): (),
    ("GET", "/admin/network"): (),
    ("GET", "/admin/network/{node_id}"): (_NODE, admin.ENTRIES),
    ("DELETE", "/admin/network/{node_id}"): (_NODE, admin.KEYS),
    ("POST", "/admin/network/{node_id}/drain"): (_NODE,),
    ("DELETE", "/admin/network/{node_id}/drain"): (_NODE,),
    ("GET", "/admin/backup"): (),
    ("POST", "/admin/backup"): (),
    ("GET", "/admin/dead"): (dead.ROWS, dead.AFTER),
    ("GET", "/admin/dead/{letter_id}"): (path("letter_id", Text(), "Id of the message.", ""),),
    ("POST", "/admin/dead/send"): (),
    ("POST", "/admin/dead/drop"): (),
    ("GET", "/metrics"): (),
    ("GET", "/metrics/{node_id}"): (_NODE,),
    ("GET", "/health"): (admin.LIVE, admin.READY),
    ("GET", "/openapi.json"): (),
    ("GET", "/internal/restore"): (),
    ("POST", "/internal/restore"): (),
    ("GET", "/internal/verify"): _VERIFY,
    ("POST", "/internal/commit/{key}"): (KEY,),
    ("POST", "/launch_job/{folder}/{script}"): (_FOLDER, _SCRIPT),
    ("POST", "/launch_jobs"): (_IDEMPOTENCY_KEY,),
    ("POST", "/cancel_job/{job_id}"): (path("job_id", Integer(), "Id of the job, or of the schedule.", 0),),
    ("GET", "/admin/jobs"): (*_PAGE, job_admin.LIST),
    ("GET", "/admin/jobs/{number}"): (_NUMBER,),
    ("GET", "/admin/all_jobs"): _PAGE,
    ("GET", "/admin/job_history"): (
        job_history.STATE,
        *job_history.COUNTED,
        job_history.TEXT,
        job_history.CURSOR,
        job_admin.ROWS,
    ),
    ("GET", "/admin/job_counts"): job_history.COUNTED,
    ("GET", "/admin/script_runs/{folder}/{script}"): (_FOLDER, _SCRIPT, job_history.LAST),
    ("GET", "/schedule_preview"): _PREVIEW,
    ("POST", "/scheduled_jobs/{number}/{action}"): (
        _NUMBER,
        path("action", Choice(*ACTIONS), "What to do.", ""),
        UNIQUE,
    ),
    ("GET", "/admin/scheduled_jobs"): _PAGE,
    ("GET", "/admin/scheduled_jobs/{number}"): _EXECUTIONS,
    ("GET", "/admin/scheduled_jobs/ok"): _PAGE,
    ("GET", "/admin/scheduled_jobs/ok/{number}"): _EXECUTIONS,
    ("GET", "/admin/scheduled_jobs/failed"): _PAGE,
    ("GET", "/admin/scheduled_jobs/failed/{number}"): _EXECUTIONS,
    ("GET", "/admin/job_catalog"): (),
    ("GET", "/extension/{app_id}/{arguments}"): _EXTENSION,
    ("PUT", "/extension/{app_id}/{arguments}"): _EXTENSION,
    ("POST", "/restic/{repository}/"): (_REPOSITORY, repositories.CREATE),
    ("HEAD", "/restic/{repository}/config"): (_REPOSITORY,),
    ("GET", "/restic/{repository}/config"): (_REPOSITORY,),
    ("POST", "/restic/{repository}/config"): (_REPOSITORY,),
    ("DELETE", "/restic/{repository}/config"): (_REPOSITORY,),
    ("GET", "/restic/{repository}/{type}/"): _FILES,
    ("HEAD", "/restic/{repository}/{type}/{name}"): _RESTIC_FILE,
    ("GET", "/restic/{repository}/{type}/{name}"): _RESTIC_FILE,
    ("POST", "/restic/{repository}/{type}/{name}"): _RESTIC_FILE,
    ("DELETE", "/restic/{repository}/{type}/{name}"): _RESTIC_FILE,
    ("GET", "/admin/tokens"): (),
    ("POST", "/admin/tokens/{name}"): (_TOKEN,),
    ("DELETE", "/admin/tokens/{name}"): (_TOKEN,),
    ("GET", "/admin/audit"): (token_admin.ROWS,),
}


BODIES: Mapping[Operation, Body[Any]] = {
    ("POST", "/sign"): links.BODY,
    ("POST", "/admin/backup"): admin.BACK_UP,
    ("POST", "/admin/dead/send"): dead.SEND,
    ("POST", "/admin/dead/drop"): dead.DROP,
    ("POST", "/internal/restore"): admin.RESTORE,
    ("POST", "/admin/tokens/{name}"): token_admin.MAKE,
}


@cache
def api() -> Schema:
    """The document, as it is for every master."""
    written = json.loads(_FILE.read_text(encoding="utf-8"))
    written["components"]["schemas"] |= launch_schemas.SCHEMAS
    return document.complete(written, PARAMETERS, BODIES)
