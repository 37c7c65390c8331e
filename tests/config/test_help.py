"""The text of `--help`."""

from __future__ import annotations

from collections.abc import Callable

from tests.conftest import Ran


def test_help_lists_parameters_and_config_groups_with_type_and_default(command: Callable[..., Ran]) -> None:
    """`--help` lists parameters, nested ones and config groups, each with its type and default."""
    ran = command("--help")
    assert ran.code == 0
    for name in (
        "input_jsonl_fpath",
        "head_server.port",
        "num_samples_in_parallel",
        "sampling=sft",
        "agent=local_server",
    ):
        assert f"+{name}\n" in ran.stdout
    assert "[int, 11000]" in ran.stdout
    assert "[int or dict, 1]" in ran.stdout
    assert "0    all rollouts collected, or no more failed than max_failed_rollouts allows" in ran.stdout
    assert "129  interrupted by SIGHUP" in ran.stdout


def test_help_of_other_commands_has_required_parameters_and_an_example(command: Callable[..., Ran]) -> None:
    """The usage line has the required parameters, and an example follows it."""
    ran = command("--help", script="ng_reward_profile")
    usage = "usage: ng_reward_profile +rollouts_jsonl_fpath=... [+key=value ...]"
    example = "ng_reward_profile +rollouts_jsonl_fpath=rollouts.jsonl"
    assert (ran.code, f"\n\n{usage}\n\n  {example}" in ran.stdout) == (0, True), ran.stdout
