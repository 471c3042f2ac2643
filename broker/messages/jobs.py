"""A job as it travels: what the master publishes, and what anybody may publish by hand on `pulzar.jobs`.

    {"job": "example/factorial", "arguments": {"number": 5}, "options": {"timeout": 60}}

as JSON (UTF-8) or as msgpack. The master adds `id` and `attempt`, and `data` when the job works on a value. Nobody
else may: a message of the master has a seal among its headers, and without one those two fields are refused.
Whatever is wrong with a job is said for the person who made it.
"""

from __future__ import annotations

import hmac
import json
import math
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import msgpack

from broker import integers, keys
from broker.clock import DAY_SECS
from broker.errors import InvalidKey, MalformedMessage
from broker.integers import short
from broker.messages import checks

MAX_BYTES = 1 << 20
MAX_DEPTH = 32  # of lists and objects in each other
MAX_ATTEMPTS = 100
MAX_SECS = 30 * DAY_SECS
MAX_TOKEN = 200  # characters
MAX_MEMORY_MB = 1 << 24
PRIORITIES = ("high", "normal", "low")
SEAL = "pulzar-seal"  # the header with the seal
DATA = "pulzar_data"  # may stand among the arguments, as in a launch by REST

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"  # the same as in jobs/scripts.py
SCRIPT_PATTERN = rf"{NAME_PATTERN}(?:\.py)?"
PATH_PATTERN = f"{NAME_PATTERN}/{SCRIPT_PATTERN}"
_NAME = re.compile(NAME_PATTERN)
_GROWTH_BYTES = 64  # for the id that the master gives it
_ADVICE = "store what is large under a key and name that"
_FIELDS = ("job", "arguments", "options", "data", "id", "attempt")
_ID_AT = 4  # where `write` puts the id: behind the head of the map and its name


class Options(NamedTuple):
    """How a job is to run; 0 and "" stand for what was not given."""

    timeout: float = 0  # s
    attempts: int = 0
    retry_delay: float = 0  # s
    priority: str = "normal"
    memory_mb: int = 0
    node: str = ""
    unique: str = ""
    overlap: int = 0  # of a schedule: whether it runs while its last execution still does
    argv: tuple[str, ...] = ()  # for sys.argv of the script


class Order(NamedTuple):
    """A job to run."""

    job: str  # folder/script
    arguments: dict[str, object]
    options: Options = Options()
    data: str = ""  # the key it works on
    id: int = 0  # in the master's ledger; 0 when it was published by hand
    attempt: int = 1


def check_path(text: object) -> str:
    """The path `folder/script` of a job, without `.py`; raises `MalformedMessage` when it can't be one."""
    parts = text.removesuffix(".py").split("/") if isinstance(text, str) else []
    if len(parts) == 2 and parts[1].startswith("_"):
        raise MalformedMessage(f"{short(text)} is no job; what begins with _ is a module for the scripts beside it")
    if len(parts) != 2 or not all(map(_NAME.fullmatch, parts)):
        raise MalformedMessage(
            f"job = {short(text)} is no job; give folder/script, each of letters, digits, _ and -, up to 64, "
            "beginning with a letter or digit"
        )
    return "/".join(parts)


def read_options(given: object) -> Options:
    """The options in a JSON object; raises `MalformedMessage`."""
    if not isinstance(given, dict):
        raise MalformedMessage(f"options = {short(given)} is no object")
    unknown = [name for name in given if name not in Options._fields]
    if unknown:
        raise MalformedMessage(f"there is no option {short(unknown[0])}; there are {', '.join(Options._fields)}")
    options = Options(**given)
    _seconds("timeout", options.timeout)
    _seconds("retry_delay", options.retry_delay)
    _integer("attempts", options.attempts, MAX_ATTEMPTS)
    _integer("memory_mb", options.memory_mb, MAX_MEMORY_MB)
    _integer("overlap", options.overlap, 1)
    if options.priority not in PRIORITIES:
        raise MalformedMessage(f"priority = {short(options.priority)} is none of {', '.join(PRIORITIES)}")
    if options.node != "" and not (isinstance(options.node, str) and checks.is_node_name(options.node)):
        raise MalformedMessage(f"node = {short(options.node)} is no name of a node")
    if not isinstance(options.unique, str) or len(options.unique) > MAX_TOKEN:
        raise MalformedMessage(f"unique = {short(options.unique)} is no text of up to {MAX_TOKEN} characters")
    words = options.argv
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise MalformedMessage(f'argv = {short(words)} is no list of texts like ["--count", "5"]')
    return options._replace(argv=tuple(words))


def read_arguments(given: object) -> tuple[dict[str, object], str]:
    """The arguments of a job, without the key it works on, and that key ("": none); raises `MalformedMessage`."""
    if not isinstance(given, dict):
        raise MalformedMessage(f'arguments = {short(given)} is no object like {{"number": 5}}')
    _plain(given, MAX_DEPTH)
    arguments = dict(given)
    data = arguments.pop(DATA, "")
    return arguments, _key(data)


def seal(secret: bytes, body: bytes) -> dict[str, str]:
    """The headers that prove that the master made this message: an HMAC of its body."""
    return {SEAL: hmac.digest(secret, b"job\n" + body, "sha256").hex()}


def is_sealed(secrets: tuple[bytes, ...], body: bytes, headers: Mapping[str, object]) -> bool:
    """Whether the master of this cluster made this message."""
    given = str(headers.get(SEAL, "")).encode()
    return any(hmac.compare_digest(given, seal(secret, body)[SEAL].encode()) for secret in secrets)


def read(body: bytes, sealed: bool = False) -> Order:
    """The job in a message; raises `MalformedMessage`. Only a `sealed` one may have an id and an attempt."""
    fields = _unpack(body)
    if not isinstance(fields, dict):
        raise MalformedMessage(
            f'a job is an object like {{"job": "folder/script", "arguments": {{}}}}, received {short(fields)}'
        )
    unknown = [name for name in fields if name not in _FIELDS]
    if unknown:
        raise MalformedMessage(f"a job has no field {short(unknown[0])}; it has {', '.join(_FIELDS[:3])}")
    path = check_path(fields.get("job"))
    arguments, data = read_arguments(fields.get("arguments", {}))
    options = read_options(fields.get("options", {}))
    number, attempt = fields.get("id", 0), fields.get("attempt", 1)
    _integer("id", number, 1 << 62)
    _integer("attempt", attempt, MAX_ATTEMPTS * MAX_ATTEMPTS)
    if not sealed and (number or attempt > 1):
        name, given = ("id", number) if number else ("attempt", attempt)
        raise MalformedMessage(
            f"the field {name} = {given} is the master's to give, and the message has not the seal of this cluster's"
            " master; leave it out, and the job gets an id of its own"
        )
    order = Order(path, arguments, options, _key(fields.get("data", "")) or data, number, max(1, attempt))
    pack(order)
    return order


def pack(order: Order) -> bytes:
    """As `write`; raises `MalformedMessage` when a job can't be put into a message, for all that it is JSON."""
    try:
        packed = write(order)
    except OverflowError:
        raise MalformedMessage("the arguments have an integer of more than 64 bits; send it as text") from None
    except UnicodeEncodeError as error:
        raise MalformedMessage(f"the arguments have half of a character: {error.object[error.start]!r:.20}") from None
    if len(packed) > MAX_BYTES - (0 if order.id else _GROWTH_BYTES):
        raise MalformedMessage(f"the job makes a message of {len(packed)} bytes, {MAX_BYTES} is the limit; {_ADVICE}")
    return packed


def write(order: Order) -> bytes:
    """The message for a job, which `read` reads. Its id stands first, see `numbered`."""
    fields: dict[str, object] = {"id": order.id, "attempt": order.attempt, "job": order.job}
    fields["arguments"] = order.arguments
    if order.data:
        fields["data"] = order.data
    given = {name: value for name, value in order.options._asdict().items() if value not in (0, "", "normal", ())}
    if given:
        fields["options"] = given
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack(body: bytes) -> Order:
    """The job in a message that a process of this master has made with `write`; nothing is checked."""
    fields = msgpack.unpackb(body)
    options = fields.get("options", {})
    options = Options(**options | {"argv": tuple(options.get("argv", ()))})
    return Order(fields["job"], fields["arguments"], options, fields.get("data", ""), fields["id"], fields["attempt"])


def unseal(body: bytes) -> Order:
    """The job in a message with a good seal, which its master has checked already.

    Raises `MalformedMessage` for a message of another version that can't be understood here.
    """
    try:
        return unpack(body)
    except (LookupError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"the job is of another version of Pulzar: {error!r}") from error


def numbered(body: bytes, number: int) -> bytes:
    """The message that `write` made for a job without an id, with this id."""
    packed: bytes = msgpack.packb(number)
    return body[:_ID_AT] + packed + body[_ID_AT + 1 :]


def _unpack(body: bytes) -> object:
    if len(body) > MAX_BYTES:
        raise MalformedMessage(f"the job has {len(body)} bytes, and {MAX_BYTES} is the limit; {_ADVICE}")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise MalformedMessage("the job begins with a byte order mark; send UTF-8 without one")
    try:
        if body.lstrip()[:1] in (b"{", b"[", b'"'):
            return json.loads(body.decode(), parse_constant=no_constant)  # bytes might be UTF-16, too
        return msgpack.unpackb(body, strict_map_key=True)
    except RecursionError:
        raise MalformedMessage("the job has lists or objects too deep in each other") from None
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"the job is neither JSON nor msgpack: {error}; it begins with {body[:40]!r}") from error


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, as `parse_constant` of `json.loads`: Python reads them, JSON has none."""
    raise ValueError(f"{name} is no JSON")


def _plain(value: object, depth: int) -> None:
    """Whether a value can be JSON."""
    if depth == 0:
        raise MalformedMessage(f"the arguments have more than {MAX_DEPTH} lists or objects in each other")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise MalformedMessage(f"the arguments have the name {short(name)}, which is no text")
            _plain(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _plain(item, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise MalformedMessage(f"the arguments have the number {value}, which JSON has not")
    elif not (value is None or isinstance(value, str | int | float)):
        raise MalformedMessage(f"the arguments have {short(value)}, which JSON has not")


def _key(given: object) -> str:
    if given == "":
        return ""
    try:
        if isinstance(given, str):
            return keys.check(given)
        raise InvalidKey("a key is a text")
    except InvalidKey as error:
        raise MalformedMessage(f"{DATA} = {short(given)} is no key: {error}") from error


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECS:
        raise MalformedMessage(f"{name} = {short(value)} is no number of seconds from 0 to {MAX_SECS}")


def _integer(name: str, value: object, most: int) -> None:
    try:
        integers.bounded(value, 0, most)
    except ValueError as error:
        raise MalformedMessage(f"{name} = {error}") from error
