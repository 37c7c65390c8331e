"""The finished rows as a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.integrations.column_types import ColumnType, type_of_value, unify
from ng_rollouts.integrations.parquet import write_parquet
from ng_rollouts.jsonl import dumps
from tests.conftest import ROOT, SHARED_DATA, Ran, read_rows
from tests.rollout_files import write_rows

FILES = [f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}", "+output_jsonl_fpath=r.jsonl"]
RUN = ["+agent_name=example_math_agent", "+limit=5", "+num_repeats=2", *FILES, "+export=parquet"]

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


@given(rows=ROWS)
def test_any_json_values_can_be_read_back_from_parquet(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Fields without a common type are read back from JSON text, and all others as values.

    Null and a missing field are the same.
    """
    output = write_rows(tmp_path_factory.mktemp("parquet") / "r.jsonl", rows)
    write_parquet(output)
    types: dict[str, ColumnType] = {}
    for row in rows:
        for name, value in row.items():
            types[name] = unify(types.get(name), type_of_value(value))
    table = pq.read_table(output.with_suffix(".parquet")).to_pylist()
    for row, read in zip(rows, table, strict=True):
        decoded = {name: _decoded(read[name], types[name]) for name in types}
        assert _without_nulls(decoded) == _without_nulls(row)


def _decoded(value: Any, column_type: ColumnType) -> Any:
    """The JSON value that a cell of a column stands for."""
    if value is None or column_type is None:
        return None
    if column_type == "json":
        return json.loads(value)
    if isinstance(column_type, tuple):
        return [_decoded(each, column_type[1]) for each in value]
    if isinstance(column_type, dict):
        return {name: _decoded(value[name], inner) for name, inner in column_type.items()}
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def test_run_writes_parquet_next_to_its_output(command: Callable[..., Ran], tmp_path: Path) -> None:
    """`export=parquet` writes the rows of the output in its order; the averages remain the last output on stdout."""
    ran = command(*RUN)
    assert ran.code == 0, ran.stderr
    assert "Parquet: r.parquet (10 rows)" in ran.stderr
    table, rows = pq.read_table(tmp_path / "r.parquet"), read_rows(tmp_path / "r.jsonl")
    assert table.column("reward").to_pylist() == [row["reward"] for row in rows]
    assert table.column("output").to_pylist()[0][-1]["content"] == rows[0]["output"][-1]["content"]
    assert json.loads(ran.stdout[ran.stdout.rindex("\n{") :])["reward"] == pytest.approx(
        sum(row["reward"] for row in rows) / 10
    )


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not available")
def test_rollouts_of_nemo_gym_can_be_written_as_parquet(tmp_path: Path) -> None:
    """A file that NeMo Gym wrote becomes a table with as many rows."""
    for number, source in enumerate(SHARED_DATA.glob("*/example_rollouts.jsonl")):
        output = tmp_path / f"{number}.jsonl"
        output.write_bytes(source.read_bytes())
        write_parquet(output)
        assert pq.read_metadata(output.with_suffix(".parquet")).num_rows == len(read_rows(output))


@pytest.mark.extras
def test_duckdb_polars_and_datasets_read_the_parquet_file(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """duckdb, polars and datasets read the file with its rows and nested messages."""
    import duckdb
    import polars

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    command(*RUN)
    path = str(tmp_path / "r.parquet")
    assert duckdb.sql(f"select count(*), avg(reward) from '{path}'").fetchall()[0][0] == 10
    assert polars.read_parquet(path)["reward"].len() == 10
    loaded = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["output"][-1]["role"] == "assistant"


def test_field_name_that_is_not_unicode_becomes_an_escape_sequence(tmp_path: Path) -> None:
    """A lone surrogate in the name of a score, which Parquet cannot hold, does not cost the file."""
    output = tmp_path / "r.jsonl"
    output.write_bytes(dumps({"reward": 1.0, "\ud800s": 2.0}) + b"\n")
    write_parquet(output)
    assert pq.read_table(tmp_path / "r.parquet").to_pylist() == [{"reward": 1.0, "\\ud800s": 2.0}]


def test_row_groups_are_limited_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group has as many rows as fit into its limit of JSON bytes, and at least one, so memory is bounded."""
    monkeypatch.setattr("ng_rollouts.integrations.parquet._ROW_GROUP_BYTES", 100)
    rows = [{"text": "x" * size} for size in (10, 10, 300, 10, 70, 70)]
    output = write_rows(tmp_path / "r.jsonl", rows)
    write_parquet(output)
    file = pq.ParquetFile(output.with_suffix(".parquet"))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 1, 1, 1, 1]
    assert file.read().to_pylist() == rows
