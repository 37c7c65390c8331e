"""Where exported rows go: shuffled and split without holding them, then put in place whole."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ng_rollouts.errors import OutputError
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

_DIGEST_BYTES = 8


@dataclass(slots=True)
class RowWriter:
    """Rows in a file of their own, known by offset and by what is asked: no prompt is in both parts of a split."""

    file: BinaryIO
    offsets: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    _end: int = 0

    def add(self, row: Json, prompt: list[Json]) -> None:
        """Take a row in."""
        line = dumps(row) + b"\n"
        self.file.write(line)
        self.offsets.append(self._end)
        digest = hashlib.blake2b(dumps(prompt), digest_size=_DIGEST_BYTES).digest()
        self.prompts.append(int.from_bytes(digest, signed=True))
        self._end += len(line)

    def parts(self, validation_fraction: float, *, shuffle: bool, seed: int) -> tuple[array[int], array[int]]:
        """The places of the rows to train on and of those to validate with, in the order to write them."""
        rng = random.Random(seed)  # noqa: S311 - an order, not a secret
        order = array("q", range(len(self.offsets)))
        if shuffle:
            rng.shuffle(order)
        distinct = list(dict.fromkeys(self.prompts))
        wanted = max(1, round(validation_fraction * len(distinct))) if validation_fraction and len(distinct) > 1 else 0
        held_out = set(rng.sample(distinct, wanted))
        train = array("q", (place for place in order if self.prompts[place] not in held_out))
        return train, array("q", (place for place in order if self.prompts[place] in held_out))

    def write(self, places: array[int], target: Path) -> None:
        """Write the rows at these places, in this order."""
        with target.open("wb") as output:
            for place in places:
                self.file.seek(self.offsets[place])
                output.write(self.file.readline())


@contextmanager
def writable(target: Path) -> Iterator[None]:
    """Tell what keeps a file from being written.

    Raises:
        OutputError: it cannot be.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
