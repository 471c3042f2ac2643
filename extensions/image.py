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
    """The name in the path says nothing: a picture is known by its content."""

    def execute(self) -> dict[str, Any]:
        """Where it is, and how much alike; raises `Refused`.

        `{"found": true, "percent_of_match": 0.8, "score": 0.9871, "coordinates": {"x", "y", "w", "h"}, "msg": null}`, in
        pixels of the larger one; when it is not found, no coordinates and a message.
        """
        asked = number(self.params, "percent", _PERCENT, 10, 100) / 100
        url = text(self.params, "image_url")
        if not url:
            raise Refused(
                400, "image_url is missing; give the address of the picture to search in: ?image_url=http://…"
            )
        template = pixels(sent(self.file_path))
        with tempfile.TemporaryFile() as file:
            fetch(url, file, self.reach)
            base = pixels(load(file, "the picture at image_url"))
        return _result(find(base, template), asked, template.shape, base.shape)


def _result(match: Match | None, asked: float, template: tuple[int, ...], base: tuple[int, ...]) -> dict[str, Any]:
    height, width = template[:2]
    result: dict[str, Any] = {
        "found": False,
        "percent_of_match": round(asked, 6),
        "score": 0.0,
        "coordinates": {},
        "msg": None,
    }
    if match is None:
        larger = f"{width} x {height} pixels, does not fit into the one at image_url, {base[1]} x {base[0]}"
        return result | {"msg": f"not found: the picture sent, {larger}"}
    # The last digit is no difference that anybody sees: 100 percent is reached, too.
    score = round(match.score, 4)
    result["score"] = score
    if score < asked:
        return result | {"msg": f"not found: the best place reaches {score:.2%}, and {asked:.2%} was asked for"}
    return result | {"found": True, "coordinates": {"x": match.x, "y": match.y, "w": width, "h": height}}
