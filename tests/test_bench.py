"""Limits on CPU time and memory, measured with `benchmarks/run` at a scale that takes a minute: `pytest -m bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores"),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Any]:
    """The measurements of `benchmarks/run`, and its stub agent."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    sys.path.insert(0, str(ROOT / "benchmarks"))
    loader = SourceFileLoader("benchmarks_run", str(ROOT / "benchmarks" / "run"))
    spec = spec_from_loader("benchmarks_run", loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    yield module.Bench(tmp_path, quick=True), module.stub
    sys.path.remove(str(ROOT / "benchmarks"))


def test_cpu_per_rollout_is_at_most_a_fifth_above_a_script(bench: Any) -> None:
    """A rollout costs at most 1.2 times the CPU of a script with aiohttp and gather, without the start-up of both."""
    measures, stub = bench
    few, many = measures.input(1), measures.input(5000)
    with stub(latency=0.02) as url:
        ours = [measures.ours(url, many, 100).cpu_s - measures.ours(url, few, 1).cpu_s for _ in range(3)]
        script = [
            measures.peer("aiohttp_gather", url, many, 100).cpu_s - measures.peer("aiohttp_gather", url, few, 1).cpu_s
            for _ in range(3)
        ]
    assert min(ours) <= 1.2 * min(script)


def test_cpu_per_rollout_does_not_depend_on_the_number_in_flight(bench: Any) -> None:
    """The CPU per rollout with 10 and with 2,000 in flight differs by a factor of at most 1.6."""
    measures, stub = bench
    rows, one = measures.input(6000), measures.input(1)
    cpu = {}
    for parallel, latency in ((10, 0.002), (2000, 0.4)):
        with stub(latency=latency) as url:
            cpu[parallel] = min(measures.ours(url, rows, parallel).cpu_s for _ in range(2))
            cpu[parallel] -= measures.ours(url, one, 1).cpu_s
    assert max(cpu.values()) <= 1.6 * min(cpu.values())


def test_memory_does_not_grow_with_the_number_of_rollouts(bench: Any) -> None:
    """Ten times the rollouts take at most 15 MB more memory."""
    measures, stub = bench
    with stub(latency=0.005) as url:
        short, long = (measures.ours(url, measures.input(count), 100).peak_mb for count in (3000, 30_000))
    assert long - short <= 15
