"""Faults of some HTTP clients, by their User-Agent; docs/clients.md has the table, tests/clients tries it."""

from __future__ import annotations

from broker.http.environ import Environ

# When redirected while they send a stream, they send other bytes of the right length: seen of axios 1.21.1, got 14.6.6.
_SEND_ONCE = ("axios/", "got ")
# It waits for ever for a response with a body when no "100 Continue" came before: seen of Java 17.
_WANT_CONTINUE = "Java-http-client/"


def sends_once(environ: Environ) -> bool:
    """Whether a client may send wrong bytes when it is redirected while it sends."""
    return environ.get("HTTP_USER_AGENT", "").startswith(_SEND_ONCE)


def wants_continue(environ: Environ) -> bool:
    """Whether a client that sent `Expect: 100-continue` must get 100 before any response."""
    return environ.get("HTTP_USER_AGENT", "").startswith(_WANT_CONTINUE)
