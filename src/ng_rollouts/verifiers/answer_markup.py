"""The markup around a short answer: LaTeX, Markdown, quotes, brackets and punctuation, and comparison without it."""

from __future__ import annotations

import re
import unicodedata

_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|underline|mbox|emph)\s?\{((?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+)\}"
)
"""LaTeX commands that set only the font of their argument, which may have braces two levels deep."""

_COLOUR = re.compile(r"\\(?:text)?color\s?\{[^{}]{0,40}\}")
"""LaTeX commands that set the colour of what follows."""

MAX_DEPTH = 10
"""Nested font commands that are removed."""

INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
"""Zero-width characters, which some models emit."""

_TAGS = re.compile(r"</?(?:b|i|u|em|strong|code|mark)>", re.IGNORECASE)

_FENCE_LINE = re.compile(r"(?P<fence>`{3,}+|~{3,}+)[^\n`]*+\n")
"""The first line of a fenced block."""

_OUTER = "*` \t\r\n"

_LEADING_MARK = re.compile(r"^#{1,6}\s+")

_DELIMITERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ("*", "*"),
    ("_", "_"),
)
"""Markdown and LaTeX delimiters that may surround a whole answer."""

_PAIRS = (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))

_ASCII = {ord("’"): "'", ord("−"): "-"}
"""Characters that are typed in two ways."""

_TRAILING = ".,;:!?。，；：！？"

FULL_STOP = re.compile(r"(?<![.\s])[.。]$")

_CURRENCY = re.compile(r"\\?[$€£¥]\s?(?P<number>\d[\d.,]*)$")


def unwrap(text: str) -> str:
    """Replace font commands by their arguments, innermost first, and drop colours."""
    if "color" in text:
        text = re.sub(r"^\{(.*)\}$", r"\1", _COLOUR.sub("", text).strip(), flags=re.DOTALL)
    for _ in range(MAX_DEPTH):
        inner = _WRAPPERS.sub(r"\1", text)
        if inner == text:
            break
        text = inner
    return text.strip()


def without_fence(text: str) -> str:
    """The content of a text that is one fenced block; every other text as it is."""
    stripped = text.strip()
    first = _FENCE_LINE.match(stripped)
    if first is None or not stripped.endswith(first["fence"]) or len(stripped) < first.end() + len(first["fence"]):
        return text
    inner = stripped[first.end() : -len(first["fence"])]
    return text if first["fence"] in inner else inner.rstrip()


def strip_markup(text: str) -> str:
    """An answer without the Markdown and LaTeX delimiters around it."""
    text = without_fence(text.translate(INVISIBLE))
    text = unwrap(_TAGS.sub("", text) or text)  # `<B>` alone is a letter
    for _ in range(MAX_DEPTH):
        inner = _strip_once(text)
        if inner == text:
            break
        text = inner
    return text


def normalise_answer(text: str, *, case_sensitive: bool) -> str:
    """Normalise an answer for comparison: no markup around it, single spaces, case folded if it is ignored."""
    text = unicodedata.normalize("NFC", text).strip().translate(_ASCII)
    text = " ".join((strip_markup(text) or text).split())
    return text if case_sensitive else text.casefold()


def is_same_answer(answer: str, expected: str, *, case_sensitive: bool) -> bool:
    """Whether an answer is the expected one, apart from markup, quotes, brackets and punctuation around it.

    Only the answer is stripped of punctuation, step by step: what the expected answer has as well has to be there. A
    full stop or quotes at the ends of the expected answer may be missing in the answer.
    """
    wanted = {normalise_answer(expected, case_sensitive=case_sensitive)}
    if (bare := strip_quotes(FULL_STOP.sub("", expected.strip()))) != expected:
        wanted.add(normalise_answer(bare, case_sensitive=case_sensitive))
    wanted.discard("")
    text = normalise_answer(answer, case_sensitive=case_sensitive)
    for _ in range(2 * MAX_DEPTH):
        if text in wanted:
            return True
        shorter = peel(text)
        if shorter == text:
            return False
        text = shorter
    return False


def bare_answer(text: str) -> str:
    """The normal form of a short answer: case folded, without markup, quotes, brackets and punctuation around it."""
    text = normalise_answer(text, case_sensitive=False)
    for _ in range(2 * MAX_DEPTH):
        shorter = peel(text)
        if shorter == text or not shorter:
            break
        text = shorter
    return text


def strip_quotes(text: str) -> str:
    """An answer without the markup and the quotes around it."""
    text = strip_markup(text)
    for opening, closing in _PAIRS[:5]:
        if len(text) > 2 and text.startswith(opening) and text.endswith(closing):
            return strip_markup(text[1:-1])
    return text


def peel(text: str) -> str:
    """Remove one trailing punctuation mark, one pair of quotes or brackets, or a currency sign before a number."""
    if match := _CURRENCY.match(text):
        return match["number"]
    if len(text) > 1 and (text[-1] in _TRAILING or unicodedata.category(text[-1]) == "So"):  # an emoji, a flag
        return strip_markup(text[:-1].rstrip())
    for opening, closing in _PAIRS:
        if len(text) > 2 and text.startswith(opening) and text.endswith(closing):
            return strip_markup(text[1:-1].strip())
    return text


def _strip_once(text: str) -> str:
    """Remove one layer of markup."""
    for opening, closing in _DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            if closing not in inner or opening != closing:
                return inner.strip()
    # a delimiter whose partner was cut off with the label, or which stands before the full stop: `18**`, `$B$.`
    if text[-1:] in _TRAILING and text[:-1].endswith(("$", r"\)", r"\]", "**", "__", "`", "*")):
        return text[:-1]
    if text[-1:] in _TRAILING and text.startswith("_") and text[:-1].endswith("_"):
        return text[:-1]
    return unwrap(_LEADING_MARK.sub("", text).strip(_OUTER))
