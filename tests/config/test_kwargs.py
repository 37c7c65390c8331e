"""Keywords of the Python API to a configuration."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from ng_rollouts import Parameters
from ng_rollouts.config.groups import group_names
from ng_rollouts.config.kwargs import config_of
from ng_rollouts.config.parameters import CollectConfig, HeadServer, Prices
from ng_rollouts.errors import ConfigError


def test_keywords_are_the_parameters_and_the_config_groups() -> None:
    """The keywords of the Python API are the parameters of the command and the config groups, without exception."""
    assert set(Parameters.__annotations__) == {field.name for field in fields(CollectConfig)} | group_names()


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"head_server": {"port": 12000}}, {"head_server": HeadServer(port=12000)}),
        ({"price_per_million": {"input": 1, "output": 2.5}}, {"price_per_million": Prices(input=1.0, output=2.5)}),
        ({"limit": np.int64(3), "min_coverage": 1}, {"limit": 3, "min_coverage": 1.0}),
        ({"prompt_config": Path("p.yaml"), "limit": None}, {"prompt_config": "p.yaml", "limit": None}),
        ({"min_mean": MappingProxyType({"reward": 0.5})}, {"min_mean": {"reward": 0.5}}),
        ({"sampling": "dpo"}, {"num_repeats": 3}),
        ({"sampling": "dpo", "num_repeats": 2}, {"num_repeats": 2}),
        (
            {"sampling": "sft", "responses_create_params": {"temperature": 0.5}},
            {"responses_create_params": {"temperature": 0.5, "top_p": 0.95}},
        ),
        ({"sampling": {"num_repeats": 5}, "verifier": None}, {"num_repeats": 5, "verifier": {}}),
        ({"sampling": None, "executor": {"kind": "local"}}, {"num_repeats": 1, "executor": {"kind": "local"}}),
        ({"agent": "local_server"}, {"agents": {"local_server": {"url": "http://127.0.0.1:8000"}}}),
        (
            {"agent_url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]},
            {"agent_url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]},
        ),
    ],
)
def test_python_values_are_converted_and_override_config_groups(
    keywords: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Paths, mappings and NumPy numbers are converted, groups are given by name or as a dict, and keywords override them."""
    config = config_of({"input_jsonl_fpath": Path("t.jsonl"), "output_jsonl_fpath": "r.jsonl", **keywords})
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.input_jsonl_fpath == "t.jsonl"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"agent_nam": "a"}, "unknown parameter 'agent_nam', did you mean agent_name?"),
        ({"head_server": {"prot": 1}}, "unknown parameter 'head_server.prot', did you mean port?"),
        ({"limit": "4"}, "limit must be int or None, got '4'"),
        ({"overwrite": 1}, "overwrite must be bool, got 1"),
        ({"limit": True}, "limit must be int or None, got True"),
        ({"agents": ["a"]}, "agents must be dict, got ['a']"),
        ({"sampling": 3}, "sampling must be a name (dpo, eval, research, rl, sft) or a dict, got 3"),
        ({"executor": ["ray"]}, "executor must be a name (local, ray) or a dict, got ['ray']"),
        ({"sampling": "sfd"}, "sampling must be one of dpo, eval, research, rl, sft, got 'sfd', did you mean sft?"),
        ({"input_jsonl_fpath": None}, "input_jsonl_fpath must be str, got None"),
    ],
)
def test_wrong_keyword_is_an_error_that_names_it(keywords: dict[str, Any], message: str) -> None:
    """An unknown keyword, or a value of the wrong type, is an error with the keyword, the value and the alternatives."""
    with pytest.raises(ConfigError) as error:
        config_of({"input_jsonl_fpath": "t.jsonl", "output_jsonl_fpath": "r.jsonl", **keywords})
    assert str(error.value) == message
