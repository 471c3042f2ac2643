"""Extensions act for who called them: with the rights of the caller's token, and with no others."""

from __future__ import annotations

import io
from urllib.parse import quote

import pytest
from PIL import Image

from tests.integration.tokens_tools import Keys
from tests.integration.wire import good, refused
from tests.support import ROOT, Clusters, unique

ACTS = """
import os
from extensions import Extension
STORE = Extension.store
class Acts(Extension):
    def execute(self):
        what, key = self.arguments[0], "/".join(self.arguments[1:])
        if what == "read":
            return {"value": STORE.read(key).decode()}
        if what == "write":
            return {"url": STORE.write(key, b"by an extension")}
        if what == "keys":
            return [entry.key for entry in STORE.keys(key)]
        if what == "launch":
            return {"job": STORE.launch(key, {"number": 3})}
        if what == "token":
            return {"token": STORE._client._token, "environment": [one for one in os.environ if one.startswith("PULZAR_")]}
"""


@pytest.fixture(scope="module")
def keys(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("extensions")
    (folder / "acts.py").write_text(ACTS)
    for name in ("image", "search"):
        (folder / f"{name}.py").write_text((ROOT / "extensions" / f"{name}.py").read_text())
    made = Keys(tmp_path_factory.mktemp("tokens") / "tokens")
    # The token of the master's own environment counts for nothing.
    made.start(
        make_shared_cluster, PULZAR_EXTENSIONS_DIR=str(folder), PULZAR_EXTENSIONS_PROCESSES="1", PULZAR_TOKEN=made.all
    )
    made.settle()
    return made


def test_the_store_has_the_rights_of_the_caller(keys: Keys) -> None:
    mine, others = unique("mine"), unique("others")
    for key in (mine, others):
        keys.put(key)
    caller = keys.make("caller", ["extension:acts", f"read:{mine}", f"write:{mine}", "launch:example/fact*"])
    keys.settle()
    # What the caller may do, its extension may do
    assert good(keys.ask("GET", f"/extension/acts/read/{mine}", caller)) == {"value": "a value"}
    assert good(keys.ask("GET", f"/extension/acts/keys/{mine}", caller)) == [mine]
    good(keys.ask("GET", f"/extension/acts/write/{mine}.new", caller))
    assert keys.ask("GET", f"/get_key/{mine}.new", keys.all).body == b"by an extension"
    job = good(keys.ask("GET", "/extension/acts/launch/example/factorial", caller))["job"]
    good(keys.ask("GET", f"/admin/jobs/{job}", caller))  # it is his own
    # And nothing else: nothing has changed then, though another caller with all rights came before in this process
    jobs = len(good(keys.ask("GET", "/admin/all_jobs?limit=1000", keys.all)))
    for number, (what, key, right) in enumerate(
        (
            ("read", others, f"read:{others}"),
            ("keys", others, f"read:{others}"),
            ("keys", "", "read:"),
            ("write", f"{others}.new", f"write:{others}.new"),
            ("launch", "example/hello", "launch:example/hello"),
        )
    ):
        if what in ("read", "keys"):
            good(keys.ask("GET", f"/extension/acts/{what}/{key}", keys.all))
        told = refused(keys.ask("GET", f"/extension/acts/{what}/{key}", caller), 403)
        assert f"lacks the right {right}" in told, (number, told)
    refused(keys.ask("GET", f"/get_key/{others}.new", keys.all), 404)
    assert len(good(keys.ask("GET", "/admin/all_jobs?limit=1000", keys.all))) == jobs


def test_the_token_of_an_extension_dies_with_its_callers(keys: Keys) -> None:
    caller = keys.make("gone", ["extension:acts", "read:"])
    keys.settle()
    found = good(keys.ask("GET", "/extension/acts/token", caller))
    assert found["environment"] == []
    key = unique()
    keys.put(key)
    assert keys.ask("GET", f"/get_key/{key}", found["token"]).body == b"a value"
    # It is for nobody else, and for no longer
    for other in (found["token"].replace("_gone_", "_all_"), found["token"].replace("pze_1", "pze_2"), "pze_1_all_x"):
        refused(keys.ask("GET", f"/get_key/{key}", other), 401)
    del keys.lines["gone"]
    keys.settle()
    refused(keys.ask("GET", f"/get_key/{key}", found["token"]), 401)


def test_search_shows_what_the_caller_may_read(keys: Keys) -> None:
    mine, others = unique("mine"), unique("others")
    for key in (mine, others):
        keys.put(key)
    caller = keys.make("searcher", ["extension:search", f"read:{mine}"])
    keys.settle()
    found = good(keys.ask("GET", f"/extension/search/?prefix={quote(mine)}", caller))
    assert [row["key"] for row in found] == [mine]
    for query in ("", f"?prefix={quote(others)}", f"?prefix={quote(mine)}&prefix={quote(others)}"):
        refused(keys.ask("GET", f"/extension/search/{query}", caller), 403)


def test_an_image_url_leads_to_keys_that_the_caller_may_read(keys: Keys) -> None:
    mine, others = unique("mine.png"), unique("others.png")
    picture = Image.effect_noise((120, 90), 90)
    base, part = io.BytesIO(), io.BytesIO()
    picture.save(base, "PNG")
    picture.crop((20, 10, 80, 60)).save(part, "PNG")
    for key in (mine, others):
        keys.put(key, base.getvalue())
    caller = keys.make("matcher", ["extension:image", f"read:{mine}"])
    keys.settle()

    def match(key: str) -> str:
        url = quote(f"{keys.cluster.master_url}/get_key/{quote(key)}", safe="")
        return f"/extension/image/part.png?image_url={url}"

    assert good(keys.ask("PUT", match(mine), caller, part.getvalue()))["found"]
    assert "403" in refused(keys.ask("PUT", match(others), caller, part.getvalue()), 400)
