"""Files in batches, each small enough for one call of a program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class HasSize(Protocol):
    """Something of a known size."""

    @property
    def size(self) -> int:
        """Bytes."""


T = TypeVar("T", bound=HasSize)


def batches(files: Iterable[T], most_bytes: int, most_files: int) -> Iterator[list[T]]:
    """Files one after the other, in batches; one that is larger is a batch alone or the last of its batch."""
    batch: list[T] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.size
        if size >= most_bytes or len(batch) >= most_files:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
