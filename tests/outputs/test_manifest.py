"""The manifest decides whether an output belongs to a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.errors import OutputError
from ng_rollouts.outputs.manifest import Manifest, differences, read_manifest, write_manifest
from tests.conftest import FILES, RESUME, Ran
from tests.servers import Served


def manifest(**changed: Any) -> Manifest:
    """A manifest of some run, with these fields changed."""
    default: dict[str, Any] = {
        "rows": 5, "rows_digest": "d", "num_repeats": 2, "agent_name": "a", "responses_create_params": {},
        "num_repeats_add_seed": False, "prompt_template": None, "training_view": True,
    }  # fmt: skip
    return Manifest(**(default | changed))


@pytest.mark.parametrize(
    ("then", "now", "is_same"),
    [
        (2, 3, True),
        (3, 2, False),
        ({"a": 2}, {"a": 3, "b": 1}, True),
        ({"a": 2, "b": 2}, {"a": 3}, False),
        (2, {"_default": 2}, True),
        (2, {"a": 2}, False),
        ({"a": 2}, 2, True),
        ({"a": 3}, 2, False),
    ],
)
def test_num_repeats_may_grow_but_not_shrink(then: Any, now: Any, *, is_same: bool) -> None:
    """`num_repeats` may grow between commands but not shrink for any agent, whether it is a number or by agent."""
    assert (list(differences(manifest(num_repeats=then), manifest(num_repeats=now), "d")) == []) is is_same


def test_invalid_manifest_is_named(command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """A resume with a manifest that is not valid exits with 2 and names the file."""
    tasks(2)
    (tmp_path / "r.jsonl").touch()
    (tmp_path / "r_manifest.json").write_text('{"rows": null}')
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", RESUME)
    assert ran.code == 2
    assert "r_manifest.json cannot be read" in ran.stderr


def test_resume_needs_the_same_model_but_not_the_same_address_or_key(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran]
) -> None:
    """A resume with another model is rejected; the address of the server and the API key may change."""
    first, second = serve_model(models=["a", "b"]), serve_model(models=["a", "b"])
    assert collect_sums(first.url, "+verifier=exact_match", "+policy_model_name=a").code == 0
    resume = [RESUME, "+num_repeats=2", "+verifier=exact_match"]
    assert collect_sums(second.url, *resume, "+policy_model_name=a", "+policy_api_key=k").code == 0
    ran = collect_sums(second.url, *resume, "+policy_model_name=b")
    assert ran.code == 2
    assert 'policy_model_name: "a" then, "b" now' in ran.stderr


@pytest.mark.parametrize("value", [None, "x", 1.5, True, [], {"a": "b"}], ids=repr)
@pytest.mark.parametrize(
    "field", ["rows", "rows_digest", "num_repeats", "model", "rollouts", "input_rows", "num_shards"]
)
def test_manifest_with_a_field_of_the_wrong_type_is_an_error(tmp_path: Path, field: str, value: Any) -> None:
    """Whoever may write the folder cannot cause a traceback: a field of a wrong type is named, or has a valid value."""
    path = tmp_path / "r_manifest.json"
    write_manifest(path, manifest())
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    is_valid = (field, value) in [("rows_digest", "x"), ("model", {"a": "b"}), ("num_shards", None)]
    with nullcontext() if is_valid else pytest.raises(OutputError, match=r"r_manifest\.json cannot be read"):
        read_manifest(path)


def test_manifest_that_is_nested_too_deeply_is_an_error(tmp_path: Path) -> None:
    """A hundred thousand brackets are not a valid manifest, and no traceback."""
    (tmp_path / "r_manifest.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match="cannot be read"):
        read_manifest(tmp_path / "r_manifest.json")
