"""`/extension/imagematching/…`: another name of the extension `image`."""

from __future__ import annotations

from extensions.image import Image


class Imagematching(Image):
    """See `image.py`."""
