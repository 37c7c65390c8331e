"""Config groups: in the command, in the Python API, and the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ng_rollouts.config.groups import group_names, group_values
from tests.conftest import ROOT, Ran
from tests.servers import Served


@pytest.mark.parametrize(
    ("strategy", "temperature", "top_p", "repeats"),
    [
        ("sft", 0.2, 0.95, 1),
        ("dpo", 0.7, 0.9, 3),
        ("rl", 0.5, 0.95, 1),
        ("eval", 0.1, 0.95, 1),
        ("research", 0.9, 0.9, 5),
    ],
)
def test_sampling_strategy_sets_defaults_that_explicit_parameters_override(
    command: Callable[..., Ran], strategy: str, temperature: float, top_p: float, repeats: int
) -> None:
    """`sampling` sets `temperature`, `top_p` and `num_repeats`, and explicit parameters take precedence."""
    ran = command(f"+sampling={strategy}", "--cfg", "job")
    assert f"num_repeats: {repeats}\n" in ran.stdout
    assert f"temperature: {temperature}\n  top_p: {top_p}\n" in ran.stdout
    ran = command("+num_repeats=9", "+responses_create_params.top_p=0.5", f"+sampling={strategy}", "--cfg", "job")
    assert "num_repeats: 9\n" in ran.stdout
    assert f"temperature: {temperature}\n  top_p: 0.5\n" in ran.stdout


def test_agents_can_be_defined_in_a_config_folder_of_the_user(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A config group in the folder of `--config-dir` can define agents."""
    tasks(1)
    (tmp_path / "mine" / "agent").mkdir(parents=True)
    entry = f"# @package _global_\nagents:\n  mine:\n    url: {serve().url}\n"
    (tmp_path / "mine" / "agent" / "lab.yaml").write_text(entry)
    ran = command(
        "+agent_name=mine",
        "+agent=lab",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "--config-dir",
        "mine",
    )
    assert ran.code == 0, ran.stderr


@pytest.mark.parametrize("group", sorted(group_names()))
def test_groups_have_the_same_values_in_the_command_and_in_the_api(command: Callable[..., Ran], group: str) -> None:
    """`group_values`, which the Python API uses, returns the values that Hydra composes for the command."""
    for file in (ROOT / "conf" / group).glob("*.yaml"):
        ran = command(
            "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", f"+{group}={file.stem}", "--cfg", "job"
        )
        composed = yaml.safe_load(ran.stdout)
        values = group_values(group, file.stem)
        assert {name: composed[name] for name in values} == values, file
