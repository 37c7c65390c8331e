"""The output and its side files have distinct names, and none of them replaces the input."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.errors import StorageError
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.storage.atomic import write_json
from ng_rollouts.storage.lock import lock
from tests.conftest import EXAMPLE, FILES, RESUME, ROOT, SCRIPTS, Ran, assert_complete, files_in
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


def test_outputs_that_differ_after_a_dot_have_their_own_side_files(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A dot in the output's name is not taken for an extension, so `out_0.2` and `out_0.7` share no side file."""
    tasks(10)
    server = serve(faults={"400": 0.5}, sticky=True)
    for name in ("out_0.2", "out_0.7"):
        assert command(FILES[0], "+agent_name=a", f"+agent_url={server.url}", f"+output_jsonl_fpath={name}").code == 1
    names = {path.name for path in tmp_path.iterdir()} - {"tasks.jsonl"}
    endings = (
        "",
        "_failures.jsonl",
        "_manifest.json",
        "_aggregate_metrics.json",
        "_summary.json",
        "_quality_summary.json",
    )
    assert names == {name + ending for name in ("out_0.2", "out_0.7") for ending in endings}


def test_symbolic_link_to_the_output_stays_a_link(command: Command, tasks: Tasks, serve: Serve, tmp_path: Path) -> None:
    """If the output's path is a symbolic link, the run replaces the file that it points to, not the link."""
    tasks(5)
    (tmp_path / "big").mkdir()
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "big" / "real.jsonl")
    assert command(*FILES, f"+agent_url={serve(delay=[0, 0.05]).url}").code == 0
    assert (tmp_path / "r.jsonl").is_symlink()
    assert_complete(tmp_path, 5)


def test_compressed_output_must_not_replace_the_compressed_input(command: Command, tmp_path: Path) -> None:
    """An output with the path of the compressed input is rejected, although the run reads a decompressed copy."""
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((ROOT / "examples" / "arithmetic.jsonl").read_bytes()))
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=t.jsonl.gz", "+output_jsonl_fpath=t.jsonl.gz")
    assert ran.code == 2
    assert "would replace the input t.jsonl.gz" in ran.stderr


def test_output_name_that_is_too_long_is_rejected(command: Command, tasks: Tasks) -> None:
    """An output is rejected in one line if the names of its side files would be longer than the file system allows."""
    tasks(1)
    ran = command(*FILES, f"+output_jsonl_fpath={'x' * 245}")
    assert ran.code == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "bytes too long" in ran.stderr


def test_existing_output_is_renamed_with_a_message(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """An existing output is renamed with a number, and a message says so."""
    tasks(1)
    (tmp_path / "r.jsonl").write_text("precious\n")
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl")
    assert ran.code == 0
    assert "r.jsonl exists: renamed to r.jsonl.1" in ran.stderr
    assert (tmp_path / "r.jsonl.1").read_text() == "precious\n"


# Names that mean something else


@pytest.mark.parametrize("ending", [".GZ", ".ZST", ".Gz"])
def test_extension_in_capitals_is_an_output_like_any_other(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, ending: str
) -> None:
    """An output whose extension is in capitals is resumed without a request, and renamed by a new run."""
    tasks(4)
    name = f"r.jsonl{ending}"
    run = [FILES[0], f"+output_jsonl_fpath={name}", f"+agent_url={(server := serve()).url}", "+agent_name=a"]
    assert command(*run).code == 0
    rows = (tmp_path / name).stat().st_size
    ran = command(*run, "+resume_from_cache=true")
    assert (ran.code, server.stats()["total"]) == (0, 4), ran.stderr
    assert f"exists: renamed to {name}.1" in command(*run).stderr
    assert (tmp_path / f"{name}.1").stat().st_size == rows


@pytest.mark.parametrize("ending", ["_failures.jsonl", "_incomplete.jsonl", "_materialized_inputs.jsonl"])
@pytest.mark.parametrize("first_name", ["side file", "output"])
def test_output_named_like_a_side_file_is_not_taken_for_one(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, ending: str, first_name: str
) -> None:
    """Of two outputs, one named like a side file of the other, the second is rejected, and the first is unchanged."""
    tasks(3)
    names = (f"r{ending}", "r.jsonl") if first_name == "side file" else ("r.jsonl", f"r{ending}")
    first, second = ([FILES[0], f"+agent_url={serve().url}", f"+output_jsonl_fpath={name}"] for name in names)
    assert command(*first, "+agent_name=a").code == 0
    before = files_in(tmp_path)
    ran = command(*second, "+agent_name=a", "+overwrite=true")
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert files_in(tmp_path) == before


def test_files_made_from_the_output_do_not_replace_the_input(command: Command, tmp_path: Path) -> None:
    """`export=parquet` and `report=true` are rejected if their file would be the input."""
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    rows = [{"responses_create_params": {"input": "3 + 4"}, "expected_answer": "7"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    before = files_in(tmp_path)
    names = ["+input_jsonl_fpath=data.parquet", "+output_jsonl_fpath=data.jsonl"]
    ran = command(*names, "+agent_name=example_math_agent", "+export=parquet")
    assert (ran.code, "would replace the input data.parquet" in ran.stderr) == (2, True), ran.stderr
    assert files_in(tmp_path) == before


def test_page_of_an_earlier_output_is_renamed_with_it(command: Command, tmp_path: Path) -> None:
    """A new run and `ng_view_rollouts` rename an existing page, and say so."""
    run = [*EXAMPLE, "+limit=2", "+output_jsonl_fpath=r.jsonl", "+report=true"]
    (tmp_path / "r.html").write_text("mine")
    assert command(*run).code == 0
    assert (tmp_path / "r.html.1").read_text() == "mine"
    ran = command("+input_jsonl_fpath=r.jsonl", script="ng_view_rollouts")
    assert (ran.code, "r.html exists: renamed to r.html.2" in ran.stderr) == (0, True)
    command("+input_jsonl_fpath=r.jsonl", "+overwrite=true", script="ng_view_rollouts")
    assert sorted(path.name for path in tmp_path.glob("r.html*")) == ["r.html", "r.html.1", "r.html.2"]


@pytest.mark.parametrize("name", ["r_failures.jsonl", "r_summary.json", "r_manifest.json", "r_incomplete.jsonl"])
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_side_file_that_is_not_a_file_is_rejected(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, name: str, kind: str
) -> None:
    """A pipe or folder with the name of a side file ends the command at once, in one line."""
    tasks(2)
    os.mkfifo(tmp_path / name) if kind == "fifo" else (tmp_path / name).mkdir()
    for further in ([], ["+resume_from_cache=true"], ["+overwrite=true"]):
        ran = command(*FILES, "+agent_name=a", f"+agent_url={serve().url}", *further)
        assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
        assert name in ran.stderr


@pytest.mark.parametrize("how", ["/dev/stdout", "/proc/self/fd/1", "link", "hard link", "same file"])
def test_rows_are_not_written_to_where_the_program_prints(tasks: Tasks, tmp_path: Path, how: str) -> None:
    """An output that is standard output is rejected, through links too, also if that is a regular file."""
    tasks(2)
    printed = tmp_path / "printed.txt"
    printed.write_text("")
    output = {"same file": "printed.txt"}.get(how, how)
    if how == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
    if how == "hard link":
        (tmp_path / "hard link").hardlink_to(printed)
    with printed.open("ab") as stdout:
        arguments = [
            "+input_jsonl_fpath=tasks.jsonl",
            f"+output_jsonl_fpath={output}",
            "+agent_name=example_math_agent",
        ]
        command = [str(SCRIPTS / "ng_collect_rollouts"), *arguments]
        ran = subprocess.run(command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, check=False, text=True)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert printed.read_text() == ""


@pytest.mark.parametrize("output", ["loop.jsonl", "x" * 5000, "a" * 300 + "/r.jsonl", "r\0.jsonl", "file/r.jsonl", "."])
def test_impossible_path_is_one_line(command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, output: str) -> None:
    """A loop of links, a name that is too long and other paths that cannot exist give one line and exit code 2."""
    tasks(1)
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "file").write_text("")
    url = serve().url
    for parameters in ([f"+output_jsonl_fpath={output}", FILES[0]], [FILES[1], f"+input_jsonl_fpath={output}"]):
        ran = command(*parameters, "+agent_name=a", f"+agent_url={url}")
        assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr


@pytest.mark.parametrize("status_file", ["/dev/null", "notes.txt", "tasks.jsonl", "r_summary.json", "folder"])
def test_status_file_replaces_no_other_file(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, status_file: str
) -> None:
    """A status file that is a device, a folder, another file of the run or has other content is rejected."""
    tasks(1)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder").mkdir()
    ran = command(*FILES, "+agent_name=a", f"+agent_url={serve().url}", f"+status_file={status_file}")
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "notes.txt").read_text() == "notes"


def test_temporary_names_do_not_follow_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link with the temporary name leads nowhere: the file behind it is unchanged, and another name is used."""
    tokens = iter(["00000000", "11111111"])
    monkeypatch.setattr("ng_rollouts.storage.atomic.secrets.token_hex", lambda _: next(tokens))
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "r.json.00000000.writing").symlink_to("theirs")
    write_json(tmp_path / "r.json", {})
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "r.json").read_text() == "{}\n"


@pytest.mark.parametrize("resume", [[], [RESUME]], ids=["new", "resume"])
def test_leftovers_of_a_crash_are_removed_by_the_next_run(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, resume: list[str]
) -> None:
    """Temporary files of this output and its status file are removed by the next run, also if nothing remains to do.

    Temporary files of other names stay.
    """
    tasks(1)
    arguments = [*FILES, f"+agent_url={serve().url}"]
    assert command(*arguments).code == 0
    token = ".0123abcd.writing"
    for name in ("r.jsonl", f"r.jsonl.gz{token}", "r_summary.json", "r_status.json", "other.jsonl"):
        (tmp_path / f"{name}{token}").write_text("x")
    (tmp_path / "r_status.json").write_text('{"pid": 1}')
    assert command(*arguments, *resume).code == 0
    assert [path.name for path in tmp_path.glob("*.writing")] == [f"other.jsonl{token}"]
    assert not (tmp_path / "r_status.json").exists()


@pytest.mark.parametrize("kind", ["text", "link", "fifo", "input"])
def test_default_status_file_replaces_no_other_file(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, kind: str
) -> None:
    """A file with the name of the status file that is not one ends the command before anything is sent."""
    tasks(2, "r_status.json" if kind == "input" else "tasks.jsonl")
    source = "r_status.json" if kind == "input" else "tasks.jsonl"
    if kind == "text":
        (tmp_path / "r_status.json").write_text("precious")
    elif kind == "link":
        (tmp_path / "r_status.json").symlink_to("tasks.jsonl")
    elif kind == "fifo":
        os.mkfifo(tmp_path / "r_status.json")
    server = serve()
    run = [f"+agent_url={server.url}", "+agent_name=a", f"+input_jsonl_fpath={source}", FILES[1]]
    ran = command(*run)
    assert (ran.code, len(ran.stderr.splitlines()), server.stats()["total"]) == (2, 1, 0), ran.stderr
    assert os.path.lexists(tmp_path / "r_status.json")


def test_page_that_appears_during_a_run_is_kept(command: Command, tmp_path: Path) -> None:
    """A page with the output's name that a resume finds is renamed, not replaced."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl"]
    assert command(*run).code == 0
    (tmp_path / "r.html").write_text("mine")
    assert command(*run, "+report=true", "+resume_from_cache=true").code == 0
    assert (tmp_path / "r.html.1").read_text() == "mine"


def test_backup_replaces_no_link(command: Command, tmp_path: Path) -> None:
    """A link that leads nowhere occupies its name, too."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl"]
    assert command(*run).code == 0
    (tmp_path / "r.jsonl.1").symlink_to("nowhere")
    assert "renamed to r.jsonl.2" in command(*run).stderr
    assert (tmp_path / "r.jsonl.1").is_symlink()


@pytest.mark.parametrize("name", ["r_failures.jsonl", "r_manifest.json", "r_summary.json", "r.jsonl.gz"])
def test_export_takes_the_place_of_no_file_of_a_run(command: Command, tmp_path: Path, name: str) -> None:
    """An export with the name of a side file, or of an output that is being written, is rejected."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    before = files_in(tmp_path)
    fd = lock(tmp_path / "r.jsonl") if name == "r.jsonl.gz" else None
    ran = command(
        "+recipe=sft", "+input_jsonl_fpath=r.jsonl", f"+output_jsonl_fpath={name}", script="ng_export_rollouts"
    )
    if fd is not None:
        os.close(fd)
    assert (ran.code, files_in(tmp_path)) == (2, before), ran.stderr


def test_export_removes_no_validation_file_that_it_did_not_write(command: Command, tmp_path: Path) -> None:
    """A validation file that an export without validation rows finds is renamed, also with `overwrite=true`."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    (tmp_path / "x_validation.jsonl").write_text("mine")
    export = ["+recipe=sft", "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=x.jsonl", "+overwrite=true"]
    assert command(*export, script="ng_export_rollouts").code == 0
    assert (tmp_path / "x_validation.jsonl.1").read_text() == "mine"


@pytest.mark.parametrize(
    ("script", "arguments", "names"),
    [
        ("ng_view_rollouts", ["+input_jsonl_fpath=r.jsonl"], ["r_failures.jsonl", "r_manifest.json", "r_summary.json"]),
        ("ng_aggregate_rollouts", ["+input_glob=r.jsonl", "+output_jsonl_fpath=m.jsonl"], ["r_manifest.json"]),
        (
            "ng_collect_rollouts",
            [*EXAMPLE, "+output_jsonl_fpath=o.jsonl", "+policy_base_url=http://127.0.0.1:9/v1"],
            ["env.yaml"],
        ),
    ],
)
def test_pipe_in_place_of_a_file_is_not_waited_for(
    command: Command, tmp_path: Path, script: str, arguments: list[str], names: list[str]
) -> None:
    """A pipe with the name of a file that a command reads is an error, not a wait without end."""
    for name in names:
        assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+overwrite=true").code == 0
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        ran = command(*arguments, script=script)
        assert (ran.code, "is not a regular file" in ran.stderr) == (2, True), ran.stderr
        (tmp_path / name).unlink()


def test_pipe_that_appears_as_failures_file_ends_the_run(tmp_path: Path) -> None:
    """A failure that cannot be written is an error of storage: a pipe without a reader is not waited for."""
    os.mkfifo(tmp_path / "f.jsonl")
    with pytest.raises(StorageError, match=r"f.jsonl cannot be written"):
        FailuresFile(tmp_path / "f.jsonl")._write({"a": 1})


@pytest.mark.parametrize(
    ("first", "second"), [("r.jsonl", "r"), ("r", "r.jsonl"), ("r.jsonl", "r.gz"), ("r.gz", "r.jsonl")]
)
@pytest.mark.parametrize("option", ["+overwrite=true", RESUME])
def test_outputs_whose_side_files_have_the_same_names_are_not_mixed(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path, first: str, second: str, option: str
) -> None:
    """`r` and `r.jsonl` would share their side files: the second is rejected, and the files of the first stay."""
    tasks(3)
    run = [FILES[0], "+agent_name=a", "+num_repeats=2", "+max_attempts=1"]
    server = serve(faults={"500": 0.5}, sticky=True)
    assert command(*run, f"+agent_url={server.url}", f"+output_jsonl_fpath={first}").code == 1
    before = files_in(tmp_path)
    ran = command(*run, f"+agent_url={serve().url}", f"+output_jsonl_fpath={second}", option)
    assert (ran.code, "would share its side files with" in ran.stderr) == (2, True), ran.stderr
    assert files_in(tmp_path) == before


def test_input_may_have_the_name_of_the_output_with_another_extension(command: Command, tasks: Tasks) -> None:
    """The input is not another output: `tasks.jsonl` can be collected into `tasks`."""
    tasks(1)
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=tasks")
    assert ran.code == 0, ran.stderr


@pytest.mark.parametrize("parameter", ["prompt_config", "tools", "verifier.function"])
def test_output_must_not_replace_a_file_that_the_run_reads(
    command: Command, tasks: Tasks, tmp_path: Path, parameter: str
) -> None:
    """A template, tools and a verifier are not replaced by an output of their name."""
    tasks(1)
    (tmp_path / "mine.py").write_text("def verify(row, answer):\n    return 1.0\n")
    value = "mine.py:verify" if parameter == "verifier.function" else "mine.py"
    verifier = ["+verifier=python"] if parameter == "verifier.function" else ["+verifier=exact_match"]
    ran = command(
        "+policy_base_url=http://127.0.0.1:9/v1", *verifier, f"+{parameter}={value}", FILES[0],
        "+output_jsonl_fpath=mine.py", "+overwrite=true",
    )  # fmt: skip
    assert (ran.code, "would replace mine.py, which this run reads" in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "ng_compare_rollouts",
            ["+rollouts_jsonl_fpaths=r.jsonl,z.jsonl", "+output_json_fpath=z.jsonl"],
            "output_json_fpath z.jsonl is not a .json file",
        ),
        (
            "ng_compare_rollouts",
            ["+rollouts_jsonl_fpaths=r.jsonl,z.jsonl", "+output_json_fpath=z_summary.json"],
            "output_json_fpath z_summary.json is the name of a side file of z.jsonl",
        ),
        (
            "ng_reward_profile",
            ["+rollouts_jsonl_fpath=r.jsonl"],
            "r_reward_profiling.jsonl is the output of a run (it has r_reward_profiling_manifest.json)",
        ),
        (
            "ng_export_rollouts",
            ["+recipe=sft", "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=z.jsonl", "+overwrite=true"],
            "output_jsonl_fpath z.jsonl is the output of a run",
        ),
        (
            "ng_export_rollouts",
            ["+recipe=sft", "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=v.jsonl", "+overwrite=true"],
            "output_jsonl_fpath v_validation.jsonl is the output of a run",
        ),
    ],
)
def test_no_command_replaces_the_output_of_a_run(
    command: Command, tmp_path: Path, script: str, arguments: list[str], message: str
) -> None:
    """Results of the commands that read rollouts have names like an output: such an output is left alone."""
    for name in ("r", "z", "r_reward_profiling", "v_validation"):
        assert command(*EXAMPLE, f"+output_jsonl_fpath={name}.jsonl").code == 0
    before = files_in(tmp_path)
    ran = command(*arguments, script=script)
    assert (ran.code, message in ran.stderr) == (2, True), ran.stderr
    assert files_in(tmp_path) == before
