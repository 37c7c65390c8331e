"""The fields by which a client asks a model server for token ids, and the check whether replies have them.

No API of OpenAI has token ids. Output items have them under the names that NeMo Gym's model servers use.
Source: the requests and replies of `/v1/chat/completions` of vLLM and SGLang; NeMo Gym's model servers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, FailureClass
from ng_rollouts.models.refusals import is_context_overflow
from ng_rollouts.types import Json

PROMPT_IDS, IDS, LOG_PROBS = "prompt_token_ids", "generation_token_ids", "generation_log_probs"
TOKEN_FIELDS = (PROMPT_IDS, IDS, LOG_PROBS)
"""The fields of an output item: ids of the prompt and of the generated tokens, and one log probability for each."""

_FIELDS = ("logprobs", "return_token_ids", "return_prompt_token_ids", "return_meta_info")
"""Fields of a request, each sent as true. vLLM and new versions of SGLang know `return_token_ids`, older ones of SGLang
the two after it. Each ignores what it does not know, so that one request suits all of them."""

_NEEDED_FOR_IDS = frozenset({"return_token_ids", "return_meta_info"})
"""Fields without which no reply has ids of generated tokens."""

_VERSIONS = (
    "vLLM sends them since 0.10.2 (return_token_ids), SGLang since 0.5.13 (return_prompt_token_ids, return_meta_info)"
)


class TokenIds:
    """The fields that a client asks its model server for, and the check whether the replies have them.

    Attributes:
        fields: names of the request fields that are still sent, each with the value true.

    Args:
        mode: `never`, `auto` or `required`.
        server: the server's addresses, for messages.
    """

    def __init__(self, mode: str, server: str) -> None:
        self.fields: tuple[str, ...] = () if mode == "never" else _FIELDS
        self._mode = mode
        self._server = server
        self._refused: list[str] = []
        self._has_ids = False
        self._has_warned = False

    def may_be_refused(self, failure: AttemptFailed) -> bool:
        """True if a server may have refused a request because of the fields, without naming one."""
        return bool(self.fields) and failure.status in (400, 422) and not is_context_overflow(failure)

    def drop(self, refused: Iterable[str]) -> None:
        """Stop sending these fields, and all of them if the rest gives no ids."""
        self._refused += [name for name in self.fields if name in refused]
        kept = tuple(name for name in self.fields if name not in refused)
        is_end = bool(self.fields) and not _NEEDED_FOR_IDS.intersection(kept)
        self.fields = kept if _NEEDED_FOR_IDS.intersection(kept) else ()
        # The outcome is said also if a warning was about some of the fields.
        self._has_warned = self._has_warned and not is_end
        if self._refused:
            result = "it is asked for token ids without them" if self.fields else "it is not asked for token ids"
            self._warn(f"does not accept {', '.join(self._refused)}: {result}")

    def check(self, response: Json) -> None:
        """Check that a response has token ids and log probabilities, if they were asked for.

        Raises:
            AttemptFailed: `no_token_ids`, if they are required.
        """
        if self._mode == "never":
            return
        missing = [name for name in TOKEN_FIELDS if not _has(response, name)]
        self._has_ids |= IDS not in missing
        if missing:
            self._report(missing)

    def _report(self, missing: list[str]) -> None:
        refusal = f"does not accept {', '.join(self._refused)} and " if self._refused else ""
        problem = f"{refusal}sends no {', '.join(missing)}: {_VERSIONS}"
        if self._mode == "required":
            message = f"token_ids=required, but the model server at {self._server} {problem}"
            raise AttemptFailed(FailureClass.NO_TOKEN_IDS, message)
        if self.fields:
            self._warn(problem)
        if not self._has_ids:
            self.fields = ()  # log probabilities alone would only make the replies larger

    def _warn(self, problem: str) -> None:
        if not self._has_warned and self._mode == "auto":
            log(f"warning: the model server at {self._server} {problem}")
            self._has_warned = True


def token_fields(choice: Json, completion: Json) -> Json:
    """The fields for training that a choice of a completion has; log probabilities only if each has its id.

    A choice without ids may have log probabilities.
    """
    meta, message = _object(choice.get("meta_info")), _object(choice.get("message"))
    tokens = _object(choice.get("logprobs")).get("content") or []
    triples = meta.get("output_token_logprobs")  # SGLang's: log probability, id, text
    holders = (choice, completion, meta, message)
    ids = _first_ids(
        *(choice.get("token_ids"), message.get(IDS), _column(triples, 1), _ids_from_tokens(tokens)),
        *(holder.get("output_ids") for holder in holders),
    )
    log_probs = ([token.get("logprob") for token in tokens], _column(triples, 0), message.get(LOG_PROBS))
    fields = {
        PROMPT_IDS: _first_ids(*(holder.get(PROMPT_IDS) for holder in holders)),
        IDS: ids,
        LOG_PROBS: _aligned(ids, [each for each in log_probs if isinstance(each, list) and each]),
    }
    return {name: values for name, values in fields.items() if values is not None}


def weight_version(choice: Json, completion: Json) -> Json:
    """`weight_version`, by which SGLang says which weights answered; empty if it does not."""
    holders = (_object(choice.get("meta_info")), _object(completion.get("metadata")))
    version = next((holder["weight_version"] for holder in holders if "weight_version" in holder), None)
    return {} if version is None else {"weight_version": version}


def _has(response: Json, name: str) -> bool:
    return any(isinstance(item, dict) and name in item for item in response["output"])


def _object(value: Any) -> Json:
    """A value that should be an object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _first_ids(*candidates: Any) -> list[int] | None:
    """The first candidate that is a list of integers and not empty."""
    lists = (each for each in candidates if isinstance(each, list) and each)
    return next((each for each in lists if set(map(type, each)) == {int}), None)


def _column(rows: Any, place: int) -> list[Any]:
    """The values at one place of each row; empty if some row has no such place."""
    rows = rows if isinstance(rows, list) else []
    has_all = all(isinstance(row, list) and len(row) > place for row in rows)
    return [row[place] for row in rows] if has_all else []


def _ids_from_tokens(tokens: list[Json]) -> list[int] | None:
    """The ids in tokens like `token_id:22`, from vLLM's `return_tokens_as_token_ids`; None for other tokens."""
    texts = [str(token.get("token")) for token in tokens]
    if not texts or not all(text.startswith("token_id:") for text in texts):
        return None
    return [int(text.removeprefix("token_id:")) for text in texts]


def _aligned(ids: list[int] | None, candidates: list[list[Any]]) -> list[float] | None:
    """The first candidate with one number for each id; without ids, the first one of numbers."""
    for each in candidates:
        if (ids is None or len(each) == len(ids)) and set(map(type, each)) <= {int, float}:
            return each
    if candidates:
        _warn_of_misaligned()
    return None


@cache
def _warn_of_misaligned() -> None:
    log("warning: log probabilities are left out: the model server does not send one number for each token id")
