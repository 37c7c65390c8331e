"""Interoperability with litellm's proxy and `transformers serve`, both installed from PyPI."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Ran, keys_of, read_rows
from tests.interop.nemo_gym_servers import free_port, wait_for
from tests.own_venvs import environment_of
from tests.servers import Served

pytestmark = pytest.mark.interop

Command = Callable[..., Ran]

LITELLM = "litellm[proxy]>=1.80"
TRANSFORMERS = ("transformers[serving]>=5", "torch==2.13.0")


@pytest.fixture(scope="module")
def litellm(model: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of litellm's proxy: `mock` answers itself, `behind` forwards to the model server, `limited` sends 429."""
    folder = environment_of(LITELLM)
    mocked = {"model": "openai/mock", "api_key": "none"}
    names = {
        "mock": {**mocked, "mock_response": "So it is \\boxed{42}."},
        "behind": {"model": "openai/test-model", "api_key": "none", "api_base": f"{model.url}/v1"},
        "limited": {**mocked, "mock_response": "litellm.RateLimitError"},
    }
    config = {
        "model_list": [{"model_name": name, "litellm_params": params} for name, params in names.items()],
        "general_settings": {"master_key": "sk-interop-1234"},
        "litellm_settings": {"telemetry": False},
    }
    working_folder = tmp_path_factory.mktemp("litellm")
    (working_folder / "config.yaml").write_text(json.dumps(config))
    port = free_port()
    process = subprocess.Popen(
        [str(folder / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
        cwd=working_folder,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    wait_for(url, process)
    yield f"{url}/v1"
    process.kill()
    process.wait()


@pytest.fixture
def sums(tmp_path: Path) -> list[str]:
    """Arguments for tasks that ask for sums with the result 42, and for their verifier."""
    rows = [{"responses_create_params": {"input": f"What is {n} + {42 - n}?"}, "answer": "42"} for n in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verifier = ["+verifier=exact_match", "+verifier.answer_field=answer"]
    return ["+input_jsonl_fpath=sums.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2", *verifier]


@pytest.mark.parametrize("api", ["auto", "responses", "chat_completions"])
def test_litellm_answers_through_each_api(
    command: Command, litellm: str, sums: list[str], tmp_path: Path, api: str
) -> None:
    """With each API of litellm, answers are extracted and scored, and tokens are counted."""
    server = [f"+policy_base_url={litellm}", "+policy_api_key=sk-interop-1234", f"+policy_api={api}"]
    ran = command(*sums, *server, "+policy_model_name=mock")
    assert (ran.code, ran.averages["reward"]) == (0, 1.0), ran.stderr
    rows = read_rows(tmp_path / "r.jsonl")
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(8) for index in range(2)]
    assert {row["output"][-1]["content"] for row in rows} == {"So it is \\boxed{42}."}
    assert all(row["response"]["usage"]["total_tokens"] > 0 for row in rows)


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_tools_and_parameters_pass_through_litellm(
    command: Command, litellm: str, sums: list[str], model: Served, tmp_path: Path, api: str
) -> None:
    """Tool calls and their results pass through litellm in both directions, and sampling parameters reach the model."""
    (tmp_path / "mine.py").write_text('def add(a: int, b: int) -> int:\n    """Add."""\n    return a + b\n')
    server = [f"+policy_base_url={litellm}", "+policy_api_key=sk-interop-1234", f"+policy_api={api}", "+tools=mine.py"]
    ran = command(*sums, *server, "+policy_model_name=behind", "+responses_create_params.temperature=0.7")
    assert ran.code == 0, ran.stderr
    for row in read_rows(tmp_path / "r.jsonl"):
        assert [message["content"] for message in row["output"] if message["role"] == "tool"] == ["42"]
    assert {request.get("temperature") for request in model.stats()["last"][-16:]} == {0.7}


def test_rate_limit_of_litellm_is_retried_and_unknown_model_is_a_warning(
    command: Command, litellm: str, sums: list[str], tmp_path: Path
) -> None:
    """A 429 fails with its status when the budget is spent; a model that litellm does not list gives a warning."""
    server = [f"+policy_base_url={litellm}", "+policy_api_key=sk-interop-1234", "+policy_api=chat_completions"]
    ran = command(*sums, *server, "+policy_model_name=limited", "+retry_budget_s=1", "+limit=2")
    failures = read_rows(tmp_path / "r_failures.jsonl")
    assert ran.code == 1
    assert {failure["failure_class"] for failure in failures} == {"http_429"}
    ran = command(*sums, *server, "+policy_model_name=none", "+limit=2")
    assert "does not list the model 'none': it lists mock, behind, limited" in ran.stderr


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of `transformers serve`, and the name of its model, which calls the tool `add` and then answers 42."""
    folder = environment_of(*TRANSFORMERS, pythons=("python3.13", "python3.12", "python3.11"))
    model = str(tmp_path_factory.mktemp("tiny") / "model")
    # -P: the folders beside the script have names of the standard library
    write = [str(folder / "python"), "-P", str(ROOT / "tests" / "interop" / "tiny_model.py"), model]
    subprocess.run(write, check=True, timeout=120, capture_output=True)
    port = free_port()
    process = subprocess.Popen(
        [str(folder / "transformers"), "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(f"http://127.0.0.1:{port}/health", process)
    yield f"http://127.0.0.1:{port}/v1", model
    process.kill()
    process.wait()


@pytest.mark.parametrize("api", ["auto", "responses", "chat_completions"])
def test_transformers_serve_answers_and_calls_tools(
    command: Command, transformers_serve: tuple[str, str], sums: list[str], tmp_path: Path, api: str
) -> None:
    """200 rollouts with a tool call each are collected over both APIs, with the default settings."""
    (tmp_path / "mine.py").write_text('def add(a: int, b: int) -> int:\n    """Add."""\n    return a + b\n')
    url, model = transformers_serve
    server = [f"+policy_base_url={url}", f"+policy_model_name={model}", f"+policy_api={api}", "+tools=mine.py"]
    ran = command(*sums, *server, "++num_repeats=25")
    assert (ran.code, ran.averages["reward"]) == (0, 1.0), ran.stderr
    rows = read_rows(tmp_path / "r.jsonl")
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(8) for index in range(25)]
    for row in rows:
        assert [message["role"] for message in row["output"]] == ["assistant", "tool", "assistant"]
        assert row["output"][1]["content"] == "42"
        assert row["response"]["status"] == "completed"


def test_transformers_serve_cuts_at_the_token_limit(
    command: Command, transformers_serve: tuple[str, str], sums: list[str], tmp_path: Path
) -> None:
    """An answer of as many tokens as are allowed counts as truncated, though /responses calls it completed."""
    url, model = transformers_serve
    server = [f"+policy_base_url={url}", f"+policy_model_name={model}", "+responses_create_params.max_output_tokens=1"]
    for api in ("responses", "chat_completions"):
        ran = command(*sums, *server, f"+policy_api={api}", f"++output_jsonl_fpath={api}.jsonl")
        assert ran.code == 0, ran.stderr
        ends = {json.dumps(row["response"]["incomplete_details"]) for row in read_rows(tmp_path / f"{api}.jsonl")}
        assert ends == {'{"reason": "max_output_tokens"}'}, api
