"""One request of a browser: who it is, what he may do, and how addresses of the page are written.

All addresses are relative to the one that is shown. So the page works below any path of a proxy without a setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.http.environ import Environ
from broker.refusals import Forbidden
from master.security import rights
from master.security.gate import NAME, PAGE, RIGHTS
from master.security.rights import Right, Rights
from master.security.sessions import Sessions

FORM_FIELD, FORM_HEADER = "csrf", "HTTP_X_CSRF_TOKEN"
# The root of the page that a part is put into: its own path may be deeper.
ROOT_HEADER = "HTTP_X_ROOT"
_ROOTS = re.compile(r"\./|(?:\.\./){1,6}")


@dataclass(frozen=True)
class Visit:
    """Who makes a request, and from which page."""

    environ: Environ
    name: str  # of the token; "" without one
    rights: Rights
    root: str  # leads from the page to that of `PAGE`: "./" or "../…"
    csrf: str
    logged_in: bool
    fragment: bool  # htmx asks for a part of a page

    @classmethod
    def of(cls, environ: Environ, sessions: Sessions) -> Visit:
        """The visit that a request is."""
        return cls(
            environ,
            environ.get(NAME, ""),
            rights.parse(environ.get(RIGHTS, "")),
            _root(environ["PATH_INFO"], environ.get(ROOT_HEADER, "")),
            sessions.form_text(environ),
            RIGHTS in environ,
            "HTTP_HX_REQUEST" in environ,
        )

    def may(self, kind: str, name: str = "") -> bool:
        """Whether the visitor has a right."""
        return self.rights.allow(Right(kind, name))

    def require(self, kind: str, name: str = "") -> None:
        """Raises `Forbidden` without the right."""
        if not self.may(kind, name):
            raise Forbidden(f"the token {self.name} lacks the right {Right(kind, name)}; nothing was done")

    def may_some(self, kind: str) -> bool:
        """Whether the visitor has a right of this kind, for whatever keys or names."""
        return any(right.kind == kind for right in self.rights.all) or self.may(kind)


def served_by_tls(environ: Environ) -> bool:
    """Whether the request came by HTTPS, so that cookies must never leave by anything else."""
    return environ.get("wsgi.url_scheme") == "https"


def is_form_text(environ: Environ, sessions: Sessions, sent: str | None) -> bool:
    """Whether a request has what a form of this client carries, as a field or as a header."""
    return sessions.is_form_text(environ, sent or environ.get(FORM_HEADER, ""))


def local(target: str) -> str:
    """An address to go on to after a form, below the web page's root; "" when it leads elsewhere."""
    parts = urlsplit(target)
    if (
        parts.scheme
        or parts.netloc
        or target.startswith(("/", "\\", "."))
        or "\\" in target
        or not target.isprintable()
    ):
        return ""
    return target


def _root(path: str, given: str = "") -> str:
    """From a page at `path` to the root: a browser resolves it against the address that it shows.

    `given`: the root of that page, as a request for a part of it says.
    """
    if _ROOTS.fullmatch(given):
        return given
    if not path.startswith(PAGE):
        return "ui/"
    return "../" * path.removeprefix(PAGE).count("/") or "./"
