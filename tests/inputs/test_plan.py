"""The plan of a run: keys, groups and positions of its rollouts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inputs.helpers import PLAIN, expanded, lines, parser_of, written


@given(indices=st.lists(st.integers(0, 5), min_size=1, max_size=12), repeats=st.integers(1, 3), done=st.data())
def test_rows_with_the_same_task_index_form_one_group(
    indices: list[int], repeats: int, done: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows with the same `_ng_task_index` share a group: their keys are unique, and it is complete as a whole."""
    rows = [{**PLAIN, "_ng_task_index": index} for index in indices]
    plan, rollouts = expanded(written(tmp_path_factory.mktemp("t"), lines(rows)), parser_of(repeats=repeats))
    keys = [rollout.key for rollout in rollouts]
    assert len(set(keys)) == len(keys)
    assert [key.task_index for key in keys] == [index for index in indices for _ in range(repeats)]
    for index in set(indices):
        assert [key.rollout_index for key in keys if key.task_index == index] == list(
            range(indices.count(index) * repeats)
        )
    finished = done.draw(st.sets(st.integers(0, plan.rollouts - 1)))
    missing = {key.task_index for position, key in enumerate(keys) if position not in finished}
    is_done = bytes(position in finished for position in range(plan.rollouts))
    assert list(plan.complete(is_done)) == [key.task_index not in missing for key in keys]
