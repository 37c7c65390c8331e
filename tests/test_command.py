"""The command as people type it: files, lines, exit codes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import pty
import shutil
import signal
import subprocess
import termios
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.chat import chat_input, chat_output

from .agent_server import reward_of
from .conftest import ROOT, SCRIPTS, SHARED_DATA, Ran, Served, keys_of, read_rows, wait_until

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]

ARITHMETIC = ROOT / "examples" / "arithmetic.jsonl"


def beside(stem: str) -> set[str]:
    """What a run leaves beside its output."""
    return {f"{stem}{ending}.json" for ending in ("_manifest", "_aggregate_metrics", "_summary")}


def test_a_large_run_against_a_live_server(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """500 rows, 4 repeats, 32 at once, random delays: aabbcc order, the averages of jq, the bound kept."""
    tasks(500)
    server = serve(delay=[0, 0.02])
    ran = command(
        f"+agent_url={server.url}",
        "+agent_name=a",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=out/rollouts.jsonl",
        "+num_repeats=4",
        "+num_samples_in_parallel=32",
    )
    assert ran.code == 0, ran.stderr
    output = tmp_path / "out" / "rollouts.jsonl"
    assert keys_of(output) == [(task, rollout) for task in range(500) for rollout in range(4)]
    rewards = [row["reward"] for row in read_rows(output)]
    assert rewards == [reward_of(task, rollout) for task in range(500) for rollout in range(4)]
    if shutil.which("jq"):
        by_jq = subprocess.run(
            ["jq", "-s", "map(.reward)|add/length", output], capture_output=True, text=True, check=True
        )
        assert ran.averages["reward"] == float(by_jq.stdout)
    assert server.stats()["most_in_flight"] <= 32
    assert {path.name for path in (tmp_path / "out").iterdir()} == {output.name, *beside("rollouts")}


def test_what_is_printed(command: Command, serve: Serve, tasks: Tasks) -> None:
    """stdout has exactly the lines of NeMo Gym, then the averages; stderr the rest."""
    tasks(5)
    ran = command(
        f"+agent_url={serve().url}",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
        "+limit=2",
        "+num_repeats=3",
        "+num_samples_in_parallel=10",
        "+responses_create_params.temperature=0.7",
        "+responses_create_params.max_output_tokens=512",
    )
    assert ran.stdout.splitlines()[:5] == [
        "Limiting the number of rows to 2!",
        "Found 2 rows!",
        "Repeating rows (in a pattern of abc to aabbcc) from 2 to 6!",
        "Querying with 10 concurrent requests",
        "Overriding responses_create_params fields with {'temperature': 0.7, 'max_output_tokens': 512}",
    ]
    assert "\n".join(ran.stdout.splitlines()[5:]) == json.dumps(ran.averages, indent=4)
    assert list(ran.averages) == ["reward", "accuracy"]
    assert ran.stderr.startswith("Collecting rollouts: collected=6 failed=0 planned=6")


def test_nothing_is_printed_that_does_not_apply(command: Command, serve: Serve, tasks: Tasks) -> None:
    """`null` and 0 mean no limit and no bound."""
    tasks(2)
    ran = command(
        f"agent_url={serve().url}",
        "++input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=rollouts.jsonl",
        "+limit=null",
        "+num_samples_in_parallel=0",
        "+num_repeats=null",
    )
    assert ran.stdout.startswith("Found 2 rows!\n{\n")


def test_only_the_output_is_left_behind(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """No `outputs/`, no `.hydra`, no log file."""
    tasks(1)
    command("+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl", "tasks.jsonl", *beside("r")}


def test_failures_are_told_and_groups_stay_whole(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A rollout that fails for good is a row of the failures file; its group waits beside the output; exit 1."""
    tasks(40)
    server = serve(faults={"400": 0.1}, sticky=True)
    ran = command(
        f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"
    )
    assert ran.code == 1
    failed = keys_of(tmp_path / "r_failures.jsonl")
    missing = {task for task, _ in failed}
    assert keys_of(tmp_path / "r.jsonl") == [(t, r) for t in range(40) if t not in missing for r in range(2)]
    aside = keys_of(tmp_path / "r_incomplete.jsonl")
    assert sorted([*failed, *aside]) == [(t, r) for t in sorted(missing) for r in range(2)]
    assert f"failed {len(failed)} (http_400: {len(failed)}), set aside {len(aside)}" in ran.stderr
    [row, *_] = read_rows(tmp_path / "r_failures.jsonl")
    assert (row["failure_class"], row["status"], row["num_attempts"]) == ("http_400", 400, 1)
    assert row["row"]["responses_create_params"]["input"][0]["content"].startswith("question")


def test_passing_faults_are_tried_again(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Connection errors, 429 and 5xx cost nothing but time."""
    tasks(30)
    server = serve(faults={"500": 0.1, "reset": 0.1, "retry_after_0": 0.1})
    ran = command(
        f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+max_attempts=10"
    )
    assert ran.code == 0, ran.stderr
    assert len(read_rows(tmp_path / "r.jsonl")) == 30
    assert server.stats()["total"] > 30


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_every_completed_row(
    serve: Serve, tasks: Tasks, tmp_path: Path, signal_: signal.Signals
) -> None:
    """Whatever ends the run, what was answered is on disk in whole lines."""
    tasks(5000)
    server = serve(delay=[0.01, 0.02])
    arguments = [f"+agent_url={server.url}", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    process = subprocess.Popen(
        [SCRIPTS / "ng_collect_rollouts", *arguments, "+num_samples_in_parallel=8"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: server.stats()["total"] >= 200)
    process.send_signal(signal_)
    _, stderr = process.communicate(timeout=30)
    assert len(set(keys_of(tmp_path / "r.jsonl"))) >= server.stats()["total"] - 8
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "nothing to collect"),
        (["+num_repeat=2"], 2, "did you mean +num_repeats=?"),
        (
            ["+input_jsonl_fpath=nope.jsonl", "+output_jsonl_fpath=r.jsonl"],
            2,
            "nope.jsonl cannot be read: No such file",
        ),
        (["+output_jsonl_fpath=r.jsonl"], 2, "input_jsonl_fpath is missing: add +input_jsonl_fpath=PATH"),
        (["+input_jsonl_fpath=tasks.jsonl"], 2, "output_jsonl_fpath is missing"),
        (["@", "+limit=abc"], 2, "error: limit=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        (["@", "+limit=-1"], 2, "limit must be >= 0"),
        (["@", "+num_repeats=0"], 2, "num_repeats must be >= 1, got 0"),
        (["@", "+num_repeats=1.5"], 2, "num_repeats must be an integer, got 1.5"),
        (["@", "+num_repeats={a: 0}"], 2, "num_repeats for a must be >= 1, got 0"),
        (["@", "+num_samples_in_parallel=-1"], 2, "num_samples_in_parallel must be >= 0"),
        (["@", "+responses_create_params.temperature=2.5"], 2, "temperature must be a number from 0 to 2, got 2.5"),
        (["@", "+responses_create_params.temperature=hot"], 2, "temperature must be a number from 0 to 2, got 'hot'"),
        (["@", "+responses_create_params.top_p=-0.1"], 2, "top_p must be a number from 0 to 1"),
        (["@", "+responses_create_params.max_output_tokens=0"], 2, "max_output_tokens must be a positive integer"),
        (["@", "+sampling=sfd"], 2, "Could not find 'sampling/sfd'"),
        (["@", "+agent_name=example_maths_agent", "+head_server.port=9"], 3, "http://127.0.0.1:9 cannot be reached"),
        (["@", "+agent_url=nowhere"], 2, "agent_url must be a URL"),
        (["@", "+prompt_config=nope.yaml"], 2, "prompt_config nope.yaml cannot be read"),
        (["@"], 2, "no agent specified"),
        (
            ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=tasks.jsonl", "+agent_name=a"],
            2,
            "would replace the input",
        ),
        (["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=.", "+agent_name=a"], 2, "is a folder"),
        (["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=${oc.env:NOPE_NOPE}"], 2, "NOPE_NOPE"),
    ],
)
def test_mistakes_are_one_line(
    command: Command, tasks: Tasks, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    """A user's mistake is one line on stderr, the right exit code, no traceback, and nothing made or moved."""
    tasks(2)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = command(*(files if arguments[:1] == ["@"] else []), *(a for a in arguments if a != "@"))
    assert ran.code == code, ran.stderr
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.jsonl"]


def test_an_existing_output_is_moved_and_told(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """Nothing is silently destroyed."""
    tasks(1)
    (tmp_path / "r.jsonl").write_text("precious\n")
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl")
    assert ran.code == 0
    assert "r.jsonl exists: renamed to r.jsonl.1" in ran.stderr
    assert (tmp_path / "r.jsonl.1").read_text() == "precious\n"


def test_help_documents_every_parameter(command: Command) -> None:
    """With type, default and a line, before Hydra is needed."""
    ran = command("--help")
    assert ran.code == 0
    for name in (
        "input_jsonl_fpath",
        "head_server.port",
        "num_samples_in_parallel",
        "sampling=sft",
        "agent=local_server",
    ):
        assert f"+{name}\n" in ran.stdout
    assert "[int, 11000]" in ran.stdout
    assert "[int or dict, 1]" in ran.stdout


@pytest.mark.parametrize(
    ("strategy", "temperature", "top_p", "repeats"),
    [
        ("sft", 0.2, 0.95, 1),
        ("dpo", 0.7, 0.9, 3),
        ("rl", 0.5, 0.95, 1),
        ("eval", 0.1, 0.95, 1),
        ("research", 0.9, 0.9, 5),
    ],
)
def test_sampling_strategies(command: Command, strategy: str, temperature: float, top_p: float, repeats: int) -> None:
    """A strategy sets temperature, top_p and num_repeats; what is typed wins."""
    ran = command(f"+sampling={strategy}", "--cfg", "job")
    assert f"num_repeats: {repeats}\n" in ran.stdout
    assert f"temperature: {temperature}\n  top_p: {top_p}\n" in ran.stdout
    ran = command("+num_repeats=9", "+responses_create_params.top_p=0.5", f"+sampling={strategy}", "--cfg", "job")
    assert "num_repeats: 9\n" in ran.stdout
    assert f"temperature: {temperature}\n  top_p: 0.5\n" in ran.stdout


def test_unwise_sampling_is_a_warning(command: Command, tasks: Tasks) -> None:
    """Temperature 0 or a fixed seed with repeats, and misspelt sampling parameters, each one line on stderr."""
    tasks(1)
    ran = command(
        "+agent_name=example_math_agent",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_repeats=2",
        "+responses_create_params.temperature=0",
        "+responses_create_params.seed=1",
        "+responses_create_params.temprature=1",
    )
    warned = [line for line in ran.stderr.splitlines() if line.startswith("warning: ")]
    assert ["temperature 0" in warned[0], "did you mean temperature?" in warned[1]] == [True] * 2
    assert (ran.code, len(warned)) == (0, 2)


def test_sweeps(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """`-m` runs each combination; values go into paths; nothing else is left behind."""
    tasks(2)
    ran = command(
        "-m",
        "+agent_name=example_math_agent",
        "input_jsonl_fpath=tasks.jsonl",
        "responses_create_params.temperature=0.2,0.7",
        "output_jsonl_fpath=out_${responses_create_params.temperature}.jsonl",
    )
    assert ran.code == 0, ran.stderr
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["out_0.2.jsonl", "out_0.7.jsonl", "tasks.jsonl"]
    assert ran.stdout.count("Found 2 rows!") == 2


def test_a_sweep_ends_with_its_worst_code(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """One mistaken combination does not stop the others."""
    tasks(2)
    ran = command(
        "-m",
        "+agent_name=example_math_agent",
        "+input_jsonl_fpath=tasks.jsonl,nope.jsonl,tasks.jsonl",
        "output_jsonl_fpath=r.jsonl",
    )
    assert ran.code == 2
    names = {"r.jsonl", *beside("r")}
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.jsonl", *names, *(f"{name}.1" for name in names)}


@pytest.mark.parametrize("typed", ["num_re", "+num_re", "++num_re"])
def test_shell_completion(command: Command, typed: str) -> None:
    """The shell is told the parameters, however many plus signs were typed."""
    ran = command("-sc", "query=bash", env={"COMP_LINE": f"ng_collect_rollouts {typed}", "COMP_POINT": "99"})
    assert f"{typed}peats=" in ran.stdout


def test_the_alias(command: Command) -> None:
    """`nemo_gym_collect_rollouts` is the same command."""
    assert command("--version", script="nemo_gym_collect_rollouts").stdout.startswith("ng_rollouts 0.")


def test_rows_may_come_through_a_pipe(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """An input that can be read once only is copied first."""
    tasks(3)
    line = f"{SCRIPTS}/ng_collect_rollouts +agent_url={serve().url} +input_jsonl_fpath=<(head -2 tasks.jsonl) +output_jsonl_fpath=r.jsonl"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True, pass_fds=())
    assert len(read_rows(tmp_path / "r.jsonl")) == 2


def test_awkward_paths(command: Command, tasks: Tasks, tmp_path: Path) -> None:
    """Names with spaces, commas, equals signs, brackets and letters of any alphabet need no quotes for us."""
    tasks(1, name="a=b, c (d)#é.jsonl")
    ran = command(
        "+agent_name=example_math_agent",
        "+input_jsonl_fpath=a=b, c (d)#é.jsonl",
        "+output_jsonl_fpath=日本 (1)/r=1.jsonl",
    )
    assert ran.code == 0, ran.stderr
    assert len(read_rows(tmp_path / "日本 (1)" / "r=1.jsonl")) == 1


def test_a_prompt_template(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """Rows without an input get one; a missing field is an error that names row and field."""
    (tmp_path / "p.yaml").write_text("system: short\nuser: 'Q: {question}'\n")
    tasks([{"question": "why?"}])
    arguments = [
        f"+agent_url={serve().url}",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+prompt_config=p.yaml",
    ]
    assert command(*arguments).code == 0
    [row] = read_rows(tmp_path / "r.jsonl")
    assert row["input"] == [{"role": "system", "content": "short"}, {"role": "user", "content": "Q: why?"}]
    tasks([{"question": "why?"}, {"answer": "so"}])
    ran = command(*arguments)
    assert ran.code == 2
    assert "line 2: the prompt template needs the field 'question', which the row does not have" in ran.stderr


def test_an_agent_of_a_config_folder(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    """A group of the user's own names agents."""
    tasks(1)
    (tmp_path / "mine" / "agent").mkdir(parents=True)
    entry = f"# @package _global_\nagents:\n  mine:\n    url: {serve().url}\n"
    (tmp_path / "mine" / "agent" / "lab.yaml").write_text(entry)
    ran = command(
        "+agent_name=mine",
        "+agent=lab",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "--config-dir",
        "mine",
    )
    assert ran.code == 0, ran.stderr


@pytest.mark.parametrize("size", [(24, 100), (0, 0)])
def test_the_bar_on_a_terminal(tasks: Tasks, tmp_path: Path, size: tuple[int, int]) -> None:
    """On a terminal stderr shows the bar of the documents, on one without a size, as in a container, too."""
    tasks(3)
    arguments = ["+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    done = subprocess.run(
        [SCRIPTS / "ng_collect_rollouts", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    shown = read_all(ours).decode()
    assert "Collecting rollouts: 100%|████████████| 3/3 [" in shown
    assert done.stdout.startswith(b"Found 3 rows!")


def read_all(terminal: int) -> bytes:
    """What was written to a terminal whose other end is closed."""
    pieces = []
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 100_000):
            pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces)


def test_typos_are_found_before_hydra_is_imported() -> None:
    """A mistake costs milliseconds; help does too."""
    for arguments, code in ((["+num_repeat=1"], 2), (["--help"], 0)):
        script = f"import sys; sys.argv = ['x', *{arguments!r}]\nfrom ng_rollouts.cli.collect import _guarded, _main\n"
        script += "code = _guarded(lambda: _main(sys.argv[1:]))\nprint(code, sorted({'hydra', 'omegaconf', 'httpx', 'tqdm', 'stamina'} & set(sys.modules)))"
        done = subprocess.run([SCRIPTS / "python", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"{code} []"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real rows are not here")
@pytest.mark.parametrize("path", sorted(SHARED_DATA.glob("*/example.jsonl")), ids=lambda path: path.parent.name)
def test_real_rows(command: Command, serve: Serve, path: Path, tmp_path: Path) -> None:
    """Tools, multi-message inputs, sizes: what NVIDIA ships goes out whole and comes back in order."""
    server = serve()
    ran = command(
        f"+agent_url={server.url}", f"+input_jsonl_fpath={path}", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"
    )
    assert ran.code == 0, ran.stderr
    rows, originals = read_rows(tmp_path / "r.jsonl"), read_rows(path)
    assert keys_of(tmp_path / "r.jsonl") == [(task, rollout) for task in range(len(originals)) for rollout in range(2)]
    for row, original in zip(rows[::2], originals, strict=True):
        sent, own = row["responses_create_params"], original["responses_create_params"]
        assert sent == {**own, "input": sent["input"]}
        assert isinstance(own["input"], str) or sent["input"] == own["input"]
    bodies: list[Any] = server.stats()["last"]
    for body in bodies:
        original = originals[body["_ng_task_index"]]
        assert {key: body[key] for key in original if key not in ("responses_create_params", "agent_ref")} == {
            key: value for key, value in original.items() if key not in ("responses_create_params", "agent_ref")
        }


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real rows are not here")
def test_real_rollouts_make_chat() -> None:
    """Every recorded rollout has a training view whose last content is a string."""
    for path in SHARED_DATA.glob("*/example_rollouts.jsonl"):
        for row in read_rows(path):
            assert all(isinstance(message["content"], str) for message in chat_input(row["responses_create_params"]))
            assert isinstance(chat_output(row["response"])[-1]["content"], str)


def packed(path: Path, text: str) -> None:
    """Write a text as its file's name asks for."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    if path.suffix.lower() == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix in (".bz2", ".xz"):
        path.write_bytes((bz2 if path.suffix == ".bz2" else lzma).compress(text.encode()))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([json.loads(line) for line in text.splitlines()]), path)
    else:
        with fsspec.open(f"file://{path}", "w") as file:
            file.write(text)


@pytest.mark.parametrize(
    "name", ["t.jsonl.gz", "t.jsonl.GZ", "t.jsonl.zst", "t.jsonl.bz2", "t.jsonl.xz", "t.parquet", "t.jsonl"]
)
def test_inputs_as_they_lie_about(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """Packed, as a table, or at a URL: the same rollouts come of them as of the plain file."""
    plain = tasks(5).read_text()
    packed(tmp_path / name, plain)
    where = f"file://{tmp_path / name}" if name == "t.jsonl" else name
    run = ["+agent_name=example_math_agent", "+num_repeats=2"]
    assert command(*run, "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=a.jsonl").code == 0
    ran = command(*run, f"+input_jsonl_fpath={where}", "+output_jsonl_fpath=b.jsonl")
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (
        command(*run, f"+input_jsonl_fpath={where}", "+output_jsonl_fpath=b.jsonl", "+resume_from_cache=true").code == 0
    )


def test_tables_fill_no_fields_in(command: Command, tasks: Callable[..., Path], tmp_path: Path) -> None:
    """Parquet has the same fields in all structures of a column: those that a row has not are not sent as null."""
    said = {"role": "user", "content": "2 + 3"}
    called = {"type": "function_call_output", "call_id": "c", "output": "5"}
    rows = [{"responses_create_params": {"input": items}} for items in ([said], [said, called])]
    packed(tmp_path / "t.parquet", "".join(json.dumps(row) + "\n" for row in rows))
    run = ["+agent_name=example_math_agent", "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+input_jsonl_fpath=t.parquet").code == 0
    asked = [row["responses_create_params"]["input"] for row in read_rows(tmp_path / "r.jsonl")]
    assert asked == [[said], [said, called]]


def test_a_column_that_json_has_not_is_named(command: Command, tmp_path: Path) -> None:
    """By its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "blob": [b"x"]}), tmp_path / "t.parquet")
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=t.parquet", "+output_jsonl_fpath=r.jsonl")
    assert (ran.code, "column blob: " in ran.stderr) == (2, True), ran.stderr


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Stderr belongs to the command."""


def test_a_signed_link_is_what_its_path_says(command: Command, tasks: Callable[..., Path], tmp_path: Path) -> None:
    """Whatever stands behind the question mark, which is no one's to see."""
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(tasks(3).read_bytes()))
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/t.jsonl.gz?X-Amz-Signature=SECRETSIG"
        run = ["+agent_name=example_math_agent", "+output_jsonl_fpath=r.jsonl"]
        ran = command(*run, f"+input_jsonl_fpath={url}")
        gone = command(*run, f"+input_jsonl_fpath={url.replace('t.jsonl', 'none.jsonl')}")
        server.shutdown()
    assert (ran.code, len(read_rows(tmp_path / "r.jsonl"))) == (0, 3), ran.stderr
    assert (gone.code, "SECRETSIG" in gone.stderr) == (2, False)


def test_a_sweep_does_not_read_stdin(command: Command) -> None:
    """Once is not enough."""
    sweep = ["-m", "+agent_name=example_math_agent", "output_jsonl_fpath=r.jsonl", "num_repeats=1,2"]
    ran = command(*sweep, "+input_jsonl_fpath=-")
    assert (ran.code, "stdin can be read once" in ran.stderr, ran.stdout) == (2, True, "")


def test_tasks_from_stdin(tasks: Callable[..., Path], tmp_path: Path) -> None:
    """By a dash."""
    words = ["+agent_name=example_math_agent", "+input_jsonl_fpath=-", "+output_jsonl_fpath=r.jsonl"]
    ran = subprocess.run(
        [str(SCRIPTS / "ng_collect_rollouts"), *words],
        cwd=tmp_path,
        input=tasks(4).read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(4)]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("broken.jsonl.gz", "input_jsonl_fpath broken.jsonl.gz cannot be read"),
        ("broken.jsonl.zst", "input_jsonl_fpath broken.jsonl.zst cannot be read"),
        ("broken.parquet", "input_jsonl_fpath broken.parquet cannot be read"),
        ("file:///nowhere/t.jsonl", "cannot be read: No such file"),
        ("http://127.0.0.1:1/t.jsonl", "http://127.0.0.1:1/t.jsonl cannot be read: Connect call failed"),
        ("nosuch://bucket/t.jsonl", "input_jsonl_fpath nosuch://bucket/t.jsonl: Protocol not known"),
    ],
)
def test_inputs_that_are_not_what_they_say(command: Callable[..., Ran], tmp_path: Path, where: str, said: str) -> None:
    """Told in a line, with exit code 2."""
    if where.startswith("broken"):
        (tmp_path / where).write_bytes(b"PAR1 or anything else")
    ran = command("+agent_name=example_math_agent", f"+input_jsonl_fpath={where}", "+output_jsonl_fpath=r.jsonl")
    assert (ran.code, said in ran.stderr, ran.stderr.count("\n")) == (2, True, 1), ran.stderr
