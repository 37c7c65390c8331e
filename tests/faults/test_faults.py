"""Commands survive faults of the disk and kills at each call that changes a file.

By default, some calls of each scenario fail, each in one way. `NG_FAULTS=all` lets every call fail in every way.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.conftest import RESUME
from tests.faults.commands import KINDS, Call, Commands, Fault, start_commands
from tests.faults.files import collected_again, files_of, mark_seen, write_files
from tests.faults.laws import Laws
from tests.faults.scenarios import BYSTANDERS, SCENARIOS, Base, Scenario, base_of, tasks

_COMPILER = shutil.which("cc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not _COMPILER, reason="needs Linux and a C compiler, for LD_PRELOAD"),
]

_FAULTS_PER_SCENARIO = 14


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The server of commands."""
    with start_commands(str(_COMPILER), tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="session")
def base(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The files that scenarios start from."""
    return base_of(commands, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_fault_costs_a_row_or_a_file(scenario: Scenario, commands: Commands, base: Base, tmp_path: Path) -> None:
    """After any fault, the command ends in a documented way, and the same command once more completes the work.

    Then every row is there once, in order and undamaged. No row was collected twice, no file of others has changed, an
    older output is still there, and no temporary file is left.
    """
    before = {"tasks.jsonl": tasks(), **BYSTANDERS, **scenario.files(base)}
    without_fault = write_files(tmp_path / "without_fault", before)
    ended = commands.run(scenario.script, scenario.arguments, without_fault)
    assert ended.code == 0, ended.stderr
    laws = Laws(scenario, before, files_of(without_fault))
    faults = list(_faults(ended.calls, scenario.name))
    broken = []
    for fault in faults:
        folder = write_files(tmp_path / "with_fault", before)
        broken += [f"{fault}: {law}" for law in _try(scenario, commands, laws, fault, folder)]
        shutil.rmtree(folder)
    print(f"{scenario.name}: {len(ended.calls)} calls, {len(faults)} faults, {len(broken)} laws broken")
    assert not broken, "\n".join(broken)


def _faults(calls: list[Call], seed: str) -> Iterator[Fault]:
    """The faults to try: all, or one at each n-th call, whose kinds take turns."""
    if os.environ.get("NG_FAULTS") == "all":
        yield from (Fault(call, kind) for call in calls for kind in call.kinds)
        return
    rng = random.Random(seed)
    step = max(1, len(calls) // _FAULTS_PER_SCENARIO)
    for number, call in enumerate(calls[rng.randrange(step) :: step], rng.randrange(len(KINDS))):
        yield Fault(call, call.kinds[number % len(call.kinds)])


def _try(scenario: Scenario, commands: Commands, laws: Laws, fault: Fault, folder: Path) -> Iterator[str]:
    """Run a command with a fault, then once more without one; messages about the laws that are broken."""
    try:
        ended = commands.run(scenario.script, scenario.arguments, folder, fault)
        yield from laws.after_fault(folder, ended, fault)
        # A resume may also fetch the rows of the remote copy.
        folders = (folder, folder / "remote") if RESUME in scenario.again else ()
        seen = {key for each in folders for key in mark_seen(each)}
        ended = commands.run(scenario.script, scenario.again, folder)
        yield from laws.after_resume(folder, ended)
        if again := collected_again(folder, seen):
            yield f"these were collected again: {again}"
    except (ValueError, OSError, zstandard.ZstdError) as error:
        yield f"a file is damaged: {error!r}"
