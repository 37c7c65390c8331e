"""The reason for which a model server refused a request, as far as it decides what is sent next."""

from __future__ import annotations

import re

from ng_rollouts.errors import AttemptFailed

LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
"""The two names that servers use for the limit of output tokens; a server may accept only one of them."""

_REFUSES_NAME = re.compile(
    r"un(?:supported|recogni[sz]ed|known|expected)|not (?:supported|permitted|allowed|recogni[sz]ed)|forbidden"
    r"|deprecated|\buse\b|instead",
    re.IGNORECASE,
)
_REFUSES_VALUE = re.compile(
    r"too (?:large|big|high|long|many|small)|at (?:most|least)|exceed|(?:less|greater|more) than|maximum|minimum|range",
    re.IGNORECASE,
)
"""Words about the value of the limit. vLLM's message about it has both names."""

_CONTEXT_OVERFLOW = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|too many (?:input )?tokens|prompt is too long|input is too long"
    r"|exceeds? the (?:model's )?(?:maximum|max|limit)|max_model_len|longer than the (?:maximum|model)",
    re.IGNORECASE,
)
"""Words by which servers say it: OpenAI's code `context_length_exceeded`, and messages of vLLM, SGLang, llama.cpp."""


def refuses_field(failure: AttemptFailed, sent: str) -> bool:
    """Whether a server does not know a field that was sent. A refusal of the field's value is another failure."""
    if failure.status not in (400, 422) or not re.search(rf"\b{sent}\b", failure.message):
        return False
    return bool(_REFUSES_NAME.search(failure.message)) and not _REFUSES_VALUE.search(failure.message)


def is_context_overflow(failure: AttemptFailed) -> bool:
    """Whether a request was refused because it is too long for the model."""
    return failure.status in (400, 413, 422) and _CONTEXT_OVERFLOW.search(failure.message) is not None
