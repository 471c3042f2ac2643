"""Signed URLs: what they cover, when they end, and what breaks them."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadSignature, Expired
from broker.http import signing

SECRET = b"s" * 32
KEY = "folder/a b+c%.txt"
FIELDS = {"url": "master:31414", "life": "86400000", "overwrite": "1"}
NOW = 1_795_000_000
UNTIL = NOW + 60


def verify(
    query: str, *, secret: bytes = SECRET, method: str = "PUT", key: str = KEY, now: float = NOW
) -> dict[str, str]:
    return signing.verify(secret, method, key, query, now)


def test_a_signed_query_gives_its_parameters_back() -> None:
    assert verify(signing.sign(SECRET, "PUT", KEY, FIELDS, UNTIL)) == FIELDS
    assert verify(signing.sign(SECRET, "GET", KEY, {}, UNTIL), method="GET") == {}


def test_the_masters_address_stands_first_and_readable() -> None:
    assert signing.sign(SECRET, "PUT", KEY, FIELDS, UNTIL).startswith("url=master:31414&life=86400000&")
    assert signing.sign(SECRET, "PUT", KEY, {"url": "[::1]:31414"}, UNTIL).startswith("url=%5B::1%5D:31414&")


@given(
    st.dictionaries(st.text(max_size=20).filter(lambda name: name not in ("until", "kid")), st.text(max_size=20)),
    st.text(min_size=1, max_size=20),
)
def test_parameters_of_any_text_survive(fields: dict[str, str], key: str) -> None:
    fields["url"] = "master:1"
    query = signing.sign(SECRET, "PUT", key, fields, UNTIL)
    assert query.isascii()
    assert verify(query, key=key) == fields


def test_it_is_good_up_to_its_end() -> None:
    query = signing.sign(SECRET, "PUT", KEY, FIELDS, UNTIL)
    assert verify(query, now=UNTIL) == FIELDS
    assert verify(query, now=0) == FIELDS
    with pytest.raises(Expired, match="expired 1 s ago") as late:
        verify(query, now=UNTIL + 1)
    assert late.value.parameters == FIELDS, "it is authentic all the same"


def test_a_client_may_encode_it_another_way() -> None:
    fields = {"url": "master:31414", "note": "a b~c"}
    query = signing.sign(SECRET, "PUT", KEY, fields, UNTIL)
    again = urlencode(parse_qsl(query))
    assert again != query
    assert verify(again) == fields


@pytest.mark.parametrize("query", ["", "url=master:31414", "until=9999999999", "signature", "x=signature"])
def test_a_url_without_a_signature_is_refused(query: str) -> None:
    with pytest.raises(BadSignature, match="not signed"):
        verify(query)


def _signed() -> str:
    return signing.sign(SECRET, "PUT", KEY, FIELDS, UNTIL)


CHANGES = {
    "another value": _signed().replace("life=86400000", "life=86400001"),
    "another end": _signed().replace(f"until={UNTIL}", f"until={UNTIL + 1}"),
    "one more at the start": "evil=1&" + _signed(),
    "one more before the signature": _signed().replace("&signature", "&evil=1&signature"),
    "one twice": "overwrite=0&" + _signed(),
    "one twice, the last different": _signed().replace("&signature", "&url=evil:1&signature"),
    "one less": _signed().replace("overwrite=1&", ""),
    "another order": _signed().replace("url=master:31414&life=86400000", "life=86400000&url=master:31414"),
    "another name": _signed().replace("overwrite=", "Overwrite="),
    "another signature": _signed()[:-1] + ("0" if _signed()[-1] != "0" else "1"),
    "a shorter signature": _signed()[:-1],
    "no signature": _signed().partition("signature=")[0] + "signature=",
    "a strange signature": _signed().partition("signature=")[0] + "signature=\xe9",
    "an empty name": "=1&" + _signed(),
    "no value": "evil&" + _signed(),
    "no end": _signed().replace(f"until={UNTIL}&", ""),
    "nothing but a signature": "&signature=" + "0" * 32,
}


@pytest.mark.parametrize("query", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_noticed(query: str) -> None:
    with pytest.raises(BadSignature, match="changed"):
        verify(query)


def by_hand(query: str, method: str = "PUT") -> str:
    """A query that this cluster signed, though `sign` never makes it so."""
    query = f"kid={signing.key_id(SECRET)}&{query}"
    digest = hmac.digest(SECRET, f"url\n{method}\n{KEY}\n{query}".encode(), "sha256").hex()[:32]
    return f"{query}&signature={digest}"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (f"url=a:1&url=b:1&until={UNTIL}", "twice"),
        (f"url=a:1&overwrite=1&overwrite=1&until={UNTIL}", "twice"),
        (f"url=a:1&until={UNTIL}&until={UNTIL + 1}", "twice"),
        ("url=a:1", "until when"),
        ("url=a:1&until=", "until when"),
        ("url=a:1&until=soon", "until when"),
        ("url=a:1&until=-1", "until when"),
        ("url=a:1&until=" + "9" * 5000, "until when"),
        (f"until={UNTIL}", "which master"),
        (f"url=&until={UNTIL}", "which master"),
    ],
)
def test_a_signed_query_has_what_it_needs_and_each_parameter_once(query: str, reason: str) -> None:
    with pytest.raises(BadSignature, match=reason):
        verify(by_hand(query))
    assert verify(by_hand(f"url=a:1&until={UNTIL}")) == {"url": "a:1"}


def test_a_name_can_not_be_taken_for_another_parameter() -> None:
    fields = {"url": "a:1", "x=1&overwrite": "1"}
    assert verify(signing.sign(SECRET, "PUT", KEY, fields, UNTIL)) == fields


@pytest.mark.parametrize("more", ["&evil=1", "&_=123", "&signature=x", "&"])
def test_nothing_may_follow_the_signature(more: str) -> None:
    with pytest.raises(BadSignature, match=r"changed|after its signature"):
        verify(_signed() + more)


def test_it_is_for_one_method_one_key_and_one_cluster() -> None:
    query = _signed()
    for change in ({"method": "GET"}, {"key": KEY + "x"}, {"key": "folder/a b c%.txt"}, {"secret": b"t" * 32}):
        with pytest.raises(BadSignature, match="changed"):
            verify(query, **change)  # type: ignore[arg-type]


def test_it_says_which_secret_signed_it_and_an_unknown_one_is_named() -> None:
    query = signing.sign(SECRET, "PUT", KEY, FIELDS, UNTIL)
    mine, theirs = signing.key_id(SECRET), signing.key_id(b"t" * 32)
    assert f"&kid={mine}&until={UNTIL}&signature=" in query
    assert signing.verify((b"t" * 32, SECRET), "PUT", KEY, query, NOW) == FIELDS
    with pytest.raises(BadSignature, match=rf"secret '{mine}', which is not known here \({theirs} is\)"):
        verify(query, secret=b"t" * 32)
    # Whoever names another secret that is known does not get in by it
    with pytest.raises(BadSignature, match="changed"):
        signing.verify((b"t" * 32, SECRET), "PUT", KEY, query.replace(mine, theirs), NOW)
    assert mine not in (SECRET.hex()[:8], SECRET[:8].decode())


def test_one_for_a_node_is_for_no_other_and_not_for_the_master() -> None:
    fields = FIELDS | {signing.NODE: "node-1"}
    query = signing.sign(SECRET, "PUT", KEY, fields, UNTIL)
    assert signing.verify(SECRET, "PUT", KEY, query, NOW, node="node-1") == fields
    for other, said in (("node-2", "the node node-2"), (signing.AT_MASTER, "the master"), ("", "the node ")):
        with pytest.raises(BadSignature, match=f"is for the node node-1, and this is {said}"):
            signing.verify(SECRET, "PUT", KEY, query, NOW, node=other)
    with pytest.raises(BadSignature, match="is for no node"):
        signing.verify(SECRET, "PUT", KEY, signing.sign(SECRET, "PUT", KEY, FIELDS, UNTIL), NOW, node="node-1")
    with pytest.raises(BadSignature, match="changed"):
        signing.verify(SECRET, "PUT", KEY, query.replace("node-1", "node-2"), NOW, node="node-2")


def test_a_body_is_proved_by_its_signature() -> None:
    signature = signing.sign_body(SECRET, b"body")
    signing.verify_body(SECRET, b"body", signature)
    for body, given_signature, secret in (
        (b"Body", signature, SECRET),
        (b"body", signature[:-1], SECRET),
        (b"body", "\xe9", SECRET),
        (b"body", "", SECRET),
        (b"body", None, SECRET),
        (b"body", signature, b"t" * 32),
    ):
        with pytest.raises(BadSignature):
            signing.verify_body(secret, body, given_signature)


def test_a_signed_url_proves_no_body() -> None:
    query = _signed()
    with pytest.raises(BadSignature):
        signing.verify_body(SECRET, f"PUT\n{KEY}\n{query}".encode(), query.rpartition("=")[2])
