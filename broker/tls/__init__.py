"""TLS: which certificates clients trust, and those of servers."""

from broker.tls.clients import connection, open_streams, trust

__all__ = ["connection", "open_streams", "trust"]
