"""TLS: which certificates clients trust, and those of servers."""

from broker.tls.clients import connection, get, open_streams, trust

__all__ = ["connection", "get", "open_streams", "trust"]
