"""What some HTTP clients get wrong, by their User-Agent; docs/clients.md has the table, tests/clients tries it."""

from __future__ import annotations

from broker.http.environ import Environ

# They answer a redirect while they send a stream with another mixture of its bytes, of the right length: seen of axios 1.21.1
# and got 14.6.6.
_SEND_ONCE = ("axios/", "got ")
# Waits for ever for an answer that has a body, when no "100 Continue" came before: seen of Java 17.
_WANT_CONTINUE = "Java-http-client/"


def sends_once(environ: Environ) -> bool:
    """Whether a client may store something else when it is sent elsewhere while it sends."""
    return environ.get("HTTP_USER_AGENT", "").startswith(_SEND_ONCE)


def wants_continue(environ: Environ) -> bool:
    """Whether a client that sent `Expect: 100-continue` must get 100 before any answer."""
    return environ.get("HTTP_USER_AGENT", "").startswith(_WANT_CONTINUE)
