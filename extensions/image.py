"""`PUT /extension/image/{image_name}?image_url=&percent=`: finds the picture sent in the larger one at `image_url`."""

from __future__ import annotations

import tempfile
from typing import Any

from extensions import Extension, Refused
from extensions._fetching import fetch
from extensions._matching import Match, find
from extensions._parameters import number, text
from extensions._pictures import load, pixels, sent

_PERCENT = 80.0


class Image(Extension):
    """Finds a picture in another. The name in the path is ignored: the content shows what a picture is."""

    def execute(self) -> dict[str, Any]:
        """Where the picture is, and how much alike the place is; raises `Refused`.

        `{"found": true, "percent_of_match": 0.8, "score": 0.9871, "coordinates": {"x", "y", "w", "h"}, "msg": null}`:
        in pixels of the larger picture. When it is not found, there are no coordinates but a message.
        """
        asked = number(self.params, "percent", _PERCENT, 10, 100) / 100
        url = text(self.params, "image_url")
        if not url:
            remedy = "give the address of the picture to search in: ?image_url=http://…"
            raise Refused(400, f"image_url is missing; {remedy}")
        template = pixels(sent(self.file_path))
        with tempfile.TemporaryFile() as file:
            fetch(url, file, self.reach)
            base = pixels(load(file, "the picture at image_url"))
        return _result(find(base, template), asked, template.shape, base.shape)


def _result(match: Match | None, asked: float, template: tuple[int, ...], base: tuple[int, ...]) -> dict[str, Any]:
    height, width = template[:2]
    result: dict[str, Any] = {"found": False, "percent_of_match": round(asked, 6), "score": 0.0}
    result |= {"coordinates": {}, "msg": None}
    if match is None:
        larger = f"{width} x {height} pixels, does not fit into the one at image_url, {base[1]} x {base[0]}"
        return result | {"msg": f"not found: the picture sent, {larger}"}
    # Rounded, so that 100 percent can be reached.
    score = round(match.score, 4)
    result["score"] = score
    if score < asked:
        return result | {"msg": f"not found: the best place reaches {score:.2%}, and {asked:.2%} was asked for"}
    return result | {"found": True, "coordinates": {"x": match.x, "y": match.y, "w": width, "h": height}}
