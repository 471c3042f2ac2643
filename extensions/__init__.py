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
from typing import TYPE_CHECKING, Any, ClassVar

from extensions._store import Entry, Store
from jobs.errors import KeyExists, KeyMissing, StoreError

if TYPE_CHECKING:
    from extensions._reach import Reach

__all__ = [
    "Entry", "Extension", "ExtensionError", "KeyExists", "KeyMissing", "MissingLibrary", "Refused", "Store", "StoreError",
]  # fmt: skip


class ExtensionError(Exception):
    """Base of what extensions raise for an answer other than 500."""


class Refused(ExtensionError):
    """Raised by an extension to answer with a status from 400 to 599 and a message; it is not logged as a failure."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        if not 400 <= status <= 599:
            raise ValueError(f"a status of {status} is no refusal; give one from 400 to 599")
        self.status = status


class MissingLibrary(ExtensionError):
    """Raised when what an extension needs is not installed; answered 501 with the command that installs it."""

    def __init__(self, name: str, command: str) -> None:
        super().__init__(f"{name} is not installed on the master; install it there with: {command}")
        self.name = name
        self.command = command


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
