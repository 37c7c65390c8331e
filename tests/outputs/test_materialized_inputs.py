"""The materialized inputs file has a row for each planned rollout, as NeMo Gym's collector writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import FILES, RESUME, Ran, keys_of, read_rows
from tests.servers import Served


def test_materialized_inputs_have_one_row_per_rollout_and_are_updated_by_a_resume(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """`materialized_inputs=true` writes a row per rollout, with seeds in `metadata.extra_body`.

    A resume updates an existing file. A run that renames the output renames this file too, and does not write it again.
    """
    source = tasks(2)
    run = [*FILES, f"+agent_url={serve().url}", "+num_repeats_add_seed=true"]
    materialized = tmp_path / "r_materialized_inputs.jsonl"
    assert command(*run).code == 0
    assert not materialized.exists()
    for arguments, repeats in ((["+materialized_inputs=true"], 1), ([RESUME, "+num_repeats=2"], 2)):
        assert command(*run, *arguments).code == 0
        rows, inputs = read_rows(materialized), read_rows(source)
        assert keys_of(materialized) == [(task, index) for task in range(2) for index in range(repeats)]
        for row in rows:
            assert row["responses_create_params"]["input"] == [
                {"role": "user", "content": inputs[row["_ng_task_index"]]["responses_create_params"]["input"]}
            ]
            extra = row["responses_create_params"]["metadata"]["extra_body"]
            assert json.loads(extra) == {"seed": row["_ng_rollout_index"]}
    assert "renamed to r.jsonl.2" in command(*run).stderr
    assert not materialized.exists()
