"""The answer in a model's words: what it put into a box, after "final answer", or said at all."""

from __future__ import annotations

import re
from typing import Any

from ng_rollouts.types import Json

_BOX = re.compile(r"\\boxed\s?\{")
_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_MOST_WRAPPERS = 10
_FINAL = re.compile(
    r"(?:final answer(?: is)?|^\W*answer ?(?=[:=])|\b(?:the|my) (?:correct )?answer is)[ *_]*[:=]?(.*)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"\. (?=[A-Z])")
_LETTER = re.compile(r"\(? ?([A-Z]) ?\)?[.:]?", re.IGNORECASE)
_SAID_LETTER = re.compile(r"(?i:answer)(?:(?: is)? ?[:=]| is) ?[*_]*\(?([A-Z])\)?(?![A-Za-z])")
_MARKUP = "*_`$ \t\n."


def output_text(response: Json) -> str:
    """The text of the response's last assistant message, without what came before a closing `</think>`."""
    text = ""
    for item in response.get("output") or ():
        if isinstance(item, dict) and item.get("type", "message") == "message" and item.get("role") != "user":
            text = _text(item.get("content"))
    return text.rpartition("</think>")[2]


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` that is closed, braces balanced; None if there is none."""
    for match in reversed(list(_BOX.finditer(text))[-_MOST_WRAPPERS:]):
        depth = 0
        for place in range(match.end(), len(text)):
            if text[place] == "{":
                depth += 1
            elif text[place] == "}":
                if depth == 0:
                    return _unwrapped(text[match.end() : place])
                depth -= 1
    return None


def stated(text: str) -> str | None:
    """What follows the last "final answer:" on its line, or on the next that says anything; None if nothing does."""
    found = None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "answer" in line.lower() and (match := _FINAL.search(" ".join(line.split()))):
            rest = (_SENTENCE_END.split(match[1])[0], *lines[number + 1 :])
            found = next(filter(None, (said.strip(_MARKUP) for said in rest)), found)
    return found


def final_answer(text: str) -> str:
    """The answer as it is meant: what is boxed, else what is stated, else everything."""
    found = boxed(text)
    return found if found is not None else stated(text) or text.strip()


def letter(text: str) -> str | None:
    r"""The choice in the last `\boxed{}`, if that is a single letter; without a box, the one stated, or said alone."""
    found = boxed(text)
    if found is not None:
        match = _LETTER.fullmatch(found.strip())
        return match[1].upper() if match else None
    if said := _SAID_LETTER.findall(" ".join(text.split())):
        return str(said[-1]).upper()
    match = _LETTER.fullmatch(text.strip(_MARKUP))
    return match[1].upper() if match else None


def normalised(text: str, *, case_sensitive: bool) -> str:
    """For comparing: no markup around it, single spaces, case folded unless it matters."""
    text = " ".join(_unwrapped(text).strip(_MARKUP.replace(".", "")).rstrip(_MARKUP).split())
    return text if case_sensitive else text.casefold()


def _unwrapped(text: str) -> str:
    for _ in range(_MOST_WRAPPERS):
        inner = _WRAPPERS.sub(r"\1", text)
        if inner == text:
            break
        text = inner
    return text.strip()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part.get("text") or "" for part in parts if isinstance(part, dict))
