"""The JSON schemas of launches. They say what `launch_request.py` and `broker/messages/jobs.py` read.

Messages on queues are read there too, many a second, so these are no declarations that read. Tests compare the two.
"""

from __future__ import annotations

from broker import keys
from broker.contract.kinds import Schema
from broker.messages import checks, jobs
from broker.messages.jobs import Options
from master.jobs.model import CRON, INTERVALS, Rhythm
from master.web.jobs import launch_many
from master.web.jobs.launch_request import MAX_PERIOD_MS, MOST_CRON, OPTIONS, SCHEDULED


def _seconds(about: str) -> Schema:
    return {"type": "number", "minimum": 0, "maximum": jobs.MAX_SECS, "description": about}


def _integer(most: int, about: str) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most, "description": about}


_OPTIONS: dict[str, Schema] = {
    "timeout": _seconds("Seconds that a run may take; 0: as [jobs] timeout says."),
    "attempts": _integer(jobs.MAX_ATTEMPTS, "How often it is tried; 0: as [jobs] attempts says."),
    "retry_delay": _seconds("Seconds before the second attempt; it doubles from one to the next."),
    "priority": {"type": "string", "enum": [*jobs.PRIORITIES]},
    "memory_mb": _integer(jobs.MAX_MEMORY_MB, "MiB that a run may use; 0: as [jobs] memory_mb says."),
    "node": {"type": "string", "pattern": f"^(?:{checks.NODE})?$", "description": "It runs on this node alone."},
    "unique": {
        "type": "string",
        "maxLength": jobs.MAX_TOKEN,
        "description": "A second launch with the same token is the first one, as long as that is kept: until "
        "retention_policy days after its end. Another script, other arguments, options or times with a known token "
        "are a 409.",
    },
    "overlap": {
        "type": "integer",
        "enum": [0, 1],
        "description": "Of a schedule: whether an execution begins while the last one still runs.",
    },
    "argv": {
        "type": "array",
        "items": {"type": "string", "pattern": r"^[^\x00]*$"},
        "description": "Words for sys.argv of the script, behind its own name.",
    },
}
_REPEAT: Schema = {"type": "integer", "enum": [0, 1], "description": "0: once; 1: again and again."}


def _record(properties: dict[str, Schema], required: list[str], about: str) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False, "description": about}
    return found | ({"required": required} if required else {})


def _every(interval: str) -> Schema:
    """A rhythm in one unit of time."""
    most = MAX_PERIOD_MS // Rhythm(interval, 1, False).period_ms
    properties: dict[str, Schema] = {
        "interval": {"type": "string", "enum": [interval]},
        "time_unit": {"type": "integer", "minimum": 1, "maximum": most},
        "repeat": _REPEAT,
    }
    return _record(properties, list(properties), f"Every time_unit {interval}.")


_CRON: Schema = _record(
    {
        CRON: {
            "type": "string",
            "maxLength": MOST_CRON,
            "description": "The five fields of cron.",
            "examples": ["0 9 * * 1"],
        },
        "zone": {
            "type": "string",
            "description": "The time zone that they are meant in; UTC unless given.",
            "examples": ["Europe/Vienna"],
        },
        "repeat": _REPEAT,
    },
    [CRON],
    "At the times of cron.",
)

SCHEMAS: dict[str, Schema] = {
    "Options": _record(_OPTIONS, [], "How a job is to run."),
    "Rhythm": {"oneOf": [*map(_every, INTERVALS), _CRON]},
    "Launch": {
        "type": "object",
        "description": "The arguments of the script, and these reserved names. An argument is any JSON value, with "
        f"integers of up to 64 bits and up to {jobs.MAX_DEPTH} lists and objects in each other.",
        "properties": {
            SCHEDULED: {"$ref": "#/components/schemas/Rhythm"},
            jobs.DATA: {
                "type": "string",
                "maxLength": keys.MAX_BYTES,
                "pattern": f"^(?:/?{keys.PATTERN})?$",
                "description": "A key: the job goes to a node that has its value.",
            },
            OPTIONS: {"$ref": "#/components/schemas/Options"},
        },
        "additionalProperties": True,
    },
    "LaunchItem": _record(
        {
            "job": {
                "type": "string",
                "pattern": f"^{jobs.PATH_PATTERN}$",
                "description": "folder/script; .py at its end is dropped.",
            },
            "arguments": {"$ref": "#/components/schemas/Launch"},
            "options": {
                "$ref": "#/components/schemas/Options",
                "description": "The same as pulzar_options among the arguments; give one of them.",
            },
        },
        ["job"],
        "One of many jobs.",
    ),
    "LaunchMany": _record(
        {
            "jobs": {
                "type": "array",
                "minItems": 1,
                "maxItems": launch_many.MOST,
                "items": {"$ref": "#/components/schemas/LaunchItem"},
            }
        },
        ["jobs"],
        "Up to 1,000 jobs.",
    ),
}
assert set(_OPTIONS) == set(Options._fields)
