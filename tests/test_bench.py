"""Limits on CPU, instructions and memory, measured as `benchmarks/run` does, in three minutes: `pytest -m bench`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tests.conftest import ROOT

MAX_CPU_RATIO = 2.8
"""The limit of our CPU per rollout, as a multiple of that of a script over the same HTTP engine."""

MAX_INSTRUCTIONS_RATIO = 3.6
"""The same limit for instructions, which leave out the kernel. Both programs need the same work of it."""

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores"),
]


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """The modules of `benchmarks`, which import each other as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield import_module("measures")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def programs(modules: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The installed project and the scripts beside it."""
    return modules.Programs(tmp_path_factory.mktemp("bench"), modules.installed())


def test_cpu_per_rollout_stays_near_that_of_a_script_over_the_same_engine(modules: Any, programs: Any) -> None:
    """A rollout costs at most `MAX_CPU_RATIO` times the CPU that the HTTP engine, parsing and writing alone cost."""
    with modules.stub(latency=0.02) as url:
        measures = {
            "ours": lambda: programs.cpu_us(programs.ours, url, 10_000, 100),
            "script": lambda: programs.cpu_us(programs.script("same_engine"), url, 10_000, 100),
        }
        figures = modules.in_turns(5, measures)
    assert modules.median_ratio(figures["ours"], figures["script"]) <= MAX_CPU_RATIO


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind counts the instructions")
def test_instructions_per_rollout_stay_near_those_of_a_script_over_the_same_engine(modules: Any, programs: Any) -> None:
    """A rollout takes at most `MAX_INSTRUCTIONS_RATIO` times the instructions of that script."""
    with modules.stub(latency=0.02) as url:
        ours = programs.instructions(programs.ours, url, modules.GROUPS_LISTED + 1)
        script = programs.instructions(programs.script("same_engine"), url, 300)
    assert 0 < ours <= MAX_INSTRUCTIONS_RATIO * script


def test_cpu_per_rollout_does_not_depend_on_the_number_in_flight(modules: Any, programs: Any) -> None:
    """The CPU per rollout with 10 and with 2,000 in flight differs by a factor of at most 1.6."""
    cpu = []
    for parallel, latency in ((10, 0.002), (2000, 0.4)):
        with modules.stub(latency=latency) as url:
            cpu.append(min(programs.cpu_us(programs.ours, url, 6000, parallel) for _ in range(2)))
    assert max(cpu) <= 1.6 * min(cpu)


def test_memory_does_not_grow_with_the_number_of_rollouts(modules: Any, programs: Any) -> None:
    """Ten times the rollouts take at most 15 MB more memory."""
    with modules.stub(latency=0.005) as url:
        short, long = (
            modules.timed(programs.ours(url, modules.write_tasks(programs.folder, count), 100), programs.folder).peak_mb
            for count in (3000, 30_000)
        )
    assert long - short <= 15


def test_the_idle_share_counts_slots_without_a_request_until_the_last_one_arrives(modules: Any) -> None:
    """Of two slots, one is idle for one of the four seconds between the second and the last request."""
    arrived, answered = [0.0, 1.0, 3.0, 5.0], [2.0, 5.0, 6.0, 7.0]
    assert modules.idle_share(arrived, answered, 2) == pytest.approx(1 / 8)
    with pytest.raises(ValueError, match="3 requests were never in flight"):
        modules.idle_share(arrived, answered, 3)
