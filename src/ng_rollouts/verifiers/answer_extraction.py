r"""Extract the answer from a model's text: from `\boxed{}`, after "final answer", or the whole text.

Model output can be long and degenerate, and extraction runs in the event loop. The patterns and loops are therefore
bounded.
"""

from __future__ import annotations

import re
from typing import Any

from ng_rollouts.types import Json

_BOX = re.compile(r"\\boxed\s?\{")

_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
"""LaTeX commands that set only the font of their argument."""

_MAX_DEPTH = 10
"""Upper bound of the nested font commands that are removed, and of the boxes that are tried."""

_FINAL = re.compile(
    r"(?:final answer(?: is)?|^\W*answer ?(?=[:=])|\b(?:the|my) (?:correct )?answer is)[ *_]*[:=]?(.*)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"\. (?=[A-Z])")
"""The end of a sentence, not the decimal point of `4.2`."""

_LETTER = re.compile(r"\(? ?([A-Z]) ?\)?[.:]?", re.IGNORECASE)
"""A text that is one letter: `C`, `(c)`, `B.`"""

_STATED_LETTER = re.compile(r"(?i:answer)(?:(?: is)? ?[:=]| is) ?[*_]*\(?([A-Z])\)?(?![A-Za-z])")
"""A letter after "answer". Only upper case: "the answer is a bit unclear" states no letter."""

_MARKUP = "*_`$ \t\n."
"""Characters that are removed from both ends of an answer: Markdown, LaTeX's `$`, white space, the full stop."""


def output_text(response: Json) -> str:
    """The text of a response's last assistant message, without the part up to the last `</think>`."""
    text = ""
    for item in response.get("output") or ():
        if isinstance(item, dict) and item.get("type", "message") == "message" and item.get("role") != "user":
            text = _content_text(item.get("content"))
    return text.rpartition("</think>")[2]


def boxed_answer(text: str) -> str | None:
    r"""The content of the last closed `\boxed{}`, with balanced braces; None if there is none."""
    # a box that is never closed is scanned to the end of the text, so only the last few boxes are tried
    for match in reversed(list(_BOX.finditer(text))[-_MAX_DEPTH:]):
        depth = 0
        for position in range(match.end(), len(text)):
            if text[position] == "{":
                depth += 1
            elif text[position] == "}":
                if depth == 0:
                    return _unwrap(text[match.end() : position])
                depth -= 1
    return None


def stated_answer(text: str) -> str | None:
    """The answer after the last "final answer:" or "the answer is", on the same line or the next non-empty one.

    None if the text states no answer.
    """
    answer = None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        # single spaces, so that the pattern needs no unbounded `\s*`, which backtracks over long white space
        if "answer" in line.lower() and (match := _FINAL.search(" ".join(line.split()))):
            candidates = (_SENTENCE_END.split(match[1])[0], *lines[number + 1 :])
            answer = next(filter(None, (candidate.strip(_MARKUP) for candidate in candidates)), answer)
    return answer


def final_answer(text: str) -> str:
    """The answer in a text: boxed, else stated, else the whole text."""
    boxed = boxed_answer(text)
    return boxed if boxed is not None else stated_answer(text) or text.strip()


def answer_letter(text: str) -> str | None:
    r"""The chosen letter of a multiple-choice answer, in upper case; None if no letter is chosen.

    If there is a `\boxed{}`, only its content counts. Otherwise it is the last letter that the text states as the
    answer, or the letter that is the whole text.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        match = _LETTER.fullmatch(boxed.strip())
        return match[1].upper() if match else None
    if stated := _STATED_LETTER.findall(" ".join(text.split())):
        return str(stated[-1]).upper()
    match = _LETTER.fullmatch(text.strip(_MARKUP))
    return match[1].upper() if match else None


def normalise_answer(text: str, *, case_sensitive: bool) -> str:
    """Normalise an answer for comparison: remove markup around it, collapse white space, fold case if it is ignored."""
    # a leading point stays, because `.5` is a number
    text = " ".join(_unwrap(text).strip(_MARKUP.replace(".", "")).rstrip(_MARKUP).split())
    return text if case_sensitive else text.casefold()


def _unwrap(text: str) -> str:
    """Replace font commands by their arguments, innermost first."""
    for _ in range(_MAX_DEPTH):
        inner = _WRAPPERS.sub(r"\1", text)
        if inner == text:
            break
        text = inner
    return text.strip()


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part.get("text") or "" for part in parts if isinstance(part, dict))
