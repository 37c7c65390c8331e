"""The client for NeMo Gym's head server."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress

import pytest
import respx

from ng_rollouts.agents.head_server import _parsed_yaml, fetch_server_config
from ng_rollouts.agents.server_config import parse_server_config
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.errors import Unreachable


def fetch(port: int, engine: str = "auto", seconds: float = 0) -> dict[str, str]:
    """The agents that the head server at a port lists."""
    return asyncio.run(fetch_server_config(HeadServer(port=port), "'x' (1 rows)", seconds, engine)).agents


def test_unreachable_head_server_is_reported_with_the_fix() -> None:
    """The message names the address of the head server, and the parameters that make it unnecessary."""
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 cannot be reached .* give \+agent_url=URL"):
        fetch(port=9)


def test_head_server_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A head server that does not respond is asked again until the time is over, and a message says so."""
    began = time.monotonic()
    with pytest.raises(Unreachable):
        fetch(port=9, seconds=1.2)
    assert time.monotonic() - began > 1.2
    assert re.fullmatch(
        r"waiting up to [12] s for the head server at http://127.0.0.1:9, for 'x' \(1 rows\) \(connection_refused\)\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("body", [b"not json", b"[1]", b'"a: [b"', b"3"])
def test_other_server_on_the_port_of_the_head_server_is_reported(body: bytes) -> None:
    """A reply that is not YAML in a JSON string means that another server listens on the port."""
    with respx.mock:
        respx.get("http://127.0.0.1:7/global_config_dict_yaml").respond(content=body)
        with pytest.raises(Unreachable, match=r"http://127.0.0.1:7 is not a NeMo Gym head server"):
            fetch(port=7, engine="httpx")


def test_entries_of_the_global_config_become_urls() -> None:
    """Interpolations are resolved, 0.0.0.0 becomes the head server's host, and entries without an address are skipped."""
    entry = {"entrypoint": "app.py", "host": "${base_host}", "port": 5}
    config = {
        "base_host": "127.0.0.2",
        "one": {"responses_api_agents": {"simple_agent": entry}},
        "two": {"responses_api_agents": {"simple_agent": {"host": "0.0.0.0", "port": 6}}},
        "three": {"responses_api_agents": {"simple_agent": {"host": "${nowhere}", "port": 7}}},
        "four": {"responses_api_models": {"m": {"host": "h", "port": 8}}},
        "five": "text",
    }
    assert parse_server_config(config, HeadServer(host="head")).agents == {
        "one": "http://127.0.0.2:5",
        "two": "http://head:6",
    }


@pytest.mark.parametrize(
    "host",
    [
        "${oc.env:HOME}",
        "${oc.env:HOME}.example.org",
        "${hydra:runtime.cwd}",
        "${loop}",
        "${deep.x}${oc.env:HOME}",
        "${oc.decode:'1'}",
        "${one}",
        "${..two}",
    ],
)
def test_config_of_a_head_server_reads_nothing_of_this_machine(host: str) -> None:
    """Only plain references within the config are replaced: no resolver runs, and loops end."""
    config = {
        "loop": "${loop}",
        "deep": {"x": "value"},
        "one": {"responses_api_agents": {"simple_agent": {"host": host, "port": 5}}},
        "two": {"responses_api_agents": {"simple_agent": {"host": "${deep.x}", "port": "${deep.port}"}}},
        "three": {"responses_api_agents": {"simple_agent": {"host": "${deep.x}", "port": 5}}},
    }
    assert parse_server_config(config, HeadServer(host="head")).agents == {"three": "http://value:5"}


@pytest.mark.parametrize("reference", ["*{}", "{{<<: [{}]}}"], ids=["aliases", "merge keys"])
def test_nested_aliases_of_a_head_server_take_no_time(reference: str) -> None:
    """A YAML text of a few hundred bytes that stands for gigabytes is read, or rejected, at once."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 12):
        references = ", ".join([f"*a{level - 1}"] * 9)
        value = f"[{references}]" if reference == "*{}" else f"{{<<: [{references}]}}"
        lines.append(f"a{level}: &a{level} {value}")
    lines.append("one: {responses_api_agents: {simple_agent: {host: h, port: 5}}}")
    with respx.mock:
        respx.get("http://127.0.0.1:7/global_config_dict_yaml").respond(json="\n".join(lines))
        with suppress(Unreachable):
            assert fetch(port=7, engine="httpx") == {"one": "http://h:5"}


@pytest.mark.parametrize("port", ["7", "'7'"])
def test_port_of_an_agent_may_be_text(port: str) -> None:
    """Scalars are read as text: a port is one with or without quotes, and a missing value is none."""
    text = f"one: {{responses_api_agents: {{a: {{host: h, port: {port}}}}}}}\n"
    text += "two: {responses_api_agents: {a: {host: null, port: 7}}}\n"
    text += "three: {responses_api_agents: {a: {host: h, port: ~}}}\n"
    assert parse_server_config(_parsed_yaml(text), HeadServer(host="head")).agents == {"one": "http://h:7"}


def test_host_that_is_a_list_of_aliases_is_left_out() -> None:
    """The text of nested aliases would take gigabytes, so a value that is not text is never formatted."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    lines.append("one: {responses_api_agents: {a: {host: *a11, port: 7}}}")
    assert parse_server_config(_parsed_yaml("\n".join(lines)), HeadServer(host="head")).agents == {}
