"""Handing a finished run on: trackers, Parquet."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.integrations.column_types import ColumnType, coerce, type_of_value, unify
from ng_rollouts.integrations.parquet import write_parquet

from .conftest import ROOT, SCRIPTS, SHARED_DATA, Ran, read_rows

FILES = [f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}", "+output_jsonl_fpath=r.jsonl"]
RUN = ["+agent_name=example_math_agent", "+limit=5", "+num_repeats=2", *FILES]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.just(2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, min_size=1, max_size=3), min_size=1, max_size=5)


def restored(value: Any, shape: ColumnType) -> Any:
    """What a column's value was, but for nulls and floats that fill what was not there."""
    if value is None or shape is None:
        return None
    if shape == "json":
        return json.loads(value)
    if isinstance(shape, tuple):
        return [restored(each, shape[1]) for each in value]
    if isinstance(shape, dict):
        return {name: restored(value[name], inner) for name, inner in shape.items()}
    return value


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(rows=ROWS)
def test_whatever_rows_hold_comes_back_from_parquet(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Fields that have no type in common are JSON text, the others values."""
    output = tmp_path_factory.mktemp("parquet") / "r.jsonl"
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_parquet(output)
    shapes: dict[str, ColumnType] = {}
    for row in rows:
        for name, value in row.items():
            shapes[name] = unify(shapes.get(name), type_of_value(value))
    back = pq.read_table(output.with_suffix(".parquet")).to_pylist()
    for row, read in zip(rows, back, strict=True):
        there = {name: restored(read[name], shapes[name]) for name in shapes}
        assert without_nulls(there) == without_nulls(row)


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ([1, None, 2.5], "float"),
        ([[], ["x"]], ("list", "text")),
        (["x", [{"role": "user"}]], "json"),
        ([{"a": 1}, {"b": "x"}], {"a": "int", "b": "text"}),
        ([{"a": 1}, {"a": "x"}], {"a": "json"}),
        ([{}, {"a": 1}], "json"),
        ([2**70], "json"),
        ([True, 1], "json"),
        (["\ud800"], "json"),
    ],
)
def test_shapes(values: list[Any], shape: ColumnType) -> None:
    """What values have in common, by hand."""
    found: ColumnType = None
    for value in values:
        found = unify(found, type_of_value(value))
    assert found == shape
    assert all(coerce(value, found) is not None for value in values if value is not None)


def test_a_run_as_parquet(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Beside the output, row for row; the averages are still the last of stdout."""
    ran = command(*RUN, "+export=parquet")
    assert ran.code == 0, ran.stderr
    assert "Parquet: r.parquet (10 rows)" in ran.stderr
    table, rows = pq.read_table(tmp_path / "r.parquet"), read_rows(tmp_path / "r.jsonl")
    assert table.column("reward").to_pylist() == [row["reward"] for row in rows]
    assert table.column("output").to_pylist()[0][-1]["content"] == rows[0]["output"][-1]["content"]
    assert json.loads(ran.stdout[ran.stdout.rindex("\n{") :])["reward"] == pytest.approx(
        sum(row["reward"] for row in rows) / 10
    )


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not here")
def test_real_rollouts_as_parquet(tmp_path: Path) -> None:
    """Every file has a table of as many rows."""
    for number, source in enumerate(SHARED_DATA.glob("*/example_rollouts.jsonl")):
        output = tmp_path / f"{number}.jsonl"
        output.write_bytes(source.read_bytes())
        write_parquet(output)
        assert pq.read_metadata(output.with_suffix(".parquet")).num_rows == len(read_rows(output))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no key, sorry')", "warning: export=wandb failed: RuntimeError: no key, sorry"),
        ("import os\nos._exit(9)", "warning: export=wandb failed"),
        ("def init(**_): raise ValueError('nobody\\nthere')", "warning: export=wandb failed: ValueError: nobody there"),
    ],
)
def test_an_exporter_that_fails_is_a_warning(process: Callable[..., Ran], tmp_path: Path, code: str, said: str) -> None:
    """And the run is what it was."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(f"print('chatter')\n{code}\n")
    ran = process(*RUN, "+export=wandb", env={"PYTHONPATH": str(tmp_path / "modules")})
    assert ran.code == 0
    assert said in ran.stderr
    assert "chatter" not in ran.stdout
    assert json.loads(ran.stdout[ran.stdout.rindex("\n{") :])


def test_an_exporter_that_hangs_is_left_on_a_signal(tmp_path: Path) -> None:
    """The output and the averages are there, the exporter's process is not."""
    (tmp_path / "wandb.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *RUN, "+export=wandb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert json.loads(stdout[stdout.rindex("\n{") :])
    assert "SIGINT: all rollouts are collected; remaining steps are skipped" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("wandbb", "export must be one of wandb, mlflow, trackio, parquet, or a list of them, got 'wandbb'"),
        ("mlflow", "export=mlflow needs mlflow: pip install 'ng_rollouts[mlflow]'"),
    ],
)
def test_exporters_that_cannot_be_are_told_before_anything_is_sent(
    command: Callable[..., Ran], tmp_path: Path, choice: str, said: str
) -> None:
    """One that nobody knows, one that is not installed."""
    ran = command(*RUN, f"+export={choice}", env={"PYTHONPATH": str(without(tmp_path, "mlflow"))})
    assert (ran.code, said in ran.stderr) == (2, True), ran.stderr
    assert not (tmp_path / "r.jsonl").exists()


def without(folder: Path, module: str) -> Path:
    """A folder for PYTHONPATH in which a module cannot be found."""
    code = f"import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda name, *a: None if name == {module!r} else find(name, *a)\n"
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(code)
    return folder / "site"


@pytest.mark.extras
def test_trackers(command: Callable[..., Ran], tmp_path: Path) -> None:
    """The real ones, offline: figures, parameters and files arrive."""
    env = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    ran = command(*RUN, "+export=[wandb,mlflow,trackio]", "+export_project=mine", env=env)
    assert ran.code == 0
    assert "warning" not in ran.stderr, ran.stderr
    reward = json.loads((tmp_path / "r_summary.json").read_text())["means"]["reward"]
    with sqlite3.connect(tmp_path / "mlflow.db") as stored:
        assert stored.execute("select value from metrics where key = 'means/reward'").fetchone() == (reward,)
    assert list(tmp_path.glob("mlruns/**/r.jsonl"))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    with sqlite3.connect(tmp_path / "trackio" / "mine.db") as stored:
        (logged,) = stored.execute("select metrics from metrics").fetchone()
        assert json.loads(logged)["means/reward"] == reward


@pytest.mark.extras
def test_parquet_is_read_by_others(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """duckdb, polars, datasets."""
    import duckdb
    import polars

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    command(*RUN, "+export=parquet")
    path = str(tmp_path / "r.parquet")
    assert duckdb.sql(f"select count(*), avg(reward) from '{path}'").fetchall()[0][0] == 10
    assert polars.read_parquet(path)["reward"].len() == 10
    loaded = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["output"][-1]["role"] == "assistant"
