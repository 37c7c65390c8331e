"""Exported rows are shuffled with a seed, and split by prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.export.writer import RowWriter
from ng_rollouts.storage.compression import open_decompressed
from tests.conftest import EXAMPLE, Ran, read_rows
from tests.rollout_files import rollout_row, write_rows


@given(
    prompts=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    fraction=st.sampled_from([0.0, 0.1, 0.5]),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
)
def test_split_is_by_prompt_and_reproducible(*, prompts: list[int], fraction: float, shuffle: bool, seed: int) -> None:
    """Every row is in one part, no prompt is in both, and the same seed gives the same parts in the same order."""
    with TemporaryFile() as file:
        writer = RowWriter(file)
        for number, prompt in enumerate(prompts):
            writer.add({"number": number}, [{"role": "user", "content": str(prompt)}])
        train, validation = writer.parts(fraction, shuffle=shuffle, seed=seed)
        assert writer.parts(fraction, shuffle=shuffle, seed=seed) == (train, validation)
    assert sorted([*train, *validation]) == list(range(len(prompts)))
    parts = {prompts[number] for number in train}, {prompts[number] for number in validation}
    assert not parts[0] & parts[1]
    distinct = len(set(prompts))
    assert len(parts[1]) == (max(1, round(fraction * distinct)) if fraction and distinct > 1 else 0)
    if not shuffle:
        assert list(train) == sorted(train)


def test_split_puts_no_prompt_into_both_parts_with_any_grouping(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Groups by position that do not match the prompts do not put a prompt into both parts."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(task, index, 1.0) for task in range(20) for index in range(3)])
    ran = command(
        "+input_jsonl_fpath=r.jsonl",
        "+output_jsonl_fpath=out.jsonl",
        "+recipe=sft",
        "+group_by=position",
        "+num_repeats=4",
        "+validation_fraction=0.2",
        script="ng_export_rollouts",
    )
    assert ran.code == 0
    parts = [
        {row["_ng_task_index"] for row in read_rows(tmp_path / name)} for name in ("out.jsonl", "out_validation.jsonl")
    ]
    assert (len(parts[0]), len(parts[1]), parts[0] & parts[1]) == (16, 4, set())


def test_export_is_compressed_if_its_name_has_a_compression_extension(
    command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Both parts of an export with the extension .zst are compressed, and have the rows of a plain export."""
    assert command(*EXAMPLE, "+num_repeats=2", "+output_jsonl_fpath=r.jsonl").code == 0
    export = ["+input_jsonl_fpath=r.jsonl", "+recipe=sft"]
    assert command(*export, "+output_jsonl_fpath=sft.jsonl", script="ng_export_rollouts").code == 0
    split = ["+output_jsonl_fpath=t.jsonl.zst", "+validation_fraction=0.2"]
    assert command(*export, *split, script="ng_export_rollouts").code == 0
    rows: list[bytes] = []
    for name in ("t.jsonl.zst", "t_validation.jsonl.zst"):
        with open_decompressed(tmp_path / name) as file:
            rows += file.read().splitlines()
    assert sorted(rows) == sorted((tmp_path / "sft.jsonl").read_bytes().splitlines())
