"""The worker processes of verifiers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.workers import process_pool as process_pool_module
from ng_rollouts.workers.process_pool import MAX_BATCH, ProcessPool
from tests.conftest import Ran, ended, start, wait_until
from tests.servers import Served
from tests.verifiers.calls import act, note_and_wait


def test_workers_end_when_the_command_is_killed(
    serve_model: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A worker ends with the command that started it, even if the command is killed while the worker is busy."""
    (tmp_path / "hang.py").write_text(
        "import os\nfrom pathlib import Path\ndef hang(row, response):\n"
        "    Path('pid').write_text(str(os.getpid()))\n    while True: pass\n"
    )
    tasks([{"responses_create_params": {"input": "1 + 1"}}])
    process = start(
        tmp_path,
        f"+policy_base_url={serve_model().url}/v1",
        "+verifier=python",
        "+verifier.function=hang.py:hang",
        "+verifier.seconds=300",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    process.kill()
    worker = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(worker))
    ended(process)


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("name", ["socket", "threading", "types", "random"])
def test_modules_of_the_working_folder_do_not_replace_those_of_python(
    process: Callable[..., Ran],
    serve_model: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    name: str,
) -> None:
    """A `socket.py` in the working folder is not run by a worker, while the user's own module there is."""
    (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('executed').touch()\nraise SystemExit(3)\n")
    (tmp_path / "mine.py").write_text("def check(row, response):\n    return 1.0\n")
    tasks([{"responses_create_params": {"input": "1 + 1"}}])
    ran = process(
        *[f"+policy_base_url={serve_model().url}/v1", "+verifier=python", "+verifier.function=mine.check"],
        *["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"],
    )
    assert (ran.code, ran.averages.get("reward")) == (0, 1.0), ran.stderr
    assert not (tmp_path / "executed").exists()


def test_check_before_the_run_has_a_time_limit(process_pool: ProcessPool) -> None:
    """`run_now` waits for the result, and ends a call that takes too long."""
    assert process_pool.run_now(len, "abc", seconds=60) == 3
    with pytest.raises(AttemptFailed, match=r"took more than 0\.2 s"):
        process_pool.run_now(time.sleep, 60, seconds=0.2)


FAILURES = {
    "hang": "verifier_timeout",
    "crash": "verifier_crashed",
    "exit": "verifier_error",
    "error": "verifier_error",
    "lambda": "verifier_error",
    "deep": "verifier_error",
}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    """Worker processes that import nothing before the first call."""
    pool = ProcessPool()
    yield pool
    pool.stop()


def results_of(pool: ProcessPool, calls: list[tuple[str, Any]], seconds: float = 60.0) -> list[Any]:
    """The results of calls of `act` that are made at once; of those that fail, the class of the failure."""

    async def result(action: str, value: Any) -> Any:
        try:
            return await pool.run(act, action, value, seconds=seconds)
        except AttemptFailed as failure:
            return str(failure.failure_class)

    async def results() -> list[Any]:
        return await asyncio.gather(*(result(action, value) for action, value in calls))

    return asyncio.run(results())


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(st.sampled_from(["return", "return", "return", "slow", "error", "exit", "lambda"]), max_size=150),
    size=st.integers(1, MAX_BATCH),
)
def test_results_are_those_of_calls_that_are_made_alone(pool: ProcessPool, actions: list[str], size: int) -> None:
    """Each call gets its own result or its own failure, in whatever batches the calls are sent."""
    pool._batch_size = size
    results = results_of(pool, [(action, number) for number, action in enumerate(actions)])
    assert results == [FAILURES.get(action, number) for number, action in enumerate(actions)]


@pytest.mark.parametrize("action", FAILURES)
@pytest.mark.parametrize("places", [[0], [5], [39], [3, 4, 30]], ids=str)
def test_only_the_call_that_hangs_or_crashes_fails(pool: ProcessPool, action: str, places: list[int]) -> None:
    """The other calls of its batch are made again, and get their results."""
    pool._batch_size = 40
    seconds = 0.5 if action == "hang" else 60.0
    calls = [(action if number in places else "return", number) for number in range(40)]
    results = results_of(pool, calls, seconds)
    assert results == [FAILURES[action] if number in places else number for number in range(40)]


def test_arguments_that_cannot_be_pickled_fail_only_their_call(pool: ProcessPool) -> None:
    """JSON may be nested more deeply than pickle allows."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    pool._batch_size = 3
    assert results_of(pool, [("return", 1), ("return", deep), ("return", 3)]) == [1, "verifier_error", 3]


def test_cancelled_call_does_not_disturb_the_others(pool: ProcessPool, tmp_path: Path) -> None:
    """A call can be cancelled while it waits, and while a worker makes it: then the worker is killed."""

    async def cancel() -> list[Any]:
        pool._batch_size = 30
        hanging = asyncio.create_task(pool.run(note_and_wait, str(tmp_path), "pid", "never", seconds=600))
        calls = [asyncio.create_task(pool.run(act, "return", number, seconds=600)) for number in range(300)]
        await asyncio.sleep(0)  # all of them wait now
        calls[0].cancel()
        calls[299].cancel()
        await asyncio.to_thread(wait_until, (tmp_path / "pid").exists)
        hanging.cancel()
        return await asyncio.gather(hanging, *calls, return_exceptions=True)

    results = asyncio.run(cancel())
    cancelled = [number for number, result in enumerate(results) if isinstance(result, asyncio.CancelledError)]
    assert cancelled == [0, 1, 300]
    assert results[2:300] == list(range(1, 299))
    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_slow_calls_are_spread_over_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls that arrive together are not made one after the other."""
    monkeypatch.setattr(process_pool_module, "MAX_PROCESSES", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pool = ProcessPool()
    pool._batch_size = MAX_BATCH

    async def two() -> list[int]:
        # each waits until the other one has begun
        pair = [
            pool.run(note_and_wait, str(tmp_path), "first", "second", seconds=60),
            pool.run(note_and_wait, str(tmp_path), "second", "first", seconds=60),
        ]
        return await asyncio.gather(*pair)

    try:
        assert len(set(asyncio.run(two()))) == 2
    finally:
        pool.stop()


def test_stop_ends_workers_and_cancels_calls_in_flight(tmp_path: Path) -> None:
    """No worker is left, no call waits forever, and few calls are at the workers."""

    async def stop() -> list[Any]:
        pool = ProcessPool()
        pool._batch_size = MAX_BATCH
        hanging = [pool.run(note_and_wait, str(tmp_path), f"{number}.pid", "never", seconds=600) for number in range(4)]
        calls = [asyncio.create_task(each) for each in hanging]
        await asyncio.to_thread(wait_until, lambda: any(tmp_path.glob("*.pid")))
        calls += [asyncio.create_task(pool.run(act, "return", number, seconds=600)) for number in range(5000)]
        for _ in range(3):  # turns of the event loop
            await asyncio.sleep(0)
            assert sum(len(batch.calls) for batch in pool._sent.values()) <= 2 * pool._processes * MAX_BATCH
        pool.stop()
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(stop())
    assert len(results) == 5004
    assert {type(result) for result in results} <= {asyncio.CancelledError, int}
    wait_until(lambda: not any(is_running(int(path.read_text())) for path in tmp_path.glob("*.pid")))
