"""Deletes old keys, over the master's REST API."""

import time

from jobs import Job, KeyMissing

DAY_SECS = 86_400


class Clean(Job):
    """Deletes nothing unless it is told to."""

    def execute(self) -> dict[str, object]:
        """Description: Deletes the keys that begin with a prefix and are older than some days.
        Without "delete": true it only tells which.
        Arguments: {"prefix": "str", "days": "float", "delete": "bool"}
        Category: keys
        Author: Pulzar
        """
        prefix, days = self.arguments.get("prefix"), self.arguments.get("days")
        delete = self.arguments.get("delete", False)
        if not isinstance(prefix, str) or not prefix.removeprefix("/"):
            raise ValueError(
                f"prefix = {prefix!r}: the beginning of the keys is needed, so that it can't be all of them"
            )
        if isinstance(days, bool) or not isinstance(days, int | float) or not days >= 0:
            raise ValueError(f"days = {days!r} is no number of days")
        if not isinstance(delete, bool):
            raise ValueError(f"delete = {delete!r} is neither true nor false")
        before = time.time() - days * DAY_SECS
        looked = 0
        old = []
        for entry in self.keys(prefix):
            looked += 1
            if entry["created"] < before:
                old.append((entry["key"], entry["size"]))
        deleted = 0
        for key, size in old:
            if delete:
                try:
                    self.delete(key)
                    deleted += 1
                except KeyMissing:
                    self.log(f"{key}: gone already")
                self.progress(deleted, len(old), "keys")
            self.log(f"{key}: {size} bytes{', deleted' if delete else ''}")
        return {"keys": looked, "old": len(old), "bytes": sum(size for _, size in old), "deleted": deleted}
