"""Names of files as keys and back; patterns; arguments of jobs; addresses."""

from __future__ import annotations

import pytest

from pulzar import names
from pulzar.command import job_arguments
from pulzar.command.syncing import wanted
from pulzar.errors import BadRequest
from pulzar.wire import addresses
from pulzar.wire.addresses import Origin


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a b.txt", "a b.txt"),
        ("ü/日本.txt", "%C3%BC/%E6%97%A5%E6%9C%AC.txt"),
        ("100%", "100%"),
        ("%41", "%41"),
        ("%C3%BC", "%25C3%25BC"),
        ("%25", "%2525"),
        ("a\nb", "a%0Ab"),
        ("bad\udcff", "bad%FF"),
    ],
)
def test_the_name_of_a_file_comes_back_from_its_key(name: str, key: str) -> None:
    assert names.key_of(name) == key
    assert key.isascii()
    assert names.name_of(key) == name


def test_a_key_that_was_typed_keeps_its_percent_signs() -> None:
    assert names.ascii_key("ü%C3") == "%C3%BC%C3"


@pytest.mark.parametrize(
    ("pattern", "beginning", "fits", "differs"),
    [
        ("logs/*.txt", "logs/", "logs/a.txt", "logs/b/a.txt"),
        ("logs/**.txt", "logs/", "logs/b/a.txt", "log/a.txt"),
        ("a?c", "a", "abc", "a/c"),
        ("[!a-c]x", "", "dx", "ax"),
        ("[a-c]x", "", "bx", "dx"),
        ("a.b", "a.b", "a.b", "axb"),
        ("a[", "a", "a[", "ab"),
    ],
)
def test_patterns(pattern: str, beginning: str, fits: str, differs: str) -> None:
    found, test = names.pattern(pattern)
    assert found == beginning
    assert test(fits)
    assert not test(differs)


def test_what_a_sync_leaves_out() -> None:
    takes = wanted(["*.py", "docs/**"], ["test_*", ".git"])
    assert takes("a/b.py")
    assert takes("docs/x/y.md")
    assert not takes("a/b.md")
    assert not takes("a/test_b.py")
    assert not takes(".git/x.py")
    assert wanted([], [])("anything")


DECLARED = [
    {"name": "count", "type": "int"},
    {"name": "share", "type": "float"},
    {"name": "flag", "type": "bool"},
    {"name": "items", "type": "list"},
    {"name": "map", "type": "dict"},
    {"name": "mode", "type": "str", "choices": ["fast", "slow"]},
    {"name": "level", "type": "int", "choices": [1, 2]},
    {"name": "day", "type": "date"},
]


def test_arguments_have_the_declared_types() -> None:
    typed = ["count=3", "share=0.5", "flag=yes", "items=a,b", 'map={"a": 1}', "mode=fast", "level=2", "day=2026-11-30"]
    assert job_arguments.read(typed, DECLARED) == {
        "count": 3,
        "share": 0.5,
        "flag": True,
        "items": ["a", "b"],
        "map": {"a": 1},
        "mode": "fast",
        "level": 2,
        "day": "2026-11-30",
    }


def test_arguments_that_are_not_declared_are_texts_or_json() -> None:
    assert job_arguments.read(["a=3", "b:=3", "c=x=y", "d=", "items=[1]"], DECLARED) == {
        "a": "3",
        "b": 3,
        "c": "x=y",
        "d": "",
        "items": [1],
    }


def test_an_argument_from_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "text").write_text("12")
    assert job_arguments.read([f"count=@{tmp_path}/text", "b=@@x"], DECLARED) == {"count": 12, "b": "@x"}


@pytest.mark.parametrize(
    "typed",
    ["count=three", "share=nan", "flag=maybe", "map=[1]", "map={", "mode=other", "a", "=3", "b:={", "pulzar_data=x"],
)
def test_an_argument_of_another_type_is_refused(typed: str) -> None:
    with pytest.raises(BadRequest):
        job_arguments.read([typed], DECLARED)


def test_an_argument_is_given_once() -> None:
    with pytest.raises(BadRequest, match="twice"):
        job_arguments.read(["a=1", "a=2"], [])


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("localhost", Origin("http", "localhost", 31414)),
        ("store:80", Origin("http", "store", 80)),
        ("http://store", Origin("http", "store", 31414)),
        ("https://store.example:443/", Origin("https", "store.example", 443)),
        ("http://[::1]:31414", Origin("http", "::1", 31414)),
        ("http://[::1]", Origin("http", "::1", 31414)),
    ],
)
def test_addresses_of_a_cluster(url: str, origin: Origin) -> None:
    assert addresses.home(url) == origin


@pytest.mark.parametrize(
    "url", ["", "ftp://store", "http://", "http://a:b", "http://u:p@store", "http://a/path", "a b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        addresses.home(url)


def test_keys_are_quoted_in_a_target() -> None:
    target = addresses.target("add_key", "a b/%?#.txt", overwrite=True, ttl=None, replicas=2, purge=False)
    assert target == "/add_key/a%20b/%25%3F%23.txt?overwrite=1&replicas=2"
