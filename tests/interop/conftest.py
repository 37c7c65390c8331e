"""Fixtures: the running servers of NeMo Gym, of each release that is tested."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.interop.gym import ENVIRONMENTS, Gym
from tests.own_venvs import NotInstalledError, environment_of
from tests.servers import Served, ThreadServer

RELEASES = ("0.4.0", "0.7.0")
NEMO_GYM_BIN = "NEMO_GYM_BIN"
"""The environment variable that names the `bin` folder of an environment with NeMo Gym 0.7.0."""

SERVERS = ROOT / "tests" / "interop" / "nemo_gym_servers.py"


@pytest.fixture(scope="session")
def model() -> Iterator[Served]:
    """A model that calls each tool it is offered, and then answers E."""
    increments = [["increment_counter", {"count": 0}], ["increment_counter", {"count": 1}]]
    calls = [*increments, ["get_counter_value", {}], ["get_weather", {}], ["add", {"a": 0, "b": 1}]]
    server = ThreadServer("model", {"calls": calls, "text": "\\boxed{E}"})
    yield server
    server.stop()


@pytest.fixture(scope="session", params=RELEASES)
def gym(request: pytest.FixtureRequest, model: Served) -> Iterator[Gym]:
    """The servers of a release of NeMo Gym, with three environments; in 0.7.0 also one whose verdicts are in its tasks."""
    configs = [f"resources_servers/{name}/configs/{name}.yaml" for name in ENVIRONMENTS]
    configs.append("responses_api_models/openai_model/configs/openai_model.yaml")
    settings = {} if request.param == "0.4.0" else scripted_environment()
    with running(request.param, model, configs, settings) as servers:
        yield servers


@pytest.fixture(scope="module")
def capturing_gym(model: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gym]:
    """Servers of NeMo Gym 0.7.0 that record model calls and token ids of the environment `mcqa`."""
    folder = tmp_path_factory.mktemp("captures")
    configs = [
        "resources_servers/mcqa/configs/mcqa.yaml",
        "responses_api_models/vllm_model/configs/vllm_model_for_training.yaml",
    ]
    in_reply = {"return_token_id_information": True, "request_prompt_and_generation_token_ids": True}
    settings = {
        "observability_enabled": True,
        "model_call_capture_dir": str(folder / "calls"),
        "token_id_capture": {"enabled": True, "all_agents": True, "dir": str(folder / "tokens")},
        "policy_model": {"responses_api_models": {"vllm_model": in_reply}},
    }
    with running("0.7.0", model, configs, settings) as servers:
        yield servers


@contextmanager
def running(release: str, model: Served, configs: list[str], settings: dict[str, Any]) -> Iterator[Gym]:
    """Run the servers of a release with these configuration files and settings."""
    folder = bin_folder(release)
    options = {"configs": configs, "policy": f"{model.url}/v1", "secret": "sk-of-the-policy", "settings": settings}
    process = subprocess.Popen(
        [str(folder / "python"), "-P", str(SERVERS), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    try:
        port = next((line for line in process.stdout if line.strip().isdecimal()), None)
        assert port, f"the servers of NeMo Gym {release} do not start"
        yield Gym(release, folder, int(port), model)
    finally:
        process.communicate("")


def bin_folder(release: str) -> Path:
    """The `bin` folder of an environment with this release.

    Raises:
        NotInstalledError: there is none, and why.
    """
    if release == "0.4.0":
        return environment_of("nemo-gym==0.4.0")
    if NEMO_GYM_BIN not in os.environ:
        return environment_of("nemo-gym==0.7.0", pythons=("python3.13", "python3.14"), at_least=(3, 13, 14))
    folder = Path(os.environ[NEMO_GYM_BIN]).absolute()
    version = "from importlib.metadata import version; print(version('nemo-gym'))"
    try:
        done = subprocess.run([folder / "python", "-c", version], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotInstalledError(f"{NEMO_GYM_BIN}={folder}: {error.strerror}: python") from error
    if done.stdout.strip() != release:
        found = f"nemo-gym {done.stdout.strip()}" if done.stdout else "no nemo-gym"
        raise NotInstalledError(f"{NEMO_GYM_BIN}={folder}: needs nemo-gym {release}, has {found}")
    return folder


def scripted_environment() -> dict[str, Any]:
    """The entries of the environment whose verdicts are in its tasks."""
    app = str(ROOT / "tests" / "interop" / "scripted_environment.py")
    agent = {
        "entrypoint": "app.py",
        "resources_server": {"type": "resources_servers", "name": "scripted"},
        "model_server": {"type": "responses_api_models", "name": "policy_model"},
    }
    return {
        "scripted": {"resources_servers": {"scripted": {"entrypoint": app, "domain": "other"}}},
        "scripted_simple_agent": {"responses_api_agents": {"simple_agent": agent}},
    }
