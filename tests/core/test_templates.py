"""Prompt templates make a row's input from its fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.templates import Template, load_template
from tests.inputs.helpers import parser_of


def template(tmp_path: Path, text: str) -> Template:
    """Write a template file and load it."""
    path = tmp_path / "prompt.yaml"
    path.write_text(text)
    return load_template(str(path))


def test_template_fills_fields_and_escapes_braces(tmp_path: Path) -> None:
    """`{field}` becomes the row's field and `{{ }}` become braces; the value of a field is not parsed as a template."""
    filled = template(tmp_path, "system: Be {mood}\nuser: 'Q: {q} {{x}} {n}'").fill(
        {"mood": "kind", "q": "{n}", "n": 3}
    )
    assert filled == [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Q: {n} {x} 3"}]


def test_null_field_needs_a_default(tmp_path: Path) -> None:
    """A field that is null or missing is an error that names it, unless the template has a default for it."""
    with pytest.raises(InputError, match="'hint', which is null"):
        template(tmp_path, "user: '{q} {hint}'").fill({"q": "x", "hint": None})
    with_default = template(tmp_path, "user: '{q} {hint}'\ndefault: {hint: none given}")
    for row in ({"q": "x"}, {"q": "x", "hint": None}):
        assert with_default.fill(row)[0]["content"] == "x none given"


def test_empty_default_is_an_empty_text(tmp_path: Path) -> None:
    """YAML reads a default without a value as null; the prompt has nothing there."""
    for default in ("{hint: }", "{hint: ''}", "{hint: null}"):
        assert template(tmp_path, f"user: 'q{{hint}}'\ndefault: {default}").fill({})[0]["content"] == "q"


def test_other_values_than_text_are_filled_in_as_json(tmp_path: Path) -> None:
    """Models know JSON better than the notation of Python."""
    filled = template(tmp_path, "user: '{a} {b} {c}'").fill({"a": True, "b": 1.5, "c": ["x", {"y": 1}]})
    assert filled[0]["content"] == 'true 1.5 ["x",{"y":1}]'


@pytest.mark.parametrize("placeholder", ["{q.__class__}", "{q[0]}"])
def test_template_does_not_read_attributes_or_items(tmp_path: Path, placeholder: str) -> None:
    """A dotted or indexed placeholder is the name of a field, so it is an error if the row has no such field."""
    with pytest.raises(InputError, match="which the row does not have"):
        template(tmp_path, f"user: '{placeholder}'").fill({"q": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system: x", "needs a `user:` template"),
        ("- x", "needs a `user:` template"),
        ("user: '{'", "write {{ and }}"),
        ("user: '{}'", "a placeholder must be the name of a field"),
        ("user: '{q!r}'", "a placeholder must be the name of a field"),
        ("user: x\nuser_: y", "unknown keys: user_"),
        ("user: [", "cannot be read"),
        ("user: '{hint}'\ndefault: {hnt: x}", "`default` has 'hnt', which the template does not use"),
    ],
)
def test_invalid_template_is_rejected_when_loaded(tmp_path: Path, text: str, message: str) -> None:
    """An error in a template is reported when the file is loaded, before any row is read."""
    with pytest.raises(ConfigError) as error:
        template(tmp_path, text)
    assert message in str(error.value)


def test_missing_template_is_reported_with_its_name_once() -> None:
    """The message about a file that cannot be read has its name and the reason, without an error number."""
    with pytest.raises(ConfigError, match=r"^prompt_config nope.yaml cannot be read: No such file or directory$"):
        load_template("nope.yaml")


def test_template_fills_an_empty_input_and_rejects_another(tmp_path: Path) -> None:
    """A template sets a missing or empty input; a row that already has an input is an error."""
    parser = parser_of(template=template(tmp_path, "user: '{q}'"))
    for row in (b'{"q": "hi"}', b'{"q": "hi", "responses_create_params": {"input": []}}'):
        assert parser.parse(row).row["responses_create_params"]["input"] == [{"role": "user", "content": "hi"}]
    with pytest.raises(InputError, match="already has an input"):
        parser.parse(b'{"q": "hi", "responses_create_params": {"input": "there"}}')
