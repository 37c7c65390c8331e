"""The programs that are measured, by their command lines, and what a rollout costs each of them."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

from environments import NotInstalledError, nemo_gym
from harness import HERE, client_environment, timed, to_client_core, write_tasks

Command = Callable[[str, Path, int], list[str]]
"""The command line that collects the rows of a file from the agent at a URL, with so many in flight."""


class Programs:
    """The programs of the environment with this `bin` folder. Their files are in `folder`."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self.folder = folder
        self.python = str(bin_folder / "python")
        # not as a script: Valgrind would measure its interpreter line
        self.collector = [self.python, str(bin_folder / "ng_collect_rollouts")]

    def ours(self, url: str, rows: Path, parallel: int) -> list[str]:
        files = [f"+input_jsonl_fpath={rows}", f"+output_jsonl_fpath={self.folder / 'ours.jsonl'}", "+overwrite=true"]
        return [*self.collector, f"+agent_url={url}", *files, f"+num_samples_in_parallel={parallel}"]

    def script(self, name: str) -> Command:
        """A script of the folder `peers`."""
        start = [self.python, str(HERE / "peers" / f"{name}.py")]
        return lambda url, rows, parallel: [*start, str(rows), str(self.folder / "peer.jsonl"), url, str(parallel)]

    def nemo_gym(self) -> tuple[str, Command | None]:
        """NeMo Gym's name with its version, and its collector; or why it is not measured, and None."""
        try:
            version, bin_folder = nemo_gym()
        except NotInstalledError as error:
            return f"NeMo Gym not measured: {error}", None
        start = [str(bin_folder / "ng_collect_rollouts"), "+agent_name=stub", "+disable_aggregation=true"]

        def command(url: str, rows: Path, parallel: int) -> list[str]:
            files = [f"+input_jsonl_fpath={rows}", f"+output_jsonl_fpath={self.folder / 'nemo_gym.jsonl'}"]
            head = ["+head_server.host=127.0.0.1", f"+head_server.port={url.rpartition(':')[2]}"]
            return [*start, *files, *head, f"+num_samples_in_parallel={parallel}"]

        return f"NeMo Gym {version}", command

    def cpu_us(self, command: Command, url: str, count: int, parallel: int, size: int = 2000) -> float:
        """Microseconds of CPU of a rollout, the start-up of the program left out."""
        one, many = (write_tasks(self.folder, rows, size) for rows in (1, count + 1))
        base = timed(command(url, one, 1), self.folder).cpu_s
        return (timed(command(url, many, parallel), self.folder).cpu_s - base) / count * 1e6

    def instructions(self, command: Command, url: str, few: int) -> float:
        """Thousands of instructions of a rollout in all threads: those of 1,000 rollouts after the first `few`.

        Needs `valgrind`.
        """
        first, all_ = (
            counted(command(url, write_tasks(self.folder, count), 100), self.folder) for count in (few, few + 1000)
        )
        return (all_ - first) / 1e6


def counted(command: list[str], folder: Path) -> int:
    """The instructions of a program in all its threads, without those of its children."""
    # the same count as Callgrind's, in less than half of the time
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*valgrind, "--trace-children=no", *command],
        cwd=folder,
        env={**client_environment(), "PYTHONHASHSEED": "0"},
        preexec_fn=to_client_core,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"I +refs: +([\d,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


def counts_instructions() -> bool:
    return shutil.which("valgrind") is not None


def in_turns(times: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Several rounds of measurements, each in its turn, so that noise concerns all of them."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(times):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of the rounds."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
