"""Structured logs: one line an event, `time level role module event key=value …`, on standard error.

Values that could be secrets are never passed in. Bytes are encoded keys and are shown decoded. Control characters are
escaped, also those from clients, extensions and messages of exceptions.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from broker import keys
from broker.errors import InvalidKey


class Log:
    """A module's log. `log.info("value stored", key=key, version=version)` writes one line."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Log a detail. Off by default, so hot paths may call it."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: object) -> None:
        """Log what an operator wants to know on a good day."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Log that something is wrong and is being handled."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: object) -> None:
        """Log that something is wrong and somebody should look."""
        self._logger.error(event, extra={"fields": fields})

    def exception(self, event: str, **fields: object) -> None:
        """Log as `error`, with the traceback of the current exception on the same line."""
        self._logger.error(event, exc_info=True, extra={"fields": fields})


def get(name: str) -> Log:
    """The log of the module called `name`."""
    return Log(name)


def setup(level: str, role: str) -> None:
    """Send every log of this process to standard error; `role` says which process it is."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # pika tells every step of a connection at INFO; what matters of it is logged by broker.link.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


class _Line(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line for the record."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {self._role} {record.name} {record.getMessage()}"
        for name, value in getattr(record, "fields", {}).items():
            line += f" {name}={_show(value)}"
        if record.exc_info:
            line += f" traceback={json.dumps(self.formatException(record.exc_info))}"
        return _readable(line)


def _show(value: object) -> str:
    if isinstance(value, bytes):
        try:
            return _show(keys.decode(value))
        except InvalidKey:
            return value.hex()  # no key, so it is shown as it is
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    plain = text and text.isascii() and text.isprintable() and not any(c in text for c in ' ="')
    return text if plain else json.dumps(text)


# As JSON has them; it leaves DEL alone.
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x7f": "\\u007f"}


def _readable(line: str) -> str:
    """The line without characters that end it, hide text or command a terminal: these are escaped."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else _ESCAPES.get(c) or json.dumps(c)[1:-1] for c in line)
