"""Command-line arguments to overrides in Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ng_rollouts.config.literal_text import marked, unmark_values
from ng_rollouts.config.overrides import NEEDLESS, Keys, quoted
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from tests.conftest import EXAMPLE, Ran, read_rows

KEYS = Keys.of(CollectConfig, {"sampling"})


def rewritten(*arguments: str) -> list[str]:
    return KEYS.rewrite(arguments)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_plus_signs_are_optional(plus: str) -> None:
    """`k=v`, `+k=v` and `++k=v` mean the same for parameters, for keys of a dict and for config groups."""
    typed = [f"{plus}limit=3", f"{plus}responses_create_params.temperature=0.7", f"{plus}sampling=sft"]
    assert rewritten(*typed) == ["limit=3", "++responses_create_params.temperature=0.7", "sampling=sft"]


@pytest.mark.parametrize("value", ["2", "3", "-1", "+7", "10", "00", "1_0"])
def test_integer_is_no_boolean(value: str) -> None:
    """Integers other than 0 and 1 are probably meant for another parameter, such as the number of rollouts in flight."""
    with pytest.raises(ConfigError, match=f"adaptive_parallelism must be true or false, got '{re.escape(value)}'"):
        rewritten(f"+adaptive_parallelism={value}")


@pytest.mark.parametrize("value", ["true", "false", "yes", "no", "on", "off", "1", "0", "True"])
def test_words_for_booleans_are_accepted(value: str) -> None:
    """Hydra reads them."""
    assert rewritten(f"+stop_ok={value}") == [f"stop_ok={value}"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_quoted_text_is_parsed_back_unchanged(text: str) -> None:
    """Hydra's parser returns any quoted text unchanged."""
    value = OverridesParser.create().parse_override(f"k={quoted(text)}").value()
    assert getattr(value, "text", value) == text


@pytest.mark.parametrize("path", ["a=b, c (d)#é.jsonl", "it's.jsonl", "1e3", "日本/x.jsonl", "a;b&c<d>"])
def test_paths_need_no_quotes(path: str) -> None:
    """A path with any character reaches the configuration unchanged."""
    [override] = rewritten(f"+input_jsonl_fpath={path}")
    assert OverridesParser.create().parse_override(override).value() == path


@pytest.mark.parametrize(
    "name", ["verifier.pattern", "responses_create_params.instructions", "agents.solver.verifier.pattern"]
)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"])))
@example(text=r"[A-J](?=[^A-J]*$)")
@example(text='{"a": 1}, please')
@example(text="str(a)")
@example(text=r"\\boxed")
@example(text="  leading blanks")
@example(text="37")
@example(text="true")
@example(text="null")
@example(text="???")
@example(text="${x}")
@example(text="$${x}")
@example(text=r"\${x}")
@example(text="x${")
@example(text="${oc.env:HOME}")
@example(text=marked("${x}"))
def test_free_text_is_taken_as_it_is_typed(name: str, text: str) -> None:
    """A pattern or instructions can be any text: nothing in it has another meaning to Hydra or OmegaConf."""
    config = composed(f"+{name}={text}")
    for key in name.split("."):
        config = config[key]
    assert config == text


def composed(*arguments: str) -> Any:
    """The configuration that these arguments give, with free text as it was typed."""
    overrides = OverridesParser.create().parse_overrides(rewritten(*arguments))
    config = OmegaConf.create({})
    for each in overrides:
        OmegaConf.update(config, each.key_or_group, each.value())
    container = OmegaConf.to_container(config, resolve=True)
    unmark_values(container)
    return container


@pytest.mark.parametrize("name", ["agents.a.tools", "agents.a.policy_model_name"])
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_names_in_an_entry_of_agents_need_no_quotes(name: str, text: str) -> None:
    """They are text as the top-level parameters of that name, for which `null` is no value."""
    assume(text != "null")
    [override] = rewritten(f"+{name}={text}")
    value = OverridesParser.create().parse_override(override).value()
    assert getattr(value, "text", value) == text


def test_api_key_of_a_verifier_may_be_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation promises it for keys only."""
    monkeypatch.setenv("MY_KEY", "secret")
    assert composed("+verifier.api_key=${oc.env:MY_KEY}") == {"verifier": {"api_key": "secret"}}
    assert composed("+verifier.api_key=a${b}") == {"verifier": {"api_key": "a${b}"}}


def test_flags_go_first_and_commas_are_sweeps_only_with_multirun() -> None:
    """Flags can be anywhere and are moved to the front; a comma is part of the text, except with `-m`."""
    assert rewritten("+limit=1", "--cfg", "job") == ["--cfg", "job", "limit=1"]
    assert rewritten("-m", "agent_name=a,b") == ["-m", "agent_name=a,b"]
    assert rewritten("agent_name=a,b") == ["agent_name='a,b'"]
    assert rewritten("-m", "limit=range(1,3)") == ["-m", "limit=range(1,3)"]


def test_structured_values_keep_their_meaning_in_hydra() -> None:
    """Lists, dicts, numbers, null, JSON and Hydra's own overrides keep the meaning that they have in Hydra."""
    typed = ["num_repeats={a: 1, _default: 2}", "agent_url=[http://a,http://b]", "limit=null", "agent_name=null"]
    assert rewritten(*typed) == typed
    dicts = [
        '+responses_create_params={"temperature": 0.3, "stop": ["a,b"]}',
        "responses_create_params={top_p: 1}",
        "+sampling=null",
    ]
    assert rewritten(*dicts) == [
        "++responses_create_params={temperature:0.3,stop:['a,b']}",
        "++responses_create_params={top_p: 1}",
    ]
    assert rewritten("+responses_create_params.tools=[{a: 1}]") == ["++responses_create_params.tools=[{a: 1}]"]
    assert rewritten("hydra.verbose=true", "~sampling", "sampling@x=y") == [
        "hydra.verbose=true",
        "~sampling",
        "sampling@x=y",
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+num_repeat=3", "did you mean +num_repeats=?"),
        ("+head_server.prot=1", "did you mean +head_server.port=?"),
        ("+sampler=sft", "did you mean +sampling=?"),
        ("+upload_rollouts_to_wandb=false", "a parameter of NeMo Gym: leave it out"),
        ("+skills.path=a", "a parameter of NeMo Gym: "),
        ("+zzz=1", "--help lists all parameters"),
        ("+limit", "+limit needs a value"),
        ("limit", "limit needs a value"),
        ("limt", "did you mean +limit=?"),
        ("--limit=3", "parameters are written +limit=3"),
        ("--wat", "unknown flag --wat: parameters are written +wat=VALUE"),
        ("--input=x.jsonl", "parameters are written +input=x.jsonl, did you mean +input_jsonl_fpath=? (see --help)"),
        ("+temperature=0.7", "did you mean +responses_create_params.temperature=?"),
    ],
)
def test_unknown_argument_is_an_error_that_suggests_a_fix(argument: str, message: str) -> None:
    """An unknown key or flag is an error that suggests the nearest known name, or the way to write it."""
    with pytest.raises(ConfigError) as error:
        rewritten(argument)
    assert message in str(error.value)


NEMO_GYM_0_7 = (
    "agent_map agent_name allow_unsupported_pairing count_failure_classes_as_zero count_missing_rollouts_as_zero "
    "disable_aggregation disable_health_check dispatch_budget_s dispatch_longest_first drain_margin_s "
    "environment_routing_mode environment_server_name environment_server_routes fan_out head_server "
    "health_check_ignored_checks health_check_workers input_jsonl_fpath interleave_repeats limit "
    "max_resident_rollout_tasks model_call_capture_dir num_repeats num_repeats_add_seed num_samples_in_parallel "
    "observability_enabled output_jsonl_fpath prompt_config require_complete responses_create_params "
    "resume_from_cache retain_results_in_memory retry_invalid_judge_responses retry_terminal_timeouts "
    "rollout_collection_driver route_failures_to_sidecar skills skip_verification skip_verification_reward split "
    "token_id_capture upload_rollouts upload_rollouts_to_wandb wandb_project config_paths"
).split()
"""The parameters of the collector of NeMo Gym 0.7."""


@pytest.mark.parametrize("name", NEMO_GYM_0_7)
def test_every_parameter_of_nemo_gym_is_known(name: str) -> None:
    """It works, or is accepted without effect, or the error says that it is NeMo Gym's and what to use instead."""
    keys = Keys.of(CollectConfig, ())
    if name in keys.parameters or name in keys.dicts or name in NEEDLESS or name == "head_server":
        return
    with pytest.raises(ConfigError, match=f"{name}'? here, a parameter of NeMo Gym: "):
        keys.rewrite([f"+{name}=1"])


def test_needless_parameters_of_nemo_gym_are_accepted_with_a_note(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A parameter that has no effect here does not end the command, and one line says why none is needed."""
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+limit=1", "++retain_results_in_memory=false")
    assert ran.code == 0, ran.stderr
    assert "note: retain_results_in_memory has no effect: results are never kept in memory" in ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) == 1


def test_keys_of_dicts_may_have_punctuation() -> None:
    """A key of a JSON object that Hydra's grammar would read as something else is escaped."""
    [override] = Keys.of(CollectConfig, ()).rewrite(['+environment_server_routes={"env:a b": "x"}'])
    assert override == r"++environment_server_routes={env\:a\ b:'x'}"
