"""Shuffle and split exported rows on disk, without holding them in memory."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

_DIGEST_BYTES = 8
"""Bytes of a prompt's digest, so that it fits the array type `q`."""


@dataclass(slots=True)
class RowWriter:
    """Writes rows to a temporary file, then copies them to their outputs in another order.

    Attributes:
        file: the temporary file.
        offsets: the offset of each row in it, in bytes.
        prompts: a digest of each row's prompt, so that a split puts no prompt into both parts.
    """

    file: BinaryIO
    offsets: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    _end: int = 0

    def add(self, row: Json, prompt: list[Json]) -> None:
        """Append a row."""
        line = dumps(row) + b"\n"
        self.file.write(line)
        self.offsets.append(self._end)
        digest = hashlib.blake2b(dumps(prompt), digest_size=_DIGEST_BYTES).digest()
        self.prompts.append(int.from_bytes(digest, signed=True))
        self._end += len(line)

    def parts(self, validation_fraction: float, *, shuffle: bool, seed: int) -> tuple[array[int], array[int]]:
        """The row numbers of the training part and of the validation part, in the order to write them.

        Args:
            validation_fraction: the share of distinct prompts for the validation part. Above 0, it is at least one
                prompt, unless there is only one.
        """
        rng = random.Random(seed)  # noqa: S311 - decides an order, not a secret
        order = array("q", range(len(self.offsets)))
        if shuffle:
            rng.shuffle(order)
        distinct = list(dict.fromkeys(self.prompts))
        count = max(1, round(validation_fraction * len(distinct))) if validation_fraction and len(distinct) > 1 else 0
        held_out = set(rng.sample(distinct, count))
        train = array("q", (number for number in order if self.prompts[number] not in held_out))
        return train, array("q", (number for number in order if self.prompts[number] in held_out))

    def lines(self, numbers: array[int]) -> Iterator[bytes]:
        """The rows with these numbers, in this order."""
        for number in numbers:
            self.file.seek(self.offsets[number])
            yield self.file.readline()

    def write(self, numbers: array[int], target: Path) -> None:
        """Write the rows with these numbers, in this order."""
        with target.open("wb") as output:
            output.writelines(self.lines(numbers))
