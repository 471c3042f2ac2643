"""What extensions import: `Extension`, the base class; `Refused` and `MissingLibrary`; the store and its errors.

An extension is a file `<name>.py` in the folder `[extensions] dir`, called at `/extension/<name>/…`. In it is a class
named like the file, capitalised, whose base is `Extension`:

    from extensions import Extension

    class Hello(Extension):
        def execute(self):
            return {"hello": self.arguments, "size": sum(entry.size for entry in self.store.keys("docs/"))}

Files whose name begins with `_` can't be called; extensions import them: `from extensions import _helper`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from extensions._errors import ExtensionError, MissingLibrary, Refused
from extensions._reach import Reach
from extensions._store import Entry, Store
from jobs.errors import KeyExists, KeyMissing, StoreError

__all__ = [
    "Entry",
    "Extension",
    "ExtensionError",
    "KeyExists",
    "KeyMissing",
    "MissingLibrary",
    "Refused",
    "Store",
    "StoreError",
]


class Extension:
    """Base of all extensions. An object of it is one request, and lives in a process that has no other one meanwhile."""

    store: ClassVar[Store]
    """The keys of the cluster. Set by the process that runs extensions, so a constructor need not call this one's."""

    reach: ClassVar[Reach]
    """Where may be fetched from for a client; set likewise."""

    def __init__(self, arguments: list[str], params: dict[str, list[str]], file_path: str | None = None) -> None:
        """`arguments`: the segments of the path behind the name; `params`: the query.

        `file_path`: a file with the body of a PUT, removed when the request is over; None for a GET.
        """
        self.arguments = arguments
        self.params = params
        self.file_path = file_path

    def execute(self) -> list[Any] | dict[str, Any] | Iterator[Any]:
        """What becomes `data` of the answer. The items of an iterator are sent as a list, one by one.

        `Refused` and `MissingLibrary` become answers of their kind, every other exception 500 with its message.
        """
        raise Refused(500, f"the class {type(self).__name__} has no method execute")
