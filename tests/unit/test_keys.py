"""The rules and the encoding of keys."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker import keys
from broker.errors import InvalidKey

PRINTABLE = "".join(map(chr, range(32, 127)))
ANY_KEY = st.text(PRINTABLE, min_size=1, max_size=60)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "a-b.txt",
        "dir-1/k",
        "x.y/k",
        "a b",
        "100%",
        "a+b",
        "~/x",
        "...",
        ".a",
        "a.",
        "..a/b..",
        "a/.b/c",
        "a" * 383,
        '"<>\\^`{|}',
    ],
)
def test_a_good_key_is_taken_as_it_is(key: str) -> None:
    assert keys.check(key) == key
    assert keys.decode(keys.encode(key)) == key


def test_one_leading_slash_is_dropped() -> None:
    assert keys.check("/folder/name") == "folder/name"
    assert keys.check("/" + "a" * 383) == "a" * 383


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("//a", "empty segment"),
        ("a//b", "empty segment"),
        ("a/", "empty segment"),
        (".", r"\. or \.\."),
        ("..", r"\. or \.\."),
        ("a/../b", r"\. or \.\."),
        ("../a", r"\. or \.\."),
        ("a/.", r"\. or \.\."),
        ("./a", r"\. or \.\."),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\n", "control"),
        ("a\x7f", "control"),
        ("é", "ASCII"),
        ("a\u2028", "ASCII"),
        ("a" * 384, "384 bytes"),
        ("\x80", "ASCII"),
    ],
)
def test_a_bad_key_is_refused_with_the_reason(key: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        keys.check(key)


@given(ANY_KEY, ANY_KEY)
def test_encoded_keys_sort_as_the_keys_do(one: str, other: str) -> None:
    assert (keys.encode(one) < keys.encode(other)) == (one < other)


@given(ANY_KEY, ANY_KEY)
def test_keys_under_a_prefix_are_not_before_it(prefix: str, rest: str) -> None:
    assert keys.encode(prefix + rest) >= keys.encode(prefix)


def test_the_longest_key_fits_into_lmdb() -> None:
    assert len(keys.encode("~" * keys.MAX_BYTES)) == 511


@pytest.mark.parametrize("raw", [b"*", b"a", b"\xff\xff"])
def test_bytes_that_are_no_encoded_key_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidKey):
        keys.decode(raw)


@pytest.mark.parametrize("key", ["jobs/1/1/log.txt", "jobs/007/x", "jobs/99999999999999999999/a/b/c", "jobs/0/x"])
def test_a_name_of_the_system_is_one_of_a_jobs_log_or_output(key: str) -> None:
    assert keys.is_system_name(keys.check(key))


@pytest.mark.parametrize(
    "key", ["jobs", "jobs/1", "jobs/x/1/log.txt", "jobs/1x/a", "Jobs/1/a", "my/jobs/1/a", "jobs/-1/a"]
)
def test_other_names_are_for_all(key: str) -> None:
    assert not keys.is_system_name(keys.check(key))


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: base64.b64encode(text.encode()))))
@example(b"")
@example(b"A")
@example(keys.encode("a/b c/d.e"))
@example(keys.encode("a//b"))
@example(keys.encode("../x"))
@example(keys.encode("k" * 383))
@example(keys.encode("k" * 384))
@example(keys.encode("a") + b"=")
@example(keys.encode("ab") + b"\n")
def test_an_encoded_key_is_checked_as_the_key_is(encoded: bytes) -> None:
    def outcome(check: Callable[[], object]) -> str:
        try:
            check()
        except InvalidKey as error:
            return str(error)
        return "good"

    assert outcome(lambda: keys.check_encoded(encoded)) == outcome(lambda: keys.check(keys.decode(encoded)))
