"""Command-line arguments to overrides in Hydra's grammar."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ng_rollouts.config.literal_text import marked, unmark_values
from ng_rollouts.config.overrides import Keys, quoted
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError

KEYS = Keys.of(CollectConfig, {"sampling"})


def rewritten(*arguments: str) -> list[str]:
    return KEYS.rewrite(arguments)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_plus_signs_are_optional(plus: str) -> None:
    """`k=v`, `+k=v` and `++k=v` mean the same for parameters, for keys of a dict and for config groups."""
    typed = [f"{plus}limit=3", f"{plus}responses_create_params.temperature=0.7", f"{plus}sampling=sft"]
    assert rewritten(*typed) == ["limit=3", "++responses_create_params.temperature=0.7", "sampling=sft"]


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
