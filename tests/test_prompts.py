"""Prompt templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.inputs.task_parser import TaskParser
from ng_rollouts.templates import Template, load_template


def template(tmp_path: Path, text: str) -> Template:
    path = tmp_path / "prompt.yaml"
    path.write_text(text)
    return load_template(str(path))


def test_fields_fill_and_braces_escape(tmp_path: Path) -> None:
    """`{field}` is the row's field, `{{ }}` are braces; text in the row is never a template."""
    filled = template(tmp_path, "system: Be {mood}\nuser: 'Q: {q} {{x}} {n}'").fill(
        {"mood": "kind", "q": "{n}", "n": 3}
    )
    assert filled == [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Q: {n} {x} 3"}]


@pytest.mark.parametrize("placeholder", ["{q.__class__}", "{q[0]}"])
def test_a_template_reaches_fields_not_attributes(tmp_path: Path, placeholder: str) -> None:
    """A dotted or indexed name is a field of that very name, which the row lacks."""
    with pytest.raises(InputError, match="which the row does not have"):
        template(tmp_path, f"user: '{placeholder}'").fill({"q": "x"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("system: x", "needs a `user:` template"),
        ("- x", "needs a `user:` template"),
        ("user: '{'", "write {{ and }}"),
        ("user: '{}'", "a placeholder must be the name of a field"),
        ("user: '{q!r}'", "a placeholder must be the name of a field"),
        ("user: x\nuser_: y", "unknown keys: user_"),
        ("user: [", "cannot be read"),
    ],
)
def test_a_bad_template_is_named(tmp_path: Path, text: str, told: str) -> None:
    """What is wrong with a template is said before any row is read."""
    with pytest.raises(ConfigError) as error:
        template(tmp_path, text)
    assert told in str(error.value)


def test_a_template_makes_the_input_and_never_replaces_one(tmp_path: Path) -> None:
    """A row with a non-empty input is an error; an empty one is filled."""
    recipe = TaskParser(agent_name="a", template=template(tmp_path, "user: '{q}'"))
    for row in (b'{"q": "hi"}', b'{"q": "hi", "responses_create_params": {"input": []}}'):
        assert recipe.parse(row).row["responses_create_params"]["input"] == [{"role": "user", "content": "hi"}]
    with pytest.raises(InputError, match="already has an input"):
        recipe.parse(b'{"q": "hi", "responses_create_params": {"input": "there"}}')
