"""The routes as people read them: rights, fields, lines for a shell."""

from __future__ import annotations

from master.web.ui import api_document
from master.web.ui.api_document import Field, Operation

ALL = api_document.operations()


def of(method: str, path: str) -> Operation:
    return next(one for one in ALL if (one.method, one.path) == (method, path))


def line(method: str, path: str, *, token: bool = False) -> str:
    return api_document.curl(of(method, path), "http://h:1", token=token, authority=False)


def test_rights_are_those_of_the_table() -> None:
    assert of("PUT", "/add_key/{key}").rights == ["write:KEY"]
    assert of("POST", "/move/{key}").rights == ["read:KEY", "write:TO", "delete:KEY"]
    assert of("GET", "/keys").rights == ["read:PREFIX"]
    assert of("POST", "/launch_job/{folder}/{script}").rights == ["launch:FOLDER/SCRIPT"]
    assert of("GET", "/admin/jobs").own
    assert {one.path for one in ALL if one.open} == {"/health", "/openapi.json", "/internal/commit/{key}"}
    # Their bodies say what they ask for.
    assert {one.path for one in ALL if not one.rights and not one.open} >= {"/sign", "/launch_jobs"}


def test_fields_are_those_of_query_header_and_body_with_types_in_words() -> None:
    fields = {field.name: field for field in of("PUT", "/add_key/{key}").fields}
    assert fields["temporal"].type == "integer from 1 to 36500"
    assert fields["overwrite"].type == "string like 0, 1"
    assert fields["key"].required
    launched = {field.name: field for field in of("POST", "/launch_job/{folder}/{script}").fields}
    assert launched["pulzar_options.priority"] == Field(
        "pulzar_options.priority", "body", "high or normal or low", False, launched["pulzar_options.priority"].about
    )
    (members,) = [answer for answer in of("GET", "/admin/backup").answers if answer.status == "200"]
    names = [field.name for field in members.fields]
    assert {"active", "members", "members[].last_good"} <= set(names)
    assert len(names) == len(set(names))


def test_a_line_for_a_shell_has_what_is_needed() -> None:
    assert line("PUT", "/add_key/{key}") == "curl -L -T FILE 'http://h:1/add_key/KEY'"
    assert line("POST", "/copy/{key}") == "curl -X POST 'http://h:1/copy/KEY?to=TO'"
    made = """curl -d '{"rights": ["RIGHTS"]}' 'http://h:1/admin/tokens/NAME'"""
    assert line("POST", "/admin/tokens/{name}") == made
    assert line("POST", "/launch_job/{folder}/{script}").startswith("curl -d '{}' ")
    assert '-H "Authorization: Bearer $PULZAR_TOKEN"' in line("GET", "/keys", token=True)
    assert line("GET", "/health", token=True) == "curl 'http://h:1/health'"


def test_every_word_of_a_search_must_stand_in_a_route() -> None:
    assert len(api_document.search(ALL, "")) == len(ALL)
    assert {one.id for one in api_document.search(ALL, "BRING back")} >= {"undeleteKey"}
    assert api_document.search(ALL, "undelete nowhere") == []


def test_what_a_document_says_stays_text_and_a_bare_one_is_read() -> None:
    (found,) = api_document.read(
        {"paths": {"/x": {"get": {"operationId": "x", "summary": "<b>", "responses": {"200": {"description": "<i>"}}}}}}
    )
    assert (found.summary, found.answers[0].about, found.fields, found.open) == ("<b>", "<i>", [], True)
