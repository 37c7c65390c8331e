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
