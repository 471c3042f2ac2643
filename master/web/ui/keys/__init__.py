"""The screen of keys: browse and find, one key, uploads, changes, what was deleted."""

from master.web.ui.keys import browse, changes, deleted, one
from master.web.ui.keys.screen import NAV, blueprint

__all__ = ["NAV", "blueprint", "browse", "changes", "deleted", "one"]
