"""The environment of a request: method, path, query and headers, named as in WSGI."""

from __future__ import annotations

from collections.abc import Mapping

Environ = Mapping[str, str]
