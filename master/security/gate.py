"""Decides for each request, before its handler runs, whether its client may make it.

With a file of tokens a client needs one with the right that the route asks for. Without one, clients on this machine
and in the networks of `[security] trust` may do everything, and nobody else may do anything.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from broker import keys
from broker.errors import BadSignature
from broker.http import signing
from broker.http.environ import Environ
from broker.refusals import Forbidden, NotFound, Unauthorized, Unavailable
from broker.server.networks import Networks
from master.security.rights import ALL_RIGHTS, Right
from master.security.routes import Routes
from master.security.sessions import Sessions
from master.security.tokens import CHECK_SECS, Token, TokenFile, TokensUnreadable, of_queue

# In the environment of a request, for its handler and the audit log.
NAME = "pulzar.name"  # of the token that the request was made with
LINK_END = "pulzar.end"  # when the link ends that the request was made with, in seconds since the epoch
LAUNCHES = "pulzar.launches"  # the rights to launch of such a token, with blanks between them
OWN = "pulzar.own"  # the same, when only what this token has launched may be seen or changed
SESSION = "pulzar.session"  # the same, when a cookie stood for the token
RIGHTS = "pulzar.rights"  # of that token, as in the file of tokens; for paths of the web page alone
PAGE = "/ui/"  # how paths of the web page begin; no other takes a cookie
_MOST_REMEMBERED = 1024
_HOW = "send one as Authorization: Bearer pz_…, or as the password of Basic (curl -u NAME:TOKEN)"

# What a signed address says of its request: `NAME`, and `LINK_END` of a link. None for a request that can't be signed.
# Raises `BadSignature`.
Verify = Callable[[Environ], Mapping[str, str] | None]


class Gate:
    """Lets requests in, or refuses them. Used on the event loop of one web worker."""

    def __init__(
        self,
        tokens: TokenFile | None,
        trusted: Networks,
        verify: Verify,
        runs: Callable[[str], str | None],
        sessions: Sessions | None = None,
    ) -> None:
        """`verify` looks at signed addresses, which need no token. `sessions`: those of the web page, if there is one.

        `runs` gives the name of the token that a run or an extension acts for, from its own token; None without such.
        """
        self._tokens = tokens
        self._trusted = trusted
        self._verify = verify
        self._runs = runs
        self._sessions = sessions
        self._routes = Routes()
        self._sent: dict[str, Token] = {}  # good tokens, by the Authorization header that they came in
        self._fresh = 0.0  # until then, in seconds of the monotonic clock, these are as the file says
        self._changes = 0

    def admit(self, environ: dict[str, str]) -> None:
        """Raises `Unauthorized`, `Forbidden`, `Unavailable`, `NotFound`, or `InvalidKey`, unless it may be handled."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if self._has_key_right(environ, path, method):
            return
        found = self._routes.find(method, path)
        need = None if found is None else found.row.need
        if found is not None and (need is None or self._signed(environ)):
            return
        if self._tokens is None:
            self._trusted.require(environ["REMOTE_ADDR"])
            token = None
        else:
            token = self._token(environ, self._tokens)
            environ[NAME] = token.name
            if "HTTP_AUTHORIZATION" not in environ:
                environ[SESSION] = token.name
        if path.startswith(PAGE):
            environ[RIGHTS] = ALL_RIGHTS if token is None else " ".join(map(str, token.rights.all))
        if found is None:
            if self._routes.knows(path):
                return  # the router says which methods there are
            raise NotFound(f"no such path: {path}; see /openapi.json for those there are")
        if token is None or need is None:
            return
        for asked in need(environ, found.prefix):
            if token.rights.allow(asked):
                continue
            launches = [str(right) for right in token.rights.all if right.kind == "launch"]
            if not found.row.own or (found.row.lists and not launches):
                raise _lacks(token.name, asked)
            environ[OWN] = token.name
            environ[LAUNCHES] = " ".join(launches)

    def _has_key_right(self, environ: dict[str, str], path: str, method: str) -> bool:
        """Whether a token that was looked at lately has the right for the key of a hot route.

        True says what the rest of `admit` would say, in a third of the time. False says nothing.
        """
        token = self._sent.get(environ.get("HTTP_AUTHORIZATION", ""))
        if token is None or time.monotonic() >= self._fresh:
            return False
        prefix = path[: path.find("/", 1) + 1]
        kind = self._routes.kinds.get((method, prefix))
        # Of a key that is good, `keys.check` changes no more than `keys.beginning` does.
        if kind is None or not token.rights.on_key(kind, keys.beginning(path[len(prefix) :])):
            return False
        environ[NAME] = token.name
        return True

    def _signed(self, environ: dict[str, str]) -> bool:
        """Whether the address itself says that this request may be made. Raises `BadSignature` when nothing else does.

        Who has a token, or is trusted, may send a parameter of that name for another reason.
        """
        if "signature=" not in environ["QUERY_STRING"]:
            return False
        try:
            if self._tokens is not None:
                self._tokens.look()
            said = self._verify(environ)
        except TokensUnreadable as error:
            raise _unreadable() from error
        except BadSignature:
            if "HTTP_AUTHORIZATION" in environ or self._tokens is None:
                return False
            raise
        environ.update(said or {})
        return said is not None

    @property
    def asks_for_tokens(self) -> bool:
        """Whether clients need tokens; otherwise their address decides."""
        return self._tokens is not None

    def session(self, text: str) -> str:
        """The cookie of a new session for who has this token. Raises `Unauthorized` or `Unavailable`."""
        if self._tokens is None or self._sessions is None:
            raise Unauthorized("this cluster asks for no tokens, so there is nothing to log in to")
        if text.startswith(signing.RUN):
            raise Unauthorized("this is the token of a run, which ends with it; a session needs a token of your own")
        token = self._token({"HTTP_AUTHORIZATION": f"Bearer {text}"}, self._tokens)
        return self._sessions.make(token, time.time())

    def require(self, environ: Environ, asked: Right) -> float:
        """Raises `Forbidden` when a request that was admitted lacks a right that its body asks for besides.

        Returns when its token ends, in seconds since the epoch.
        """
        if self._tokens is None:
            return float("inf")
        token = self._token(environ, self._tokens)
        if not token.rights.allow(asked):
            raise _lacks(token.name, asked)
        return token.ends

    def caller(self, environ: Environ) -> Token | None:
        """The token of a request that was admitted; None where none is needed."""
        return None if self._tokens is None else self._token(environ, self._tokens)

    def _token(self, environ: Environ, tokens: TokenFile) -> Token:
        """The token that a request was sent with. Raises `Unauthorized` or `Unavailable`."""
        try:
            tokens.look()
        except TokensUnreadable as error:
            raise _unreadable() from error
        if tokens.changes != self._changes or len(self._sent) > _MOST_REMEMBERED:
            self._sent.clear()
            self._changes = tokens.changes
        header = environ.get("HTTP_AUTHORIZATION")
        if header is None and (found := self._of_session(environ, tokens)):
            return found
        if header is None:
            raise Unauthorized(f"no token was received; {_HOW}")
        token = self._sent.get(header)
        of_run = False
        if token is None:
            text = _sent_token(header)
            if of_run := text.startswith((signing.RUN, signing.CALLER)):
                token = tokens.named(self._runs(text) or "")
            else:
                token = tokens.find(text)
        if token is None:
            raise Unauthorized(f"the token that was received is not known, or was revoked; {_HOW}")
        left = token.ends - time.time()
        if left <= 0:
            raise Unauthorized(f"the token {token.name} was good until {token.until}; ask for a new one")
        self._fresh = tokens.next_look
        if left > 2 * CHECK_SECS and not of_run:
            self._sent[header] = token
        else:
            self._sent.pop(header, None)
        return token

    def _of_session(self, environ: Environ, tokens: TokenFile) -> Token | None:
        """The token that the cookie of the web page stands for; None when there is none that is good."""
        if self._sessions is None or not (environ["PATH_INFO"].startswith(PAGE) or SESSION in environ):
            return None
        return self._sessions.token(self._sessions.sent(environ), tokens.named, time.time())


def _unreadable() -> Unavailable:
    return Unavailable("the tokens can't be read at the moment; the master's log says why")


def _lacks(name: str, asked: Right) -> Forbidden:
    return Forbidden(f"the token {name} lacks the right {asked}; nothing was done")


def _sent_token(header: str) -> str:
    """The token in an Authorization header. Raises `Unauthorized`."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthorized(f"the Basic Authorization that was received is no base64; {_HOW}") from None
    raise Unauthorized(f"Authorization {scheme[:20]!r} was received; {_HOW}")


def is_lent(environ: Environ) -> bool:
    """Whether a request that was admitted has the token of a run or an extension, which acts for who started it."""
    header = environ.get("HTTP_AUTHORIZATION")
    return header is not None and _sent_token(header).startswith((signing.RUN, signing.CALLER))


def open_tokens(path: str, queue: str = "") -> TokenFile | None:
    """The file of tokens that the setting names; None for "". It is read when it is first looked at.

    `queue` is `[security] queue`. Raises `SettingsError` when that has a mistake.
    """
    of_queue(queue)
    return TokenFile(Path(path), queue) if path else None
