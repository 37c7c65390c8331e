"""Interoperability with NeMo Gym's servers, litellm's proxy and `transformers serve`, all installed from PyPI."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Ran, keys_of, read_rows
from tests.nemo_gym_servers import free_port, wait_for
from tests.own_venvs import environment_of
from tests.servers import Served, ThreadServer

pytestmark = pytest.mark.interop

Command = Callable[..., Ran]

ENVIRONMENTS = ("mcqa", "example_single_tool_call", "example_session_state_mgmt")
NEMO_GYM = "nemo-gym==0.4.0"
LITELLM = "litellm[proxy]>=1.80"
TRANSFORMERS = ("transformers[serving]>=5", "torch==2.13.0")
RESUME = "+resume_from_cache=true"


@dataclass(frozen=True)
class Gym:
    """NeMo Gym's running servers.

    Attributes:
        bin: the folder of its commands.
        port: the port of its head server.
        model: the model behind its model server.
    """

    bin: Path
    port: int
    model: Served

    def data(self, environment: str) -> Path:
        """The example tasks of an environment."""
        return self._package / "resources_servers" / environment / "data" / "example.jsonl"

    def entry(self, name: str) -> Any:
        """The head server's entry for a server."""
        import yaml

        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/global_config_dict_yaml") as reply:
            entry = yaml.safe_load(json.load(reply))[name]
        return next(iter(next(iter(entry.values())).values()))

    def url_behind(self, agent: str, kind: str) -> str:
        """The URL of a server that an agent refers to."""
        return "http://{host}:{port}".format(**self.entry(self.entry(agent)[kind]["name"]))

    @property
    def model_requests(self) -> int:
        """The number of requests that the model has answered."""
        return int(self.model.stats()["asked"].get("/v1/responses", 0))

    @property
    def _package(self) -> Path:
        return next((self.bin.parent / "lib").glob("python3.*/site-packages"))


@pytest.fixture(scope="module")
def model() -> Iterator[Served]:
    """A model that calls each tool it is offered, and then answers E."""
    increments = [["increment_counter", {"count": 0}], ["increment_counter", {"count": 1}]]
    calls = [*increments, ["get_counter_value", {}], ["get_weather", {}], ["add", {"a": 0, "b": 1}]]
    server = ThreadServer("model", {"calls": calls, "text": "\\boxed{E}"})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gym(model: Served) -> Iterator[Gym]:
    """The servers of NeMo Gym, with three environments."""
    folder = environment_of(NEMO_GYM)
    configs = [f"resources_servers/{name}/configs/{name}.yaml" for name in ENVIRONMENTS]
    configs.append("responses_api_models/openai_model/configs/openai_model.yaml")
    options = {"configs": configs, "policy": f"{model.url}/v1", "secret": "sk-of-the-policy"}
    process = subprocess.Popen(
        [str(folder / "python"), "-P", str(ROOT / "tests" / "nemo_gym_servers.py"), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    port = next((line for line in process.stdout if line.strip().isdecimal()), None)
    assert port, "NeMo Gym's servers do not start"
    yield Gym(folder, int(port), model)
    process.communicate("")


def arguments_of(gym: Gym, environment: str, output: str = "r.jsonl") -> list[str]:
    """The arguments for an environment that both collectors have in common."""
    return [
        f"+head_server.port={gym.port}",
        f"+agent_name={environment}_simple_agent",
        f"+input_jsonl_fpath={gym.data(environment)}",
        f"+output_jsonl_fpath={output}",
    ]


def collect_with_nemo_gym(gym: Gym, folder: Path, environment: str, *arguments: str) -> None:
    """Collect rollouts with NeMo Gym's own collector."""
    words = [*arguments_of(gym, environment, str(folder / "r.jsonl")), "++head_server.host=127.0.0.1", *arguments]
    folder.mkdir()
    done = subprocess.run(
        [str(gym.bin / "ng_collect_rollouts"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_agents_of_nemo_gym_answer_rollouts(command: Command, gym: Gym, tmp_path: Path, environment: str) -> None:
    """An agent is found by name through the head server, and its scored rollouts are written in order."""
    ran = command(*arguments_of(gym, environment), "+num_repeats=3", "+num_samples_in_parallel=16")
    assert ran.code == 0, ran.stderr
    rows = read_rows(tmp_path / "r.jsonl")
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(5) for index in range(3)]
    reward = json.loads((tmp_path / "r_summary.json").read_text())["means"]["reward"]
    assert reward == pytest.approx(sum(row["reward"] for row in rows) / 15)
    assert ran.stdout.endswith(json.dumps({"reward": reward}, indent=4) + "\n")
    kinds = {item["type"] for row in rows for item in row["response"]["output"]}
    if environment == "mcqa":
        assert 0 < reward < 1
        assert {row["extracted_answer"] for row in rows} == {"E"}
    else:
        assert {"function_call", "function_call_output", "message"} <= kinds
        assert any(message["role"] == "tool" for message in rows[0]["output"])
    if environment == "example_session_state_mgmt":
        assert reward == 1.0


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        (["+responses_create_params.seed=42"], {42}),
        (["+num_repeats=3", "+num_repeats_add_seed=true"], {0, 1, 2}),
    ],
    ids=["one seed", "a seed for each rollout"],
)
def test_seeds_reach_the_model(command: Command, gym: Gym, arguments: list[str], seeds: set[int]) -> None:
    """Seeds reach the model in `metadata.extra_body`, together with the other sampling parameters."""
    ran = command(*arguments_of(gym, "mcqa"), *arguments, "+responses_create_params.temperature=0.7", "+limit=2")
    assert ran.code == 0, ran.stderr
    last = gym.model.stats()["last"][-2 * len(seeds) :]
    assert {json.loads(request["metadata"]["extra_body"])["seed"] for request in last} == seeds
    assert {request["temperature"] for request in last} == {0.7}


def test_metrics_are_those_of_nemo_gyms_collector(command: Command, gym: Gym, tmp_path: Path) -> None:
    """Both collectors report the metrics that the agent computes, and have the same rewards."""
    collect_with_nemo_gym(gym, tmp_path / "nemo_gym_output", "mcqa", "+num_repeats=2")
    ran = command(*arguments_of(gym, "mcqa"), "+num_repeats=2")
    assert "Key metrics for mcqa_simple_agent:" in ran.stdout
    (expected,) = json.loads((tmp_path / "nemo_gym_output" / "r_aggregate_metrics.json").read_text())
    (entry,) = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    for name in ("agent_ref", "agent_metrics", "key_metrics", "group_level_metrics"):
        assert entry[name] == expected[name], name
    rewards = {
        (row["_ng_task_index"], row["_ng_rollout_index"]): row["reward"] for row in read_rows(tmp_path / "r.jsonl")
    }
    assert rewards == {
        (row["_ng_task_index"], row["_ng_rollout_index"]): row["reward"]
        for row in read_rows(tmp_path / "nemo_gym_output" / "r.jsonl")
    }


def test_resume_completes_the_output_of_nemo_gyms_collector(command: Command, gym: Gym, tmp_path: Path) -> None:
    """A resume keeps the rows of an unordered output with a torn line, and requests each missing rollout once."""
    folder = tmp_path / "nemo_gym_output"
    collect_with_nemo_gym(gym, folder, "mcqa", "+num_repeats=2", "+num_repeats_add_seed=true")
    lines = (folder / "r.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "r.jsonl").write_bytes(b"".join(lines[6::-1]) + lines[7][:100])
    failed = {**json.loads(lines[8]), "_ng_failure_class": "sandbox_crashed"}
    (folder / "r_failures.jsonl").write_text(json.dumps(failed) + "\n")
    collected = rows_by_key(lines[:7])
    requests_before = gym.model_requests
    repeats = ["+num_repeats=3", "+num_repeats_add_seed=true"]
    ran = command(*arguments_of(gym, "mcqa", "nemo_gym_output/r.jsonl"), *repeats, RESUME)
    assert (ran.code, "7 of 15 rollouts are collected" in ran.stderr) == (0, True), ran.stderr
    assert gym.model_requests - requests_before == 8
    rows = read_rows(folder / "r.jsonl")
    assert keys_of(folder / "r.jsonl") == [(task, index) for task in range(5) for index in range(3)]
    kept = {key: row for row in rows if (key := (row["_ng_task_index"], row["_ng_rollout_index"])) in collected}
    assert kept == collected


def test_reward_profile_of_nemo_gym_reads_our_output(command: Command, gym: Gym, tmp_path: Path) -> None:
    """NeMo Gym's `ng_reward_profile` reads the output and the materialized inputs of this program."""
    assert command(*arguments_of(gym, "mcqa"), "+num_repeats=2", "+materialized_inputs=true").code == 0
    words = ["++materialized_inputs_jsonl_fpath=r_materialized_inputs.jsonl", "++rollouts_jsonl_fpath=r.jsonl"]
    done = subprocess.run(
        [str(gym.bin / "ng_reward_profile"), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(read_rows(tmp_path / "r_reward_profiling.jsonl")) == 5


def rows_by_key(lines: list[bytes]) -> dict[tuple[int, int], Any]:
    """The rows of JSON lines, by task and rollout index."""
    return {(row["_ng_task_index"], row["_ng_rollout_index"]): row for row in map(json.loads, lines)}


def test_rows_go_to_the_agents_that_they_name(command: Command, gym: Gym, tmp_path: Path) -> None:
    """Each row is sent to the agent in its `agent_ref`, as many times as `num_repeats` says for that agent."""
    rows = []
    for environment in ENVIRONMENTS:
        reference = {"type": "responses_api_agents", "name": f"{environment}_simple_agent"}
        rows += [{**row, "agent_ref": reference} for row in read_rows(gym.data(environment))[:2]]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    repeats = "+num_repeats={mcqa_simple_agent: 3, _default: 1}"
    ran = command(f"+head_server.port={gym.port}", "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", repeats)
    assert ran.code == 0, ran.stderr
    agents = [row["agent_ref"]["name"].removesuffix("_simple_agent") for row in read_rows(tmp_path / "r.jsonl")]
    assert agents == ["mcqa"] * 6 + ["example_single_tool_call"] * 2 + ["example_session_state_mgmt"] * 2
    assert set(ran.stdout.split()) >= {f"{environment}_simple_agent:" for environment in ENVIRONMENTS}


def test_rejected_field_fails_without_a_retry(command: Command, gym: Gym, tmp_path: Path) -> None:
    """A field that the agent rejects with a 422 fails the rollout after one attempt, with the agent's message."""
    rows = read_rows(gym.data("mcqa"))[:3]
    rows[1]["responses_create_params"]["frequency_penalty"] = 0.5
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = command(*arguments_of(gym, "mcqa")[:2], "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl")
    (failure,) = read_rows(tmp_path / "r_failures.jsonl")
    assert (ran.code, failure["failure_class"], failure["num_attempts"]) == (1, "http_422", 1)
    assert "frequency_penalty" in failure["message"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_model_agent_gives_the_rewards_of_nemo_gyms_agent(
    command: Command, gym: Gym, tmp_path: Path, environment: str
) -> None:
    """A model agent over NeMo Gym's model and resources servers gives the same outputs and rewards as NeMo Gym's agent."""
    assert command(*arguments_of(gym, environment, "agent.jsonl")).code == 0
    ran = command(
        f"+policy_base_url={gym.url_behind(f'{environment}_simple_agent', 'model_server')}/v1",
        "+policy_model_name=any",
        f"+resources_base_url={gym.url_behind(f'{environment}_simple_agent', 'resources_server')}",
        f"+input_jsonl_fpath={gym.data(environment)}",
        "+output_jsonl_fpath=r.jsonl",
    )
    assert ran.code == 0, ran.stderr
    ours, through_agent = read_rows(tmp_path / "r.jsonl"), read_rows(tmp_path / "agent.jsonl")
    assert [row["reward"] for row in ours] == [row["reward"] for row in through_agent]
    assert [row["output"] for row in ours] == [row["output"] for row in through_agent]


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
    write = [str(folder / "python"), "-P", str(ROOT / "tests" / "tiny_model.py"), model]
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
