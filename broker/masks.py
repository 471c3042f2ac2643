"""Masks secrets: in logs, outputs, reasons and arguments each is replaced by `***`.

A secret is found as it is, and as JSON, a URL or `repr` writes it. Each long line of a secret with several lines is
found, too. A script that encodes or takes apart a secret on purpose is not stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import quote, quote_plus

MASK = "***"
_LINE_CHARACTERS = 8
_CUT_BYTES = 4  # of the beginning of a secret


class Masks:
    """Masks some secrets, at least one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form.encode() for secret in secrets for form in _forms(secret)}
        self.forms = sorted(forms, key=len, reverse=True)
        self.pattern = re.compile(b"|".join(map(re.escape, self.forms)))
        self.first = frozenset(form[0] for form in self.forms)

    def mask(self, data: bytes) -> bytes:
        """Masked bytes; `data` is complete."""
        return self.pattern.sub(MASK.encode(), data)

    def text(self, text: str) -> str:
        """A masked text."""
        return self.mask(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def cut_text(self, text: str) -> str:
        """A masked text, which may have been cut in the middle of a secret."""
        data = self.mask(text.encode("utf-8", "surrogatepass"))
        at = self.unsure(data)
        data = data[:at] + MASK.encode() if len(data) - at >= _CUT_BYTES else data
        return data.decode("utf-8", "surrogatepass")

    def unsure(self, data: bytes) -> int:
        """The position of the first secret that may go on after these bytes; their length when there is none."""
        for at in range(max(0, len(data) - len(self.forms[0]) + 1), len(data)):
            if data[at] in self.first:
                tail = data[at:]
                if any(len(form) > len(tail) and form.startswith(tail) for form in self.forms):
                    return at
        return len(data)

    def json(self, raw: bytes) -> bytes:
        """Masked JSON, which stays JSON: a number that is a secret becomes a text."""
        if not self.pattern.search(raw):
            return raw
        try:
            value = json.loads(raw)
            return json.dumps(self._part(value), ensure_ascii=False).encode("utf-8", "backslashreplace")
        except (ValueError, RecursionError):  # no JSON that anybody could read, so it is bytes
            return self.mask(raw)

    def _part(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._part(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self._part(item) for name, item in value.items()}
        if isinstance(value, int | float) and self.pattern.search(json.dumps(value).encode()):
            return MASK
        return value


class MaskedStream:
    """Masks bytes that come in pieces; a secret may begin in one piece and end in the next."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._held = b""  # may be the beginning of a secret

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns those that are surely masked."""
        data = self._held + data
        keep = self._masks.unsure(data)
        shown, at = b"", 0
        for found in self._masks.pattern.finditer(data):
            if found.start() >= keep:
                break
            shown += data[at : found.start()] + MASK.encode()
            at = found.end()
        keep = max(keep, at)
        self._held = data[keep:]
        return shown + data[at:keep]

    def end(self) -> bytes:
        """The masked bytes that were kept back."""
        held, self._held = self._held, b""
        return self._masks.mask(held)


@lru_cache(maxsize=256)
def of(secrets: frozenset[str]) -> Masks | None:
    """The masks of some secrets; None when there are none."""
    return Masks(secrets) if secrets else None


def _forms(secret: str) -> set[str]:
    lines = [line.strip() for line in secret.splitlines()]
    parts = {secret, *(line for line in lines if len(line) >= _LINE_CHARACTERS and len(lines) > 1)}
    ways: tuple[Callable[[str], str], ...] = (
        str,
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        lambda text: repr(text)[1:-1],
        lambda text: quote(text, safe=""),
        quote,
        quote_plus,
    )
    return {way(part) for part in parts for way in ways}
