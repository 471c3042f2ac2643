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
    """Base of all extensions. An object of it is one request; no other request runs in its process meanwhile."""

    store: ClassVar[Store]
    """The keys of the cluster. The process sets it, so a constructor need not call this one's."""

    reach: ClassVar[Reach]
    """The hosts from which an extension may fetch for a client. The process sets it."""

    def __init__(self, arguments: list[str], params: dict[str, list[str]], file_path: str | None = None) -> None:
        """`arguments`: the segments of the path after the name; `params`: the query.

        `file_path`: a file with the body of a PUT, removed at the end of the request; None for a GET.
        """
        self.arguments = arguments
        self.params = params
        self.file_path = file_path

    def execute(self) -> list[Any] | dict[str, Any] | Iterator[Any]:
        """Returns the `data` of the response. The items of an iterator are sent as a list, one by one.

        `Refused` and `MissingLibrary` become responses of their kind, every other exception 500 with its message.
        """
        raise Refused(500, f"the class {type(self).__name__} has no method execute")
