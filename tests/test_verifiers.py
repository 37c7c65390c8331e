"""What scores answers: extraction, the kinds, and what happens to those that hang or crash."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.verifiers.answer_extraction import answer_letter, boxed_answer, final_answer, output_text
from ng_rollouts.verifiers.builtin import ExactMatch, JsonSchema, Math, Mcqa, Regex, last_match
from ng_rollouts.verifiers.judge import DEFAULT_VERDICT_PATTERN
from ng_rollouts.verifiers.process_pool import ProcessPool
from ng_rollouts.verifiers.python_function import PythonFunction

from .conftest import SCRIPTS, SHARED_DATA, Ran, Served, read_rows


def said(text: str) -> Any:
    """A response that says this."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"output": [{"type": "message", "role": "assistant", "content": content}]}


@pytest.fixture(scope="module")
def process_pool() -> Iterator[ProcessPool]:
    """Worker processes for the tests of this module."""
    processes = ProcessPool()
    yield processes
    processes.stop()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{3} no, \boxed{\text{Paris}}", "Paris"),
        ("Final answer: 15.", "15"),
        ("### Final Answer:\n\n**Mason is it**.", "Mason is it"),
        ("I think the answer is **42**", "42"),
        ("Answer: B", "B"),
        ("To answer the question, I would need more", "To answer the question, I would need more"),
        ("Pacific Ocean", "Pacific Ocean"),
        (r"\boxed{unclosed", r"\boxed{unclosed"),
        (r"\boxed{7} and then \boxed{", "7"),
        ("The final answer is 42. I hope it is correct.", "42"),
        ("The final answer is 4.2.", "4.2"),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str) -> None:
    """Boxed, stated, or all there is."""
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{(c)}", "C"),
        (r"\boxed{\text{B}}", "B"),
        ("\\boxed{\nC: a whole sentence\n}", None),
        (r"A is wrong. \boxed{B}", "B"),
        ("The answer is (D).", "D"),
        ("Answer: **E**", "E"),
        ("F", "F"),
        ("The answer is An apple", None),
        ("The answer is a bit unclear.", None),
        ("Answer: B\n\nI considered answer a too", "B"),
        (r"\boxed {D}", "D"),
        ("I cannot say", None),
    ],
)
def test_a_letter_is_found(text: str, chosen: str | None) -> None:
    """Only where it stands alone."""
    assert answer_letter(text) == chosen


def test_thoughts_are_not_answers() -> None:
    """What comes before `</think>`, and reasoning items, do not count."""
    assert output_text(said("<think>\\boxed{1}</think>\\boxed{2}")) == "\\boxed{2}"
    assert boxed_answer(output_text({"output": [{"type": "reasoning", "summary": [{"text": "\\boxed{1}"}]}]})) is None


@pytest.mark.parametrize(
    ("name", "verifier"), [("mcqa", Mcqa()), ("string_match", ExactMatch()), ("reasoning_gym", ExactMatch())]
)
@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not here")
def test_real_rewards_are_given_again(name: str, verifier: Any) -> None:
    """On rollouts that others scored.

    Reasoning Gym holds all of the text against the answer; here what is stated as final counts, so that a right answer
    after a long working is right here and wrong there. In math_advanced_calculations a resources server scores what its
    tools were made to return, which no rule about the text can.
    """
    folder = SHARED_DATA / name
    rows = [json.loads(line) for line in (folder / "example_rollouts.jsonl").read_text().splitlines()]
    inputs = [json.loads(line) for line in (folder / "example.jsonl").read_text().splitlines()]
    by_question = {final_question(row): row for row in inputs}
    compared = 0
    for row in rows:
        task = row if "expected_answer" in row else by_question.get(final_question(row))
        if task is None:
            continue
        scored = asyncio.run(verifier.verify(task, row["response"]))
        if scored["reward"] != row["reward"]:
            assert (name, scored["reward"]) == ("reasoning_gym", 1.0), scored
            assert len(output_text(row["response"])) > 10 * len(scored["expected_answer"])
        compared += 1
    assert compared == len(rows)


def final_question(row: Any) -> str:
    content = row["responses_create_params"]["input"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


@pytest.mark.parametrize(
    ("expected", "text", "correct"),
    [
        ("1/2", r"\boxed{0.5}", True),
        (r"\frac{1}{2}", r"so \boxed{0.6}", False),
        ("Tom has 20 - 2 = 18.\n#### 18", "That makes 18 apples.", True),
        ("42", "no idea", False),
        ("x^2+1", r"$\boxed{1+x^2}$", True),
        ("72.0", r"\boxed{72}", True),
        (r"2\pi", r"\boxed{2\pi}", True),
        (r"2\pi", r"\boxed{2}", False),
        (r"3\sqrt{5}", r"so $3\sqrt{5}$", True),
        ("10^{5}", r"\boxed{100000}", True),
        ("1e5", r"\boxed{100000}", True),
        ("50%", r"\boxed{50\%}", True),
        ("1,234", r"\boxed{1234}", True),
        ("4", r"First \boxed{3}, no: \boxed{4}", True),
    ],
)
def test_math_is_compared_as_math(process_pool: ProcessPool, expected: str, text: str, correct: bool) -> None:  # noqa: FBT001
    """Not as text."""
    process_pool.preload.add("math_verify")
    scored = asyncio.run(Math(process_pool=process_pool, seconds=60).verify({"answer": expected}, said(text)))
    assert scored["accuracy"] is correct


def test_patterns_are_found(process_pool: ProcessPool) -> None:
    """The last match counts; without an expected answer, any will do."""
    regex = Regex(process_pool=process_pool, pattern=r"score=(\d+)", answer_field="gold")
    assert asyncio.run(regex.verify({"gold": 7}, said("score=3 ... score=7")))["reward"] == 1.0
    assert asyncio.run(regex.verify({"gold": 3}, said("score=3 ... score=7")))["reward"] == 0.0
    anything = Regex(process_pool=process_pool, pattern="yes")
    assert asyncio.run(anything.verify({}, said("no")))["reward"] == 0.0


def test_json_is_held_against_its_schema(process_pool: ProcessPool) -> None:
    """Bare or fenced; the row's schema as an object or as text."""
    verifier = JsonSchema(process_pool=process_pool)
    schema = {"type": "object", "required": ["a"]}
    for row in ({"schema": schema}, {"schema": json.dumps(schema)}):
        verifier.check(row)
        assert asyncio.run(verifier.verify(row, said('Here:\n```json\n{"a": 1}\n```')))["reward"] == 1.0
        assert "required" in asyncio.run(verifier.verify(row, said('{"b": 1}')))["schema_error"]
        assert asyncio.run(verifier.verify(row, said("oops")))["reward"] == 0.0


FUNCTIONS = """
import os, time
def hang(row, response): time.sleep(60)
def crash(row, response): os._exit(3)
def broken(row, response): return 1 / 0
def odd(row, response): return "good"
def half(row, response): return 0.5
async def full(row, response): return {"reward": row["worth"], "note": "read"}
"""


@pytest.mark.parametrize(
    ("function", "failure_class"),
    [
        ("hang", "verifier_timeout"),
        ("crash", "verifier_crashed"),
        ("broken", "verifier_error"),
        ("odd", "verifier_error"),
    ],
)
def test_a_verifier_that_hangs_or_crashes_is_a_failure(
    process_pool: ProcessPool, tmp_path: Path, function: str, failure_class: str
) -> None:
    """Never a zero, and the next answer is scored."""
    file = tmp_path / "functions.py"
    file.write_text(FUNCTIONS)

    async def verify(name: str, seconds: float = 60) -> Any:
        verifier = PythonFunction(name=f"{file}:{name}", process_pool=process_pool, seconds=seconds)
        return await verifier.verify({"worth": 2}, said("x"))

    with pytest.raises(AttemptFailed) as failure:
        asyncio.run(verify(function, seconds=1 if function == "hang" else 60))
    assert failure.value.failure_class == failure_class
    assert not failure.value.retryable
    assert asyncio.run(verify("half")) == {"reward": 0.5}
    assert asyncio.run(verify("full")) == {"reward": 2, "note": "read"}


@pytest.mark.parametrize(
    ("verdict", "reward"),
    [("VERDICT: CORRECT", 1.0), ("I think.\nVerdict: **incorrect**", 0.0), ("verdict 0.25", 0.25)],
)
def test_a_judge_grades(
    serve_model: Callable[..., Served],
    command: Callable[..., Ran],
    tasks: Callable[..., Path],
    tmp_path: Path,
    verdict: str,
    reward: float,
) -> None:
    """By its last verdict, over an endpoint of its own."""
    policy, judge = serve_model(), serve_model(text=verdict, models=["judge"])
    tasks([{"responses_create_params": {"input": "Say something on 1 + 1"}, "expected_answer": "2", "topic": "sums"}])
    (tmp_path / "prompt.txt").write_text("On {topic}: is {response} the same as {expected_answer}? {question}")
    ran = command(
        f"+policy_base_url={policy.url}/v1",
        "+verifier=judge",
        f"+verifier.base_url={judge.url}/v1",
        "+verifier.template=prompt.txt",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    assert ran.code == 0, ran.stderr
    assert read_rows(tmp_path / "rollouts.jsonl")[0]["reward"] == reward
    prompt = judge.stats()["last"][-1]["input"][0]["content"]
    assert prompt == "On sums: is So it is \\boxed{2}. the same as 2? Say something on 1 + 1"


def test_a_judge_that_gives_no_verdict_is_a_failure(
    serve_model: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Asked again, then told as what it is: not a zero."""
    policy, judge = serve_model(), serve_model(text="Hard to say.", models=["judge"])
    tasks([{"responses_create_params": {"input": "1 + 1"}, "expected_answer": "2"}])
    ran = command(
        f"+policy_base_url={policy.url}/v1",
        "+verifier=judge",
        f"+verifier.base_url={judge.url}/v1",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    )
    assert ran.code == 1
    assert ran.averages == {}
    (failure,) = read_rows(tmp_path / "rollouts_failures.jsonl")
    assert failure["failure_class"] == "judge_unreadable"
    assert judge.stats()["asked"]["/v1/responses"] == 3
    assert policy.stats()["asked"]["/v1/responses"] == 1


@pytest.mark.parametrize(
    "text", ["The answer" + " " * 100_000, "answer is " * 20_000, r"\boxed{" + r"\text{" * 20_000, "*" * 100_000]
)
def test_no_text_keeps_the_loop_long(text: str) -> None:
    """What models write when they run wild is looked at in time that grows with its length."""
    began = time.process_time()
    answer_letter(text)
    final_answer(text)
    assert time.process_time() - began < 20


@pytest.mark.parametrize("said_by_judge", ["VERDICT: NOT SURE", "VERDICT: 10/10", "verdict: nothing"])
def test_an_unclear_verdict_is_none(said_by_judge: str) -> None:
    """Neither a zero nor a one."""
    assert last_match(DEFAULT_VERDICT_PATTERN, said_by_judge) is None


@pytest.mark.parametrize(
    ("verdict", "word"), [("VERDICT: 0.25.", "0.25"), ("Verdict: **Correct**", "Correct"), ("verdict: no", "no")]
)
def test_a_clear_verdict_is_read(verdict: str, word: str) -> None:
    """With whatever is around it."""
    assert last_match(DEFAULT_VERDICT_PATTERN, verdict) == word


def test_workers_do_not_outlive_the_command(
    serve_model: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Even if it is killed while one of them hangs."""
    (tmp_path / "hang.py").write_text(
        "import os\nfrom pathlib import Path\ndef hang(row, response):\n"
        "    Path('pid').write_text(str(os.getpid()))\n    while True: pass\n"
    )
    tasks([{"responses_create_params": {"input": "1 + 1"}}])
    arguments = [
        f"+policy_base_url={serve_model().url}/v1",
        "+verifier=python",
        "+verifier.function=hang.py:hang",
        "+verifier.seconds=300",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
    ]
    process = subprocess.Popen([SCRIPTS / "ng_collect_rollouts", *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    process.kill()
    process.wait()
    worker = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(worker))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
