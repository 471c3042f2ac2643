"""The launch that a form stands for, as others make it: with curl, in Python, by a message. Pure functions."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from broker.messages import jobs
from master.web.jobs.launch_request import OPTIONS, SCHEDULED


class Lines(NamedTuple):
    """The texts to copy."""

    curl: str
    python: str
    message: str  # "" when a message can't do it


def of_launch(url: str, script: str, body: Mapping[str, object], *, token: bool) -> Lines:
    """Texts for the launch of a script with this body. `url`: of the master; `token`: clients need one."""
    address = f"{url}/launch_job/{script}"
    return Lines(_curl(address, body, token), _python(address, body, token), _message(script, body))


def _curl(address: str, body: Mapping[str, object], token: bool) -> str:
    words = ["curl -X POST", shlex.quote(address)]
    if token:
        words.append('-H "Authorization: Bearer $PULZAR_TOKEN"')
    if body:
        text = json.dumps(body, ensure_ascii=False)
        # curl reads a file where the data begins with @; JSON never does.
        words.append(f"-d {shlex.quote(text)}")
    return " ".join(words)


def _python(address: str, body: Mapping[str, object], token: bool) -> str:
    given = pprint.pformat(dict(body), width=88, sort_dicts=False)
    head = ',\n    headers={"Authorization": "Bearer " + os.environ["PULZAR_TOKEN"]}' if token else ""
    imports = "import os\n\nimport requests" if token else "import requests"
    call = f"answer = requests.post(\n    {address!r},\n    json={_indented(given)}{head},\n)"
    return f"{imports}\n\n{call}\nprint(answer.json())"


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 9)


def _message(script: str, body: Mapping[str, object]) -> str:
    if SCHEDULED in body:
        return ""
    arguments = {name: value for name, value in body.items() if name != OPTIONS}
    message: dict[str, object] = {"job": script, "arguments": arguments}
    if OPTIONS in body:
        message["options"] = body[OPTIONS]
    text = json.dumps(message, ensure_ascii=False, indent=1)
    return text if len(text) <= jobs.MAX_BYTES else ""
