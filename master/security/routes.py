"""The one table of routes: which right each needs. A route without a row does not start.

`{key}` and the like stand for a part of the path; the last part of a route may have slashes. A path without a row is
answered with 404, and no handler sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs

from broker import keys
from broker.errors import PulzarError
from broker.http import request_fields
from broker.http.environ import Environ
from master.security import restic_paths
from master.security.rights import ADMIN, ON_KEYS, PARTS, Right

Asked = tuple[Right, ...]
Need = Callable[[Environ, str], Asked]
_SEARCH = "search"


class NoRow(PulzarError):
    """Raised when a route has no row in the table."""


class Row(NamedTuple):
    """What a route needs. `need` gets the request and the beginning of the route before its first part."""

    need: Need | None  # None: nothing, or the handler looks itself
    kind: str = ""  # the kind of right, when `need` is that for the key in the path alone
    own: bool = False  # nobody needs a right for what he has launched himself; the handler looks at that
    lists: bool = False  # with `own`: the handler lists what belongs to who may launch something


def _key(kind: str) -> Need:
    def need(environ: Environ, prefix: str) -> Asked:
        return (Right(kind, request_fields.key_of(environ, prefix)),)

    return need


def _part(kind: str) -> Need:
    asked = (Right(kind),)

    def need(_environ: Environ, _prefix: str) -> Asked:
        return asked

    return need


def _listing(environ: Environ, _prefix: str) -> Asked:
    """All keys with the prefix."""
    return _whole_prefixes(environ["QUERY_STRING"])


def _whole_prefixes(query: str) -> Asked:
    """For listings: the right for the whole prefix that is asked for; each of several counts."""
    given = parse_qs(
        query,
        keep_blank_values=True,
    ).get("prefix", [""])
    return tuple(Right("read", keys.beginning(prefix)) for prefix in given)


def _events(environ: Environ, _prefix: str) -> Asked:
    """For a prefix, as a list of its keys. Without one: each event comes to who may know of it, so nothing."""
    return _whole_prefixes(environ["QUERY_STRING"]) if "prefix=" in environ["QUERY_STRING"] else ()


def _nothing(_environ: Environ, _prefix: str) -> Asked:
    """A token, whatever its rights."""
    return ()


def _asked_key(kind: str) -> Need:
    """For the key in the query; each of several counts."""

    def need(environ: Environ, _prefix: str) -> Asked:
        given = parse_qs(environ["QUERY_STRING"], keep_blank_values=True).get("key", [""])
        return tuple(Right(kind, keys.beginning(key)) for key in given)

    return need


def _below(environ: Environ, prefix: str) -> Asked:
    """All keys with the prefix in the path, which may be none."""
    return (Right("read", keys.beginning(environ["PATH_INFO"][len(prefix) :])),)


def _copy(environ: Environ, prefix: str) -> Asked:
    """To read a key, or all with a prefix, and to write where they go; each of several counts."""
    given = parse_qs(environ["QUERY_STRING"], keep_blank_values=True).get("to", [])
    return (*_below(environ, prefix), *(Right("write", keys.beginning(to)) for to in given))


def _move(environ: Environ, prefix: str) -> Asked:
    asked = _copy(environ, prefix)
    return (*asked, Right("delete", asked[0].name))


def _launch(environ: Environ, prefix: str) -> Asked:
    return (Right("launch", environ["PATH_INFO"].removeprefix(prefix).removesuffix(".py")),)


def _extension(environ: Environ, prefix: str) -> Asked:
    name = environ["PATH_INFO"].removeprefix(prefix).partition("/")[0]
    asked = (Right("extension", name),)
    # It goes through all keys with its prefix.
    return asked + _whole_prefixes(environ["QUERY_STRING"]) if name == _SEARCH else asked


def _form_of_extension(environ: Environ, prefix: str) -> Asked:
    """To run it: before its form is received, which may be long."""
    return (Right("extension", environ["PATH_INFO"].removeprefix(prefix)),)


def _restic(environ: Environ, _prefix: str) -> Asked:
    """To read, write or delete a file of a repository. Whoever may write may take his locks away again."""
    place, method = restic_paths.parse(environ["PATH_INFO"]), environ["REQUEST_METHOD"]
    if method == "DELETE" and place.kind != restic_paths.LOCKS:
        return (Right("delete", place.key),)
    return (Right("read" if method in ("GET", "HEAD") else "write", place.key),)


OPEN = Row(None)
_READ, _WRITE, _DELETE = (Row(_key(kind), kind) for kind in ON_KEYS)
_METRICS, _BACKUP, _ADMIN = (Row(_part(kind)) for kind in (*PARTS[1:], ADMIN))
_LISTING, _BELOW = Row(_listing), Row(_below)
_ANY = Row(_nothing)
_RESTIC = Row(_restic)
_OWN_JOBS = Row(_part("jobs"), own=True)
_OWN_LISTS = Row(_part("jobs"), own=True, lists=True)

TABLE: Mapping[tuple[str, str], Row] = {
    ("PUT", "/add_key/{key}"): _WRITE,
    ("HEAD", "/add_key/{key}"): _READ,
    ("GET", "/get_key/{key}"): _READ,
    ("HEAD", "/get_key/{key}"): _READ,
    ("DELETE", "/delete_key/{key}"): _DELETE,
    ("GET", "/get_node/{key}"): _WRITE,
    ("PUT", "/get_node/{key}"): _WRITE,
    ("GET", "/keys"): _LISTING,
    ("HEAD", "/keys"): _LISTING,
    ("GET", "/events"): Row(_events),
    ("GET", "/stats"): _BELOW,
    ("HEAD", "/stats"): _BELOW,
    ("GET", "/stats/{prefix}"): _BELOW,
    ("HEAD", "/stats/{prefix}"): _BELOW,
    ("GET", "/archive/{prefix}"): _BELOW,
    ("HEAD", "/archive/{prefix}"): _BELOW,
    ("POST", "/copy/{key}"): Row(_copy),
    ("POST", "/move/{key}"): Row(_move),
    ("POST", "/undelete/{key}"): _WRITE,
    ("POST", "/lifetime/{key}"): _WRITE,
    ("GET", "/extension/{arguments}"): Row(_extension),
    ("PUT", "/extension/{arguments}"): Row(_extension),
    # Its body says for which key, and the handler asks for the right.
    ("POST", "/sign"): Row(_nothing),
    ("POST", "/launch_job/{script}"): Row(_launch),
    # Its body says which scripts, and the handler asks for the right to each.
    ("POST", "/launch_jobs"): _ANY,
    ("POST", "/cancel_job/{job}"): _OWN_JOBS,
    # To run one now, the handler asks for the right to launch its script, too.
    ("POST", "/scheduled_jobs/{number}/{action}"): _OWN_JOBS,
    ("GET", "/schedule_preview"): _ANY,
    ("GET", "/admin/jobs"): _OWN_LISTS,
    ("GET", "/admin/jobs/{number}"): _OWN_JOBS,
    ("GET", "/admin/all_jobs"): _OWN_LISTS,
    ("GET", "/admin/job_history"): _OWN_LISTS,
    ("GET", "/admin/job_counts"): _OWN_LISTS,
    ("GET", "/admin/script_runs/{folder}/{script}"): _OWN_LISTS,
    ("GET", "/admin/scheduled_jobs"): _OWN_LISTS,
    ("GET", "/admin/scheduled_jobs/{number}"): _OWN_JOBS,
    ("GET", "/admin/scheduled_jobs/ok"): _OWN_LISTS,
    ("GET", "/admin/scheduled_jobs/ok/{number}"): _OWN_JOBS,
    ("GET", "/admin/scheduled_jobs/failed"): _OWN_LISTS,
    ("GET", "/admin/scheduled_jobs/failed/{number}"): _OWN_JOBS,
    ("GET", "/admin/job_catalog"): _OWN_LISTS,
    ("GET", "/metrics"): _METRICS,
    ("GET", "/metrics/{node_id}"): _METRICS,
    ("GET", "/admin/status"): _METRICS,
    ("GET", "/admin/network"): _METRICS,
    ("GET", "/admin/network/{node_id}"): _METRICS,
    ("DELETE", "/admin/network/{node_id}"): _ADMIN,
    ("POST", "/admin/network/{node_id}/drain"): _ADMIN,
    ("DELETE", "/admin/network/{node_id}/drain"): _ADMIN,
    ("GET", "/admin/backup"): _BACKUP,
    ("POST", "/admin/backup"): _BACKUP,
    ("GET", "/admin/dead"): _ADMIN,
    ("GET", "/admin/dead/{letter_id}"): _ADMIN,
    ("POST", "/admin/dead/send"): _ADMIN,
    ("POST", "/admin/dead/drop"): _ADMIN,
    ("GET", "/admin/tokens"): _ADMIN,
    ("POST", "/admin/tokens/{name}"): _ADMIN,
    ("DELETE", "/admin/tokens/{name}"): _ADMIN,
    ("GET", "/admin/audit"): _ADMIN,
    ("GET", "/internal/verify"): _ADMIN,
    ("GET", "/internal/restore"): _ADMIN,
    ("POST", "/internal/restore"): _ADMIN,
    # Its body is signed by a node, and its address by the master.
    ("POST", "/internal/commit/{key}"): OPEN,
    ("POST", "/restic/{repository}/"): _RESTIC,
    ("HEAD", "/restic/{repository}/config"): _RESTIC,
    ("GET", "/restic/{repository}/config"): _RESTIC,
    ("POST", "/restic/{repository}/config"): _RESTIC,
    ("DELETE", "/restic/{repository}/config"): _RESTIC,
    ("GET", "/restic/{repository}/{type}/"): _RESTIC,
    ("HEAD", "/restic/{repository}/{type}/{name}"): _RESTIC,
    ("GET", "/restic/{repository}/{type}/{name}"): _RESTIC,
    ("POST", "/restic/{repository}/{type}/{name}"): _RESTIC,
    ("DELETE", "/restic/{repository}/{type}/{name}"): _RESTIC,
    ("GET", "/health"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    # The web page, see master/web/ui/README.md. A cookie may stand for the token there, and nowhere else.
    ("GET", "/"): OPEN,
    ("GET", "/ui"): OPEN,
    ("GET", "/ui/static/{file}"): OPEN,
    ("GET", "/ui/login"): OPEN,
    ("POST", "/ui/login"): OPEN,
    ("POST", "/ui/logout"): OPEN,
    ("GET", "/ui/"): _METRICS,
    ("GET", "/ui/cluster/now"): _METRICS,
    ("GET", "/ui/nodes/{node}"): _METRICS,
    ("GET", "/ui/nodes/{node}/now"): _METRICS,
    ("POST", "/ui/nodes/{node}/forget"): _ADMIN,
    ("GET", "/ui/dead"): _ADMIN,
    ("GET", "/ui/dead/rows"): _ADMIN,
    ("GET", "/ui/dead/show"): _ADMIN,
    ("GET", "/ui/keys"): _LISTING,
    ("GET", "/ui/keys/rows"): _LISTING,
    ("GET", "/ui/keys/deleted"): _LISTING,
    ("GET", "/ui/jobs"): _OWN_LISTS,
    ("GET", "/ui/jobs/catalog/rows"): _OWN_LISTS,
    ("GET", "/ui/jobs/launch"): _OWN_LISTS,
    ("POST", "/ui/jobs/launch/lines"): _OWN_LISTS,
    ("GET", "/ui/jobs/launch/keys"): _OWN_LISTS,
    ("GET", "/ui/jobs/history"): _OWN_LISTS,
    ("GET", "/ui/jobs/history/numbers"): _OWN_LISTS,
    ("GET", "/ui/jobs/history/rows"): _OWN_LISTS,
    ("GET", "/ui/jobs/history/newest"): _OWN_LISTS,
    ("GET", "/ui/schedules"): _OWN_LISTS,
    ("GET", "/ui/schedules/rows"): _OWN_LISTS,
    ("GET", "/ui/schedules/preview"): _ANY,
    ("GET", "/ui/schedules/{number}"): _OWN_JOBS,
    ("POST", "/ui/schedules/{number}/{action}"): _ANY,
    ("GET", "/ui/jobs/{number}"): _OWN_JOBS,
    ("GET", "/ui/jobs/{number}/now"): _OWN_JOBS,
    ("GET", "/ui/jobs/{number}/log"): _OWN_JOBS,
    ("GET", "/ui/jobs/{number}/log/file"): _OWN_JOBS,
    ("GET", "/ui/jobs/{number}/output"): _OWN_JOBS,
    ("GET", "/ui/jobs/{number}/picture"): _OWN_JOBS,
    ("POST", "/ui/jobs/{number}/cancel"): _OWN_JOBS,
    # What is shown of the job needs the right for it, and launching its own.
    ("POST", "/ui/jobs/{number}/again"): _OWN_JOBS,
    ("GET", "/ui/keys/list"): _LISTING,
    ("GET", "/ui/keys/deleted/rows"): _LISTING,
    ("GET", "/ui/keys/archive"): _LISTING,
    ("GET", "/ui/keys/show"): Row(_asked_key("read")),
    ("GET", "/ui/keys/value"): Row(_asked_key("read")),
    ("HEAD", "/ui/keys/value"): Row(_asked_key("read")),
    ("PUT", "/ui/keys/put"): Row(_asked_key("write")),
    ("POST", "/ui/keys/place"): Row(_asked_key("write")),
    # Its body has the keys, and the handler asks for the right to each.
    ("POST", "/ui/keys/clashes"): _ANY,
    # The rights of what these call decide.
    ("POST", "/ui/jobs/launch"): _OWN_LISTS,
    ("POST", "/ui/dead/send"): _ANY,
    ("POST", "/ui/dead/drop"): _ANY,
    ("POST", "/ui/dead/edit"): _ANY,
    ("POST", "/ui/keys/add"): _ANY,
    ("POST", "/ui/keys/delete"): _ANY,
    ("POST", "/ui/keys/undelete"): _ANY,
    ("POST", "/ui/keys/transfer"): _ANY,
    ("POST", "/ui/keys/lifetime"): _ANY,
    ("GET", "/ui/api"): _ANY,
    ("GET", "/ui/backup"): _BACKUP,
    ("GET", "/ui/backup/now"): _BACKUP,
    ("POST", "/ui/backup/start"): _BACKUP,
    ("GET", "/ui/extensions"): _ANY,
    ("GET", "/ui/verify"): _ADMIN,
    ("POST", "/ui/verify/repair"): _ADMIN,
    ("GET", "/ui/settings"): _ADMIN,
    ("GET", "/ui/tokens"): _ADMIN,
    ("GET", "/ui/tokens/audit"): _ADMIN,
    ("POST", "/ui/tokens/make"): _ADMIN,
    ("POST", "/ui/tokens/revoke"): _ADMIN,
    ("GET", "/ui/extensions/{name}"): _ANY,
    ("POST", "/ui/extensions/{name}"): Row(_form_of_extension),
}


class Found(NamedTuple):
    """The row of a request, and where in the path its own part begins."""

    row: Row
    prefix: str
    path: str  # as in the table


class Routes:
    """Finds the row of a request."""

    def __init__(self, table: Mapping[tuple[str, str], Row] = TABLE) -> None:
        self.kinds = {
            (method, path.removesuffix("{key}")): row.kind
            for (method, path), row in table.items()
            if row.kind and path.count("/") == 2
        }
        self._deep: dict[tuple[str, str], Found] = {}  # all below one segment, by that
        self._plain: dict[tuple[str, str], Found] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Found]] = []
        self._paths: set[str] = set()
        for (method, path), row in table.items():
            prefix = path.partition("{")[0]
            found = Found(row, prefix, path)
            if prefix == path:
                self._plain[method, path] = found
            elif prefix.count("/") == 2:
                self._deep[method, prefix] = found
            else:
                deep = path.endswith("{key}")
                pattern = "[^/]+".join(map(re.escape, re.split(r"\{[^}]*\}", path.removesuffix("{key}"))))
                pattern += ".*" * deep
                self._patterns.append((method, re.compile(pattern, re.DOTALL), found))
        self._methods = {method for method, _ in table}

    def find(self, method: str, path: str) -> Found | None:
        """The row of a request; None when there is none."""
        found = self._deep.get((method, path[: path.find("/", 1) + 1])) or self._plain.get((method, path))
        if found is not None:
            return found
        for of, pattern, found in self._patterns:
            if of == method and pattern.fullmatch(path):
                return found
        # Flask answers HEAD wherever it answers GET.
        return self.find("GET", path) if method == "HEAD" else None

    def knows(self, path: str) -> bool:
        """Whether a path has a row for any method."""
        return any(self.find(method, path) for method in self._methods)


def require_rows(routes: Iterable[tuple[str, str]], table: Mapping[tuple[str, str], Row] = TABLE) -> None:
    """Raises `NoRow` for methods and paths, as a router has them, that the table lacks."""
    known = {(method, shape(path)) for method, path in table}
    if missing := sorted(f"{method} {path}" for method, path in routes if (method, shape(path)) not in known):
        raise NoRow(f"these routes say nowhere which right they need (master/security/routes.py): {', '.join(missing)}")


def shape(path: str) -> str:
    """A path whose parts have no names; one that ends with a slash stands for all paths below it."""
    shape = re.sub(r"\{[^}]*\}|<[^>]*>", "{}", path)
    return f"{shape}{{}}" if shape.endswith("/") else re.sub(r"(/\{\})+$", "/{}", shape)
