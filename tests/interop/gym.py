"""The running servers of NeMo Gym, and its own collector and commands."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import Served

ENVIRONMENTS = ("mcqa", "example_single_tool_call", "example_session_state_mgmt")

_COMMANDS = {
    "0.4.0": {"collect": ["ng_collect_rollouts"], "profile": ["ng_reward_profile"]},
    "0.7.0": {
        "collect": ["gym", "eval", "run", "--no-serve"],
        "profile": ["gym", "eval", "profile"],
        "aggregate": ["gym", "eval", "aggregate"],
        "health-check": ["gym", "eval", "health-check"],
    },
}


@dataclass(frozen=True)
class Gym:
    """NeMo Gym's running servers.

    Attributes:
        release: the release of NeMo Gym.
        bin: the folder of its commands.
        port: the port of its head server.
        model: the model behind its model server.
    """

    release: str
    bin: Path
    port: int
    model: Served

    def data(self, environment: str) -> Path:
        """The example tasks of an environment."""
        return self._package / "resources_servers" / environment / "data" / "example.jsonl"

    def configuration(self) -> Any:
        """The head server's configuration."""
        import yaml

        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/global_config_dict_yaml") as reply:
            return yaml.safe_load(json.load(reply))

    def entry(self, name: str) -> Any:
        """The head server's entry for a server."""
        return next(iter(next(iter(self.configuration()[name].values())).values()))

    def url_behind(self, agent: str, kind: str) -> str:
        """The URL of a server that an agent refers to."""
        return "http://{host}:{port}".format(**self.entry(self.entry(agent)[kind]["name"]))

    def run(self, name: str, folder: Path, *arguments: str) -> str:
        """Run one of its commands in a folder, to its end; what it prints."""
        program, *words = _COMMANDS[self.release][name]
        done = subprocess.run(
            [str(self.bin / program), *words, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def collect(self, folder: Path, *arguments: str) -> None:
        """Collect rollouts with NeMo Gym's own collector, into `r.jsonl` in a new folder."""
        folder.mkdir()
        self.run("collect", folder, *arguments, *self.head_server, "+output_jsonl_fpath=r.jsonl")

    @property
    def environment_servers(self) -> list[str]:
        """The names of the environment servers."""
        entries = self.configuration().items()
        return [name for name, entry in entries if isinstance(entry, dict) and "environment_servers" in entry]

    @property
    def head_server(self) -> list[str]:
        """The arguments that name the head server; its own collector needs both."""
        return [f"++head_server.port={self.port}", "++head_server.host=127.0.0.1"]

    @property
    def model_requests(self) -> int:
        """The number of requests that the model has answered."""
        return int(self.model.stats()["asked"].get("/v1/responses", 0))

    @property
    def _package(self) -> Path:
        return next((self.bin.parent / "lib").glob("python3.*/site-packages"))


def arguments_of(gym: Gym, environment: str, output: str = "r.jsonl") -> list[str]:
    """The arguments of our collector for an environment."""
    return [f"+head_server.port={gym.port}", *common_arguments(gym, environment), f"+output_jsonl_fpath={output}"]


def common_arguments(gym: Gym, environment: str) -> list[str]:
    """The arguments for an environment that both collectors have in common."""
    return [f"+agent_name={environment}_simple_agent", f"+input_jsonl_fpath={gym.data(environment)}"]


def collect_with_nemo_gym(gym: Gym, folder: Path, environment: str, *arguments: str) -> None:
    """Collect rollouts of an environment with NeMo Gym's own collector."""
    gym.collect(folder, *common_arguments(gym, environment), *arguments)


def rows_by_key(lines: list[bytes]) -> dict[tuple[int, int], Any]:
    """The rows of JSON lines, by task and rollout index."""
    return {(row["_ng_task_index"], row["_ng_rollout_index"]): row for row in map(json.loads, lines)}
