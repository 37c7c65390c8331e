"""Find the chosen letter in the answer to a multiple-choice question."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from ng_rollouts.verifiers.answer_extraction import (
    ALTERNATIVE,
    DECORATION,
    LINE_MARK,
    Statement,
    last_boxes,
    last_statement,
)
from ng_rollouts.verifiers.answer_markup import (
    INVISIBLE,
    MAX_DEPTH,
    is_same_answer,
    peel,
    strip_markup,
)

_LETTER_FIRST = re.compile(
    r"(?:(?:option|choice|answer|letter)s?\s*)?(?P<opening>[(\[{]?)\s?(?P<letter>[A-Za-z])(?:\s?(?P<closing>[)\]}]))?(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)
"""A text that begins with a letter, in brackets or not: `option (C) because`."""

_WHOLE_OPTION = re.compile(
    r"""(?:option\s)?[(\[]?(?P<letter>[A-Za-z])(?:\s?[)\].:]+\s*|\s[-–—]\s|,\s|\s(?=\())(?P<text>.*)$
    |(?P<said>.*)\s[(\[](?P<behind>[A-Z])[)\]]$""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
"""An option with its letter: `B) 12 litres`, `B - 12 litres`, `12 litres (B)`."""

_CHOICE_WORD = re.compile(
    r"^(?:(?:so|thus|hence|therefore)[\s,:]{1,3})?(?:(?:final\s)?(?:answer|option|choice|choose|pick|select)\s+(?:[-–—→]>?\s*)?)?",
    re.IGNORECASE,
)

_SECOND_LETTER = re.compile(
    r"""(?:[,;/&]|\band\b|\bor\b|\bas\swell\sas\b)\s*(?:(?:maybe|perhaps|possibly|also|else|even|option|or|and)\s)*
    (?:[(\[][A-Za-z][)\]]|[A-Za-z](?:\s?[).:\]]|\s?[-–—]\s|\s\(|\s*(?:$|[.,;)])))
    |^\s?[-–—]\s?[A-Z]\s*$""",
    re.VERBOSE,
)
"""Another letter behind the first one: `A or B`, `A) Paris, B) London`, `A-D`."""

_SECOND_OPTION = re.compile(r"[;,]\s*[(\[]?[A-Z][.:]\s")
"""Another option in the rest of a line: `A. Paris; B. London`."""

_LAST_LETTER = re.compile(r"\b(?:statement|option|choice|letter|that)\s[(\[]?([A-Z])[)\]]?$")
"""A letter behind words: `I am confident that D`."""

_REASON = re.compile(r"\b(?:because|since|(?<!well\s)as)\b(?!\swell)", re.IGNORECASE)

_ANOTHER_OPTION = re.compile(r"\b[A-Z]\s?[.:)]\s")

_MAX_BARE = 100
"""Longer lines are not a letter alone."""


def answer_letter(text: str, options: Mapping[str, str] | None = None) -> str | None:
    """The chosen letter of a multiple-choice answer, in upper case; None if no letter can be read.

    Args:
        options: letters and texts of the options; A to J without texts if they are not known.
    """
    options = options or dict.fromkeys("ABCDEFGHIJ", "")
    lines = [line for line in text.splitlines() if not DECORATION.match(line)]
    if not lines:
        return None
    # A letter alone on the last line is a statement. Several such lines are a list of the options, not a choice.
    last, *before = (LINE_MARK.sub("", line) for line in reversed(lines[-2:]))
    is_list = _is_option(before, options)
    if not is_list and (letter := _bare_letter(_CHOICE_WORD.sub("", strip_markup(last)), options)):
        return letter
    statement = last_statement(text, is_choice=True)
    if statement is not None:
        return _stated_letter(statement, lines, options)
    if not is_list and (letter := _whole_option(last, options)):
        return letter
    if len(lines) == 1:
        return _letter_of(text, options, only_labelled=True) or _option_with_text(text, options)
    has_texts = any(options.values())
    alone = {
        letter
        for line in lines
        if (letter := _bare_letter(line, options) or _whole_option(line, options))
        or (not has_texts and (letter := _letter_of(line, options, only_labelled=True)))
    }
    return alone.pop() if len(alone) == 1 else _option_with_text(text, options)


def boxed_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter alone in the last box; None if the box holds more than a letter."""
    boxes, _, _ = last_boxes(text.translate(INVISIBLE))
    return _bare_letter(boxes[0], options) if boxes and len(boxes) == 1 else None


def _stated_letter(statement: Statement, lines: list[str], options: Mapping[str, str]) -> str | None:
    """The letter of a statement, by its letter or by its option's text; None if it begins a list of options."""
    stated = ALTERNATIVE.split(statement.text)[0]
    plain = [strip_markup(line) for line in lines]
    following = lines[plain.index(statement.line) + 1 :][:1] if statement.line in plain else []
    if _is_option(following, options) and _is_option([statement.line], options):
        return None
    if _SECOND_OPTION.search(_REASON.split(statement.line[len(statement.text) :][:_MAX_BARE])[0]):
        return None
    if match := _LAST_LETTER.search(stated):
        stated = match[1]
    return _letter_of(stated, options) or _whole_option(stated, options) or _option_with_text(stated, options)


def _letter_of(text: str, options: Mapping[str, str], *, only_labelled: bool = False) -> str | None:
    """The letter that a statement names.

    Args:
        only_labelled: whether the letter has to be followed by a bracket, full stop or colon and the option's text.
    """
    text = strip_markup(text).replace("*", "")
    if letter := _bare_letter(text, options):
        return None if only_labelled else letter
    match = _LETTER_FIRST.match(text)
    if match is None:
        return None
    opening, letter, closing, rest = match["opening"], match["letter"], match["closing"], match["rest"].strip("*_`")
    if letter.upper() not in options or _SECOND_LETTER.search(_REASON.split(rest[:_MAX_BARE])[0]):
        return None  # two letters are not a choice
    if only_labelled and _ANOTHER_OPTION.search(rest):
        return None  # a list of the options
    if closing or re.match(r"[.:)](?:\s|$)|,?\s(?:because|since)\b|\s\((?![^)]*\b[A-Z]\b)", rest):
        return letter.upper() if letter.isupper() or opening or closing else None
    if only_labelled or not letter.isupper():
        return None
    # "I cannot say" and "A bicycle" begin with a word, not with a choice
    is_word = letter in "AI" and not re.match(r"\s*(?:$|[,;–—-]|\(|(?:because|since|as|which|for)\b)", rest)
    return letter if not is_word and re.match(r"$|\s|[,;!–—-]", rest) else None


def _bare_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of a text that is one letter, in any markup or brackets."""
    text = strip_markup(unicodedata.normalize("NFKC", text) if len(text) <= _MAX_BARE else text)
    for _ in range(MAX_DEPTH):
        if len(text) <= 1:
            break
        shorter = peel(text)
        if shorter == text:
            break
        text = shorter
    return text.upper() if len(text) == 1 and text.upper() in options else None


def _whole_option(line: str, options: Mapping[str, str]) -> str | None:
    """The letter of a line that is an option: its letter, a bracket, full stop or colon, and its text."""
    match = _WHOLE_OPTION.match(strip_markup(line))
    if match is None or not (text := options.get(letter := (match["letter"] or match["behind"]).upper())):
        return None
    return letter if is_same_answer(match["text"] or match["said"] or "", text, case_sensitive=False) else None


def _is_option(lines: list[str], options: Mapping[str, str]) -> bool:
    """Whether lines have the letter of an option, alone or with a bracket, full stop or colon, and more text."""
    return any(_bare_letter(line, options) or _letter_of(line, options, only_labelled=True) for line in lines)


def _option_with_text(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option whose text is the answer."""
    letters = [
        letter for letter, option in options.items() if option and is_same_answer(text, option, case_sensitive=False)
    ]
    return letters[0] if len(letters) == 1 else None
