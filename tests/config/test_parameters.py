"""The parameters of a run, and values that contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.config.fields import spec_of
from ng_rollouts.config.parameters import SECTIONS, CollectConfig, HeadServer, JudgePrices, Prices
from ng_rollouts.config.validation import zero_names
from ng_rollouts.errors import ConfigError
from tests.conftest import FILES, Ran, assert_rejected_before_sending
from tests.servers import Served


def test_every_parameter_is_documented() -> None:
    """Every field of every section is a parameter with a help text, or a nested configuration of such parameters."""
    nested = {"head_server": HeadServer, "price_per_million": Prices, "judge_price_per_million": JudgePrices}
    documented = []
    for section in (*SECTIONS, *nested.values()):
        for field in fields(section):
            if field.name in section.__annotations__ and field.name not in nested:
                spec = spec_of(field)
                assert spec, f"{section.__name__}.{field.name} is not defined by param()"
                assert spec.help, f"{section.__name__}.{field.name} has no help text"
                documented.append((section, field.name))
    assert {name for _, name in documented} >= {field.name for field in fields(CollectConfig)} - nested.keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shard_index": 1}, "shard_index and num_shards go together"),
        ({"shard_index": 4, "num_shards": 4}, "shard_index must be from 0 to num_shards - 1 = 3, got 4"),
        ({"shard_index": 0, "num_shards": 0}, "num_shards must be >= 1"),
        ({"shard_from": "slurm", "shard_index": 0}, "give one of them"),
        ({"shard_from": "pbs"}, "shard_from must be slurm or null"),
    ],
)
def test_invalid_shard_is_an_error(values: dict[str, Any], message: str) -> None:
    """A shard that is incomplete, out of range or given twice is an error of the configuration."""
    with pytest.raises(ConfigError) as error:
        CollectConfig(input_jsonl_fpath="i", output_jsonl_fpath="o", **values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+policy_api=chat"], "policy_api must be one of"),
        (["+responses_create_params.topp=1"], "topp"),
        (["+policy_api=responses", "+num_repeats_add_seed=true"], "num_repeats_add_seed"),
        (["+max_steps=0"], "max_steps"),
        (["+max_requests_per_minute=0"], "max_requests_per_minute"),
        (["+agent_url=http://127.0.0.1:1"], "give one of them"),
    ],
    ids=[
        "unknown API",
        "misspelled sampling parameter",
        "seeds with an API that has none",
        "no steps",
        "no requests per minute",
        "agent server and model server",
    ],
)
def test_invalid_model_parameter_is_reported_before_any_request(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], arguments: list[str], message: str
) -> None:
    """A parameter of a model server that is out of range, unknown or contradictory ends the command with exit code 2."""
    server = serve_model()
    assert_rejected_before_sending(collect_sums(server.url, *arguments), server, message)


@pytest.mark.parametrize(
    "argument", ["+max_failed_rollouts=nan", "+rollout_timeout_s=inf", "+connect_timeout_s=1e15", "+drain_s=-1"]
)
def test_number_out_of_range_is_a_usage_error(
    command: Callable[..., Ran], tasks: Callable[..., Path], argument: str
) -> None:
    """A number that is not finite, negative or absurdly large is one line on stderr with exit code 2."""
    tasks(1)
    ran = command(*FILES, argument)
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr


@pytest.mark.parametrize("name", ["eval_missing", "env_failed", "judge_failed", "reference_missing", "masked_by_env"])
def test_failure_classes_that_resemble_a_name_are_accepted(name: str) -> None:
    """NeMo Gym's failure classes may end as `failed` and `missing` do."""
    assert zero_names(name, None, missing=False) == [name]
    assert zero_names(None, [name], missing=False) == [name]


@pytest.mark.parametrize(("name", "near"), [("Failed", "failed"), ("mask", "masked"), ("mising", "missing")])
def test_misspelled_names_that_count_as_zero_are_errors(name: str, near: str) -> None:
    """A name that is almost `failed`, `masked` or `missing` is taken for a mistake."""
    with pytest.raises(ConfigError, match=f"did you mean {near}?"):
        zero_names(name, None, missing=False)
