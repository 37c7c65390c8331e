"""`ng_collect_rollouts` as users type it: output, messages, exit codes, sweeps."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.cli.hydra_errors import message_of
from tests.agent_server import reward_of
from tests.conftest import ROOT, SCRIPTS, Ran, keys_of, read_rows, sums
from tests.servers import Served

INPUT_AND_OUTPUT = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
PACKAGED_AGENT = "+agent_name=example_math_agent"


def side_files(stem: str) -> set[str]:
    """The names of the files that a run without failures writes in addition to its output."""
    return {f"{stem}{ending}.json" for ending in ("_manifest", "_aggregate_metrics", "_summary", "_quality_summary")}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_rollouts_are_in_aabbcc_order_and_never_more_in_flight_than_allowed(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """With random delays, the output is in aabbcc order, the means are those of jq, and the limit is respected."""
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
    assert names_in(tmp_path / "out") == {output.name, *side_files("rollouts")}


def test_stdout_has_the_lines_of_nemo_gym_then_the_means(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """Stdout has exactly the lines of NeMo Gym's command and then the means; everything else is on stderr."""
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


def test_stdout_has_no_lines_about_limits_that_are_null_or_zero(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """`null` and 0 mean that rows, repeats and concurrency are not limited, and no line mentions them."""
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


def test_run_leaves_only_the_output_and_its_side_files(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Hydra's `outputs/` and `.hydra` folders and its log file are not written."""
    tasks(1)
    command(PACKAGED_AGENT, *INPUT_AND_OUTPUT)
    assert names_in(tmp_path) == {"r.jsonl", "tasks.jsonl", *side_files("r")}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
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
        (
            [*INPUT_AND_OUTPUT, "+limit=abc"],
            2,
            "error: limit must be an integer, got 'abc'\n",
        ),
        ([*INPUT_AND_OUTPUT, "+wait_for_agent_s=x"], 2, "error: wait_for_agent_s must be a number, got 'x'\n"),
        ([*INPUT_AND_OUTPUT, "+overwrite=maybe"], 2, "error: overwrite must be true or false, got 'maybe'\n"),
        ([*INPUT_AND_OUTPUT, "+overwrite=null"], 2, "error: overwrite must not be null: leave it out"),
        (
            [*INPUT_AND_OUTPUT, "++min_mean=0.5"],
            2,
            "error: min_mean must be a dict such as +min_mean.reward=0.5, got 0.5\n",
        ),
        ([*INPUT_AND_OUTPUT, "+min_mean.reward=x"], 2, "error: min_mean.reward must be a number, got 'x'\n"),
        ([*INPUT_AND_OUTPUT, "+num_repeats={a: 1"], 2, "error: num_repeats={a: 1: the value cannot be parsed: close"),
        (
            [*INPUT_AND_OUTPUT, "+policy_base_url=${nope}"],
            2,
            "error: policy_base_url: ${nope} is not a parameter; an environment variable is ${oc.env:NAME}\n",
        ),
        (
            [*INPUT_AND_OUTPUT, "+policy_api_key=${oc.env:NOPE_NOPE}"],
            2,
            "error: policy_api_key: the environment variable NOPE_NOPE is not set: export it\n",
        ),
        ([*INPUT_AND_OUTPUT, "+limit=-1"], 2, "limit must be >= 0"),
        ([*INPUT_AND_OUTPUT, "+num_repeats=0"], 2, "num_repeats must be >= 1, got 0"),
        ([*INPUT_AND_OUTPUT, "+num_repeats=1.5"], 2, "num_repeats must be an integer, got 1.5"),
        ([*INPUT_AND_OUTPUT, "+num_repeats={a: 0}"], 2, "num_repeats for a must be >= 1, got 0"),
        ([*INPUT_AND_OUTPUT, "+num_samples_in_parallel=-1"], 2, "num_samples_in_parallel must be >= 0"),
        (
            [*INPUT_AND_OUTPUT, "+responses_create_params.temperature=2.5"],
            2,
            "temperature must be a number from 0 to 2, got 2.5",
        ),
        (
            [*INPUT_AND_OUTPUT, "+responses_create_params.temperature=hot"],
            2,
            "temperature must be a number from 0 to 2, got 'hot'",
        ),
        ([*INPUT_AND_OUTPUT, "+responses_create_params.top_p=-0.1"], 2, "top_p must be a number from 0 to 1"),
        (
            [*INPUT_AND_OUTPUT, "+responses_create_params.max_output_tokens=0"],
            2,
            "max_output_tokens must be a positive integer",
        ),
        (
            [*INPUT_AND_OUTPUT, "+verifier=exactmatch"],
            2,
            "mcqa, none, python, regex, got 'exactmatch', did you mean exact_match?\n",
        ),
        ([*INPUT_AND_OUTPUT, "+sampling=zzz"], 2, "sampling must be one of dpo, eval, research, rl, sft, got 'zzz'\n"),
        (
            [*INPUT_AND_OUTPUT, "+agent_name=example_maths_agent", "+head_server.port=9", "+wait_for_agent_s=0"],
            3,
            "http://127.0.0.1:9 cannot be reached",
        ),
        ([*INPUT_AND_OUTPUT, "+agent_url=nowhere"], 2, "agent_url must be a URL"),
        ([*INPUT_AND_OUTPUT, "+prompt_config=nope.yaml"], 2, "prompt_config nope.yaml cannot be read"),
        (INPUT_AND_OUTPUT, 2, "error: no agent specified: give +agent_name=NAME"),
        (
            ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=tasks.jsonl", "+agent_name=a"],
            2,
            "would replace the input",
        ),
        (["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=.", "+agent_name=a"], 2, "is a folder"),
        (["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=${oc.env:NOPE_NOPE}"], 2, "NOPE_NOPE is not set"),
    ],
)
def test_usage_error_is_one_line_and_changes_no_file(
    command: Callable[..., Ran],
    tasks: Callable[..., Path],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """A usage error is one line on stderr with its exit code; no traceback is printed, and no file is written."""
    tasks(2)
    ran = command(*arguments)
    assert ran.code == code, ran.stderr
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert names_in(tmp_path) == {"tasks.jsonl"}


def test_sweep_runs_each_combination(command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """With `-m`, each combination of values is one run, paths can contain the values, and Hydra leaves no files."""
    tasks(2)
    ran = command(
        "-m",
        PACKAGED_AGENT,
        "input_jsonl_fpath=tasks.jsonl",
        "responses_create_params.temperature=0.2,0.7",
        "output_jsonl_fpath=out_${responses_create_params.temperature}.jsonl",
    )
    assert ran.code == 0, ran.stderr
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["out_0.2.jsonl", "out_0.7.jsonl", "tasks.jsonl"]
    assert ran.stdout.count("Found 2 rows!") == 2


def test_sweep_ends_with_a_table_of_its_runs(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The table has what was swept, each mean with its interval, failures, exit code and file; a run may have none."""
    tasks(4)
    (tmp_path / "out_1.jsonl").mkdir()
    ran = command(
        "-m",
        PACKAGED_AGENT,
        "input_jsonl_fpath=tasks.jsonl",
        "num_repeats=2,1,3",
        "output_jsonl_fpath=out_${num_repeats}.jsonl",
    )
    assert ran.code == 2, ran.stderr
    header, *rows = [line.split("  ") for line in ran.stderr.splitlines()[-4:]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in (header, *rows)]
    assert cells[0] == ["num_repeats", "reward", "accuracy", "failed", "exit", "output"]
    assert [row[0] for row in cells[1:]] == ["2", "1", "3"]
    assert cells[2][1:] == ["-", "-", "-", "2", "-"]
    for row in (cells[1], cells[3]):
        summary = json.loads((tmp_path / f"out_{row[0]}_summary.json").read_text())
        low, high = summary["intervals_95"]["reward"]
        assert row[1:] == [
            f"{summary['means']['reward']:.3f} ± {(high - low) / 2:.3f}",
            row[2],
            "0",
            "0",
            f"out_{row[0]}.jsonl",
        ]


def test_sweep_continues_after_an_error_and_returns_the_highest_exit_code(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A usage error in one combination does not stop the others, and the sweep ends with the highest exit code."""
    tasks(2)
    (tmp_path / "bad.jsonl").write_text("x")
    ran = command(
        "-m",
        PACKAGED_AGENT,
        "+input_jsonl_fpath=tasks.jsonl,bad.jsonl,tasks.jsonl",
        "output_jsonl_fpath=r.jsonl",
    )
    assert ran.code == 2
    names = {"r.jsonl", *side_files("r")}
    assert names_in(tmp_path) == {"tasks.jsonl", "bad.jsonl", *names, *(f"{name}.1" for name in names)}


def test_sweep_does_not_replace_the_output_of_an_earlier_run(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Without the swept value in its name, an output is renamed, and the table says so; `overwrite` is an error."""
    tasks(2)
    sweep = ["-m", PACKAGED_AGENT, "input_jsonl_fpath=tasks.jsonl", "num_repeats=1,2", "output_jsonl_fpath=r.jsonl"]
    ran = command(*sweep)
    assert ran.code == 0
    assert ran.stderr.splitlines()[-2].endswith("r.jsonl (renamed by a later run)")
    ran = command(*sweep, "+overwrite=true")
    assert (ran.code, "is the output of an earlier run of the sweep" in ran.stderr) == (2, True)
    assert len(read_rows(tmp_path / "r.jsonl")) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("fail_on=[empty],[nonsense]", "fail_on"),
        ("health_check_ignored_checks=[empty],[nonsense]", "health_check_ignored_checks"),
        ("agent_url=http://127.0.0.1:9,ftp://x", "agent_url"),
        ("input_jsonl_fpath=tasks.jsonl,nofile.jsonl", "input_jsonl_fpath nofile.jsonl cannot be read"),
        ("prompt_config=null,missing.yaml", "missing.yaml"),
        ("count_as_zero=failed,Missing", "did you mean missing?"),
    ],
)
def test_sweep_checks_names_and_files_before_its_first_run(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, values: str, message: str
) -> None:
    """A check, an address or a file that only one run of a sweep has is checked before the first run, too."""
    tasks(2)
    sweep = ["-m", PACKAGED_AGENT, "+output_jsonl_fpath=r.jsonl", values]
    sweep += [] if "input_jsonl_fpath" in values else ["+input_jsonl_fpath=tasks.jsonl"]
    ran = command(*sweep)
    assert (ran.code, ran.stdout, message in ran.stderr) == (2, "", True), ran.stderr
    assert names_in(tmp_path) == {"tasks.jsonl"}


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=submitit_local"]], ids=["here", "jobs"])
def test_sweep_checks_all_values_before_its_first_run(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, launcher: list[str]
) -> None:
    """A wrong value in the last run of a sweep is one line before the first run, with a launcher, too."""
    tasks(2)
    sweep = ["-m", *launcher, PACKAGED_AGENT, "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r_${limit}.jsonl"]
    ran = command(*sweep, "limit=1,2,-1")
    assert (ran.code, ran.stdout, ran.stderr) == (2, "", "error: limit must be >= 0, got -1\n")
    assert names_in(tmp_path) == {"tasks.jsonl"}


def test_several_values_without_a_sweep_name_the_flag(command: Callable[..., Ran]) -> None:
    """A list of values for a number, typed without `-m`, is an error that names the flag."""
    ran = command(PACKAGED_AGENT, "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", "num_repeats=1,2")
    assert ran.code == 2
    assert "num_repeats must be an integer, got '1,2': add -m to run once for each value" in ran.stderr


def test_sweep_refuses_stdin(command: Callable[..., Ran]) -> None:
    """A sweep reads its input once for each run, so stdin, which can be read once, is a usage error."""
    sweep = ["-m", PACKAGED_AGENT, "output_jsonl_fpath=r.jsonl", "num_repeats=1,2"]
    ran = command(*sweep, "+input_jsonl_fpath=-")
    assert (ran.code, "stdin can be read once" in ran.stderr, ran.stdout) == (2, True, "")


@pytest.mark.slow
def test_launcher_runs_shards_as_jobs(command: Callable[..., Ran], tmp_path: Path) -> None:
    """A launcher runs shards as jobs (submitit's local executor replaces Slurm here); a failed job fails the sweep."""
    shards = ["-m", "hydra/launcher=submitit_local", "num_shards=3", "shard_index=range(3)"]
    run = ["+num_repeats=2", "+limit=10", f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}"]
    ran = command(*shards, PACKAGED_AGENT, *run, "+output_jsonl_fpath=r.jsonl")
    assert ran.code == 0, ran.stderr
    merge = ["+input_glob=r_shard_*.jsonl", "+output_jsonl_fpath=all.jsonl"]
    assert command(*merge, script="ng_aggregate_rollouts").code == 0
    assert keys_of(tmp_path / "all.jsonl") == [(task, index) for task in range(10) for index in range(2)]
    # Hydra prints the overrides of a job that fails. A module in the working folder is not run by a job's interpreter.
    (tmp_path / "random.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    unreachable = ["+output_jsonl_fpath=n.jsonl", "+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=0"]
    unreachable.append("+policy_api_key=jU8kq2Xw9pLmN4")
    ran = command(*shards, *run, *unreachable)
    assert (ran.code, "a job of the sweep ended with exit code 3" in ran.stderr) == (3, True), ran.stderr
    assert "jU8kq2Xw9pLmN4" not in ran.stderr
    assert not (tmp_path / "executed").exists()
    assert list((tmp_path / "ng_rollouts_jobs").rglob("*_log.err"))


@pytest.mark.slow
@pytest.mark.parametrize("value", ["Vq7wLx2mZt9cRb4nKd", "${oc.env:MINE}"], ids=["env.yaml", "variable"])
def test_launcher_writes_no_key_of_env_yaml_and_the_environment(
    command: Callable[..., Ran],
    serve_model: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    value: str,
) -> None:
    """Jobs read keys where they run: no file of theirs has one, and only their owner can read typed ones."""
    key, typed = "Vq7wLx2mZt9cRb4nKd", "Hy3sPe8gUa5fJo1iWm"
    server = serve_model(models=["m"], key=key)
    tasks(sums(2))
    (tmp_path / "env.yaml").write_text(f"policy_base_url: {server.url}/v1\npolicy_api_key: {value}\n")
    (tmp_path / "env.yaml").chmod(0o600)
    jobs = tmp_path / "ng_rollouts_jobs"
    jobs.mkdir(mode=0o755)
    ran = command(
        *["-m", "hydra/launcher=submitit_local", "num_shards=2", "shard_index=range(2)", "+verifier=exact_match"],
        *["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", f"+head_server.host=me:{typed}@h"],
        env={"MINE": key},
    )
    assert ran.code == 0, ran.stderr
    assert jobs.stat().st_mode & 0o777 == 0o700
    files = [path for path in jobs.rglob("*") if path.is_file()]
    assert {".pkl", ".out"} <= {path.suffix for path in files}
    assert not [path for path in files if key.encode() in path.read_bytes()]
    assert not [path for path in files if path.suffix != ".pkl" and typed.encode() in path.read_bytes()]
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.parametrize("typed", ["num_re", "+num_re", "++num_re"])
def test_shell_completion_keeps_the_plus_signs(command: Callable[..., Ran], typed: str) -> None:
    """Shell completion suggests parameters with the plus signs that were typed."""
    ran = command("-sc", "query=bash", env={"COMP_LINE": f"ng_collect_rollouts {typed}", "COMP_POINT": "99"})
    assert f"{typed}peats=" in ran.stdout


def test_nemo_gym_collect_rollouts_is_the_same_command(command: Callable[..., Ran]) -> None:
    """`nemo_gym_collect_rollouts` runs the same command as `ng_collect_rollouts`."""
    assert command("--version", script="nemo_gym_collect_rollouts").stdout.startswith("ng_rollouts 0.")


def test_paths_can_contain_any_character(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Paths with spaces, commas, equals signs, brackets and letters of any alphabet need no quotes for Hydra."""
    tasks(1, name="a=b, c (d)#é.jsonl")
    ran = command(PACKAGED_AGENT, "+input_jsonl_fpath=a=b, c (d)#é.jsonl", "+output_jsonl_fpath=日本 (1)/r=1.jsonl")
    assert ran.code == 0, ran.stderr
    assert len(read_rows(tmp_path / "日本 (1)" / "r=1.jsonl")) == 1


NEMO_GYM_COMMANDS = {
    "sampling parameters": "+num_repeats=4 +num_samples_in_parallel=8 +responses_create_params.temperature=0.7 +responses_create_params.top_p=0.9",
    "rl exploration": "+num_repeats=8 +responses_create_params.temperature=0.8 +responses_create_params.top_p=0.95",
    "sft, greedy": "+num_repeats=1 +responses_create_params.temperature=0.0",
    "dpo, moderate": "+num_repeats=4 +responses_create_params.temperature=0.6",
    "sft at scale": "+responses_create_params.temperature=0.2 +responses_create_params.top_p=0.95 +num_samples_in_parallel=20",
    "sft, no limit": "+responses_create_params.temperature=0.2 +responses_create_params.top_p=0.95 +num_samples_in_parallel=20 +limit=null",
    "sft, shorter": "+num_samples_in_parallel=30 +responses_create_params.max_output_tokens=512",
    "dpo": "+responses_create_params.temperature=0.7 +responses_create_params.top_p=0.9 +num_repeats=3 +num_samples_in_parallel=10",
    "dpo pairs": "+responses_create_params.temperature=0.7 +num_repeats=3 +num_samples_in_parallel=10",
    "rl buffer": "+responses_create_params.temperature=0.5 +num_samples_in_parallel=15",
    "evaluation": "+responses_create_params.temperature=0.1 +responses_create_params.seed=42 +num_samples_in_parallel=5 +limit=null",
    "comparison": "+responses_create_params.temperature=0.1 +responses_create_params.seed=42 +num_samples_in_parallel=5",
    "more exploration": "+responses_create_params.temperature=0.3",
    "more repeats": "+num_repeats=4",
}
"""The parameters of the commands in NeMo Gym's guides, without the agent and the files."""


@pytest.mark.parametrize("overrides", NEMO_GYM_COMMANDS.values(), ids=NEMO_GYM_COMMANDS.keys())
def test_commands_of_nemo_gyms_guides_run_unchanged(
    command: Callable[..., Ran], tmp_path: Path, overrides: str
) -> None:
    """The commands of NeMo Gym's guides run as they are written there, except for the names of agent and files."""
    lines = (ROOT / "examples" / "arithmetic.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:60]))
    files = f"{PACKAGED_AGENT} +input_jsonl_fpath=prompts.jsonl +output_jsonl_fpath=outputs/r.jsonl"
    ran = command(*shlex.split(f"{files} {overrides}"))
    assert ran.code == 0, ran.stderr
    repeats = int((re.findall(r"num_repeats=(\d+)", overrides) or ["1"])[0])
    assert keys_of(tmp_path / "outputs" / "r.jsonl") == [(t, r) for t in range(60) for r in range(repeats)]


@pytest.mark.parametrize("name", ["ng_collect_rollouts", "ng_view_rollouts"])
def test_help_for_a_reader_that_stops_early_is_silent(name: str) -> None:
    """`--help | head -1` prints no error, also without buffering."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [SCRIPTS / name, "--help"], stdout=writing, stderr=subprocess.PIPE, env=environment, check=True
    )
    os.close(writing)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "text", ["Could not load 'hydra/launcher/submitit_slurm'.", "Could not find 'hydra/launcher/submitit_local'"]
)
def test_missing_launcher_is_a_message_with_its_pip_command(text: str) -> None:
    """Hydra's message about the launcher's plugin becomes the name of the extra."""
    assert (
        message_of(ValueError(text))
        == "hydra/launcher=slurm needs hydra-submitit-launcher: pip install 'ng_rollouts[slurm]'"
    )
