"""How the configuration is composed: the short way of a run without flags, and Hydra's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ng_rollouts.cli.collect import _compose
from ng_rollouts.config.groups import group_names, members
from ng_rollouts.config.overrides import Keys
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError

FILES = ["+input_jsonl_fpath=in put's.jsonl", "+output_jsonl_fpath=o=1,2.jsonl"]

OVERRIDES = {
    "none": [],
    "numbers, null and lists": ["+num_repeats=4", "++limit=null", "+export=[wandb,parquet]"],
    "dicts": [
        "+responses_create_params={temperature: 0.7}",
        '+min_mean={"reward": 0.5}',
        "+agents.mine.url=http://h:1",
    ],
    "text that looks like more": [
        "+policy_model_name='a b'",
        "+responses_create_params.instructions=${x} ???",
        "+status_file=null",
    ],
    "interpolation": ["+num_repeats=4", "+limit=${num_repeats}", "+policy_api_key=${oc.env:NO_SUCH_VARIABLE}"],
    "deletion": ["~responses_create_params"],
    **{
        f"{group}={name}": [f"+{group}={name}", "+num_repeats=2"]
        for group in sorted(group_names())
        for name in members(group)
    },
}

MISTAKES = {
    "a member that does not exist": ["+verifier=exact_mach"],
    "a value of the wrong type": ["+max_attempts=several"],
    "brackets that do not close": ["+responses_create_params={temperature: 0.7"],
    "two members without -m": ["+sampling=sft,rl"],
}


def composed(arguments: list[str]) -> Any:
    """What Hydra passes to a run."""
    configs: list[Any] = []
    _compose(arguments, configs.append)
    (config,) = configs
    return config


@pytest.fixture(autouse=True)
def as_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Call Hydra as the command does, in a folder for its log file, and restore `sys.argv`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["ng_collect_rollouts"])


def overrides_of(typed: list[str]) -> list[str]:
    return Keys.of(CollectConfig, group_names()).rewrite([*FILES, *typed])


@pytest.mark.parametrize("typed", OVERRIDES.values(), ids=OVERRIDES.keys())
def test_run_without_flags_has_the_configuration_that_hydra_main_composes(typed: list[str]) -> None:
    """The configuration of a run does not depend on the way that it was composed: `--run`, the default, changes none."""
    overrides = overrides_of(typed)
    short, long = composed(overrides), composed(["--run", *overrides])
    assert OmegaConf.to_yaml(short) == OmegaConf.to_yaml(long)
    assert OmegaConf.is_struct(short) == OmegaConf.is_struct(long)
    assert OmegaConf.get_type(short) is OmegaConf.get_type(long)


@pytest.mark.parametrize("typed", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_has_the_same_message_with_and_without_flags(typed: list[str]) -> None:
    """A configuration that cannot be composed is the same error in both ways, but for the shell's quotes in advice."""
    overrides = overrides_of(typed)
    with pytest.raises(ConfigError) as short:
        composed(overrides)
    with pytest.raises(ConfigError) as long:
        composed(["--run", *overrides])
    assert str(short.value) == str(long.value).replace("\\'", "'")


@pytest.mark.parametrize(
    "argument", ["hydra.verbose=true", "hydra/job_logging=default", "limit=${hydra:runtime.choices.sampling}", "--run"]
)
def test_flags_and_settings_of_hydra_have_all_of_hydra(argument: str) -> None:
    """A flag, or an argument that names Hydra, is handled by `hydra.main`."""
    are_set: list[bool] = []
    _compose([*overrides_of([]), argument], lambda _: are_set.append(HydraConfig.initialized()))
    assert are_set == [True]
