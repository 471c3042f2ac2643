"""Sessions of the web page: a cookie stands for the token that somebody has typed in.

A cookie is `NAME.UNTIL.SIGNATURE`. The signature covers the digest of the token as the file of tokens has it, so the
cookie ends with its token: when that is revoked, replaced or expired. No web worker remembers anything. Forms carry a
second text, which no other site can know (CSRF).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from broker.http.environ import Environ
from broker.http.signing import Secrets
from master.security.tokens import Token

SESSION_SECS = 12 * 3600
_HEX_DIGITS = 32  # 128 bits of the HMAC


class Sessions:
    """Makes and checks cookies and the texts in forms. It has no state, so any thread may use it."""

    def __init__(self, secrets: Secrets, address: str) -> None:
        """`address` of the master: two on one machine, at two ports, have their own cookies."""
        self._secrets = secrets
        self.cookie = f"pulzar_{_digest(secrets[0], 'cookie', address)[:8]}"

    def make(self, token: Token, now: float) -> str:
        """The value of a new cookie."""
        until = str(int(min(now + SESSION_SECS, token.ends)))
        return f"{token.name}.{until}.{_session(self._secrets[0], token, until)}"

    def sent(self, environ: Environ) -> str:
        """The value of the cookie of a request; "" when there is none."""
        for pair in environ.get("HTTP_COOKIE", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.cookie:
                return value
        return ""

    def token(self, cookie: str, named: Callable[[str], Token | None], now: float) -> Token | None:
        """The token that a cookie stands for; None when it is too old, changed, or its token is not good any more.

        `named` finds a token by its name.
        """
        rest, _, signature = cookie.rpartition(".")
        name, _, until = rest.rpartition(".")
        token = named(name)
        if token is None or not until.isdecimal() or len(until) > 12 or int(until) <= now or token.ends <= now:
            return None
        if any(_same(_session(secret, token, until), signature) for secret in self._secrets):
            return token
        return None

    def form_text(self, environ: Environ) -> str:
        """What forms of this client must carry: of its session, or of its address where there are no tokens."""
        return _digest(self._secrets[0], "form", self._client(environ))

    def is_form_text(self, environ: Environ, text: str) -> bool:
        """Whether a form that this client was given carried this."""
        client = self._client(environ)
        return any(_same(_digest(secret, "form", client), text) for secret in self._secrets)

    def sign(self, message: str) -> str:
        """A signature of what is said on the next page, in whose address it stands."""
        return _digest(self._secrets[0], "said", message)

    def is_signed(self, message: str, signature: str) -> bool:
        """Whether this cluster has signed what is to be said."""
        return any(_same(_digest(secret, "said", message), signature) for secret in self._secrets)

    def _client(self, environ: Environ) -> str:
        # The web server writes `address:port`, Flask's bridge the address alone.
        return self.sent(environ) or environ.get("HTTP_AUTHORIZATION") or address_of(environ)


def address_of(environ: Environ) -> str:
    """The client's address without its port."""
    address = environ["REMOTE_ADDR"]
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _session(secret: bytes, token: Token, until: str) -> str:
    return _digest(secret, "session", token.name, token.digest, until)


def _digest(secret: bytes, *parts: str) -> str:
    text = "\0".join(("web page", *parts))
    return hmac.digest(secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:_HEX_DIGITS]


def _same(made: str, received: str) -> bool:
    return hmac.compare_digest(made.encode(), received.encode("utf-8", "surrogatepass"))
