"""What scores an answer: a task's row and the model's response in, `reward` and the fields beside it out."""

from __future__ import annotations

from typing import ClassVar, Protocol

from ng_rollouts.types import Json


class Verifier(Protocol):
    """Scores one answer at a time, many at once.

    Attributes:
        scores: whether it gives a reward at all.
    """

    scores: ClassVar[bool]

    def check(self, row: Json) -> None:
        """Look at a task before anything is sent.

        Raises:
            InputError: the row lacks what an answer is held against.
        """
        ...

    async def verify(self, row: Json, response: Json) -> Json:
        """`reward`, `accuracy`, `extracted_answer`, and whatever else there is to tell.

        Raises:
            AttemptFailed: there is no telling; that is a failure, never a zero.
        """
        ...
