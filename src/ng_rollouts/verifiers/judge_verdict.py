"""Read what a judge says: a verdict on one answer, a preference between two, or the scores of several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ng_rollouts.types import Json
from ng_rollouts.verifiers.answer_markup import INVISIBLE, strip_markup
from ng_rollouts.verifiers.json_answers import json_in

_VERDICT = re.compile(
    r"(?:^|[^\w])verdict[\s*_`#>]{0,10}(?:\((?:in)?correct\s?/\s?(?:in)?correct\)[\s*_`]{0,10})?(?:[:=]|\s[-–—]\s|(?P<is>\bis\b(?!:))|\bis:|[-–—]>?)(?P<rest>[^\n]{0,300})",
    re.IGNORECASE,
)
"""A verdict label with a colon, an equals sign, a dash or "is". The word within a sentence is not a verdict."""

_VERDICT_HEADING = re.compile(
    r"^[ \t*_`#>]{0,10}(?:final\s)?verdict[ \t*_`#]{0,10}:?[ \t*_`#]{0,10}\n\s{0,10}(?P<rest>[^\n]{1,300})",
    re.IGNORECASE | re.MULTILINE,
)

_VERDICT_WORD = re.compile(
    r"(?P<not>not\s+)?(?P<prefix>in(?=correct))?(?P<word>correct|right|true|wrong|false|yes|no\b|-?\d*\.?\d+)(?P<end>.{0,40})",
    re.IGNORECASE,
)

_REMARK = re.compile(
    r"\s*(?:clear|final|based|justified|explained|given|above|below|supported|consistent|due|therefore|thus)\b",
    re.IGNORECASE,
)
"""What a sentence may say about a verdict. Anything else behind "verdict is" is a verdict, readable or not."""

_CONDITION = re.compile(
    r"""\b(?:if|only|except|unless|but|however|would|not|wrong|incorrect|false|instead|wait|apart|although|though
    |provided|partial(?:ly)?|mostly|partly|part|half|minor|errors?|mistakes?|off|missing|incomplete|yet|lacks?|unclear|up\sto)\b
    |(?:[-–—:…]|\.\.)\s*no\b|[?→~%]|->|:\s*0|=\s*(?:0|no|false|incorrect)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""What may follow "correct" and takes it back, in part or in whole."""

_REASON = re.compile(r"\b(?:because|since|as)\b", re.IGNORECASE)
"""The beginning of a reason, which may have any words."""

_NO_SCORE = re.compile(r"\s?[/%=]|\.\d|\s+(?!(?:because|since|as|for)\b)\w", re.IGNORECASE)
"""What may follow a number that is not a score: `8/10`, `85%`, `2 errors found`."""

_MORE_WORDS = re.compile(r"\s+(?!(?:because|since|as|and|with|given|per)\b)\w|:\s*\w")
"""A phrase that only begins with "correct": `Correct answer is 12`, `CORRECT method`."""

_TAKEN_BACK = re.compile(r"(?<!not\s)(?<!nothing\s)\b(?:incorrect|wrong)\b", re.IGNORECASE)

_STRUCK = re.compile(r"~~[^~]{0,100}~~|\*\*(?=not\*\*)|(?<=\*\*not)\*\*", re.IGNORECASE)
"""Struck-out text, and the emphasis of "not"."""

_SUBJECT = re.compile(r"(?:the|this|that|its?)\s(?:answer|response|solution|result)?\s?is\s", re.IGNORECASE)
"""The subject of a sentence that is a verdict: `The answer is correct.`"""

_TAG = re.compile(r"<(/?)verdict>", re.IGNORECASE)

_RECONSIDERED = re.compile(r"\bwait\b|→|->|\bbut\s(?:it\sis\s)?(?:correct|right)\b", re.IGNORECASE)

_PREFERENCE = re.compile(
    r"""[^\w]*(?:(?:the\s)?(?:answer|response|option)\s)?
    (?:(?P<tie>(?:it\s?is\s|it's\s)?(?:an?\s)?(?:tie|draw)|(?:both\s(?:are\s)?)?equal(?:ly\sgood)?)|(?P<which>[AB]))
    ["'”’)\]}*_`]*
    (?:[,;.:]?\s[-–—]?\s?(?:because|since|as)\b[^\n]*
    |\s(?:is\s(?:the\s)?(?:better|preferred)(?:\s(?:one|answer|response))?|wins))?[.!]?""",
    re.IGNORECASE | re.VERBOSE,
)
"""A verdict on two answers. Other words behind it make it unreadable: `A or B`, `A, but B is shorter`."""

_RETHOUGHT = re.compile(r"\b(?:wait|actually|on second thought|correction|i take that back)\b", re.IGNORECASE)

_JSON_NAMES = ("verdict", "correct", "is_correct", "score", "reward")
"""Fields of a JSON object that are its verdict, the first one that it has."""

_CROSSES = ("✗", "✘", "❌", "✖")

_WORD_SCORES = {"correct": 1.0, "right": 1.0, "yes": 1.0, "true": 1.0, "wrong": 0.0, "no": 0.0, "false": 0.0}


def read_verdict(text: str) -> float | None:
    """The score of the last verdict in a judge's text; None if the last one cannot be read.

    A verdict is a JSON object with `verdict`, `correct`, `score` or `reward`, or a label `VERDICT:` in any markup.
    """
    value = _json_value(text)
    if value is not None:
        return score_of(value)
    verdict, rest = _last_label(text)
    score = None if verdict is None else score_of(verdict)
    # Text behind the verdict may take it back: `VERDICT: CORRECT. Wait, the sign is wrong.`
    return None if score == 1.0 and _TAKEN_BACK.search(_STRUCK.sub("", rest)) else score


def read_preference(text: str) -> float | None:
    """The last verdict on two answers in a judge's text: 1 for A, 0 for B, 0.5 for a tie; None if it cannot be read."""
    value = _json_value(text)
    verdict, rest = _last_label(text) if value is None else (str(value), "")
    match = None if verdict is None or _RETHOUGHT.search(rest) else _PREFERENCE.fullmatch(strip_markup(verdict).strip())
    if match is None:
        return None
    return 0.5 if match["tie"] else float(match["which"].upper() == "A")


def read_scores(text: str, labels: Sequence[str]) -> dict[str, tuple[float, str]] | None:
    """The scores in [0, 1] that a judge gives labelled answers, each with its explanation; None if they are unreadable.

    They are a JSON object with `scores`, a list of objects with `id`, `score` and `explanation`, or with `ranking`,
    the labels from the best to the worst. Each label must occur exactly once.
    """
    value = json_with(text, ("scores", "ranking")) or {}
    entries = value.get("scores")
    if entries is None and isinstance(value.get("ranking"), list):
        last = max(len(labels) - 1, 1)
        entries = [{"id": label, "score": 1 - place / last} for place, label in enumerate(value["ranking"])]
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        return None
    scores = {str(each.get("id")).strip(): each.get("score") for each in entries}
    if len(entries) != len(labels) or scores.keys() != set(labels) or not all(map(_is_share, scores.values())):
        return None
    return {str(each["id"]).strip(): (float(each["score"]), str(each.get("explanation") or "")) for each in entries}


def _is_share(score: Any) -> bool:
    return isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1


def _last_label(text: str) -> tuple[str | None, str]:
    """The text behind the last verdict label in its line, and all text behind it; None and no text without one."""
    text = _TAG.sub(lambda tag: "\n" if tag[1] else "\nVERDICT: ", text.translate(INVISIBLE).replace("：", ":"))
    verdicts = {match.start("rest"): match["rest"] for match in _VERDICT.finditer(text) if not _is_remark(match)}
    verdicts |= {match.start("rest"): match["rest"] for match in _VERDICT_HEADING.finditer(text)}
    return (verdicts[max(verdicts)], text[max(verdicts) :]) if verdicts else (None, "")


def _is_remark(match: re.Match[str]) -> bool:
    """Whether a sentence with "verdict is" says something about a verdict: `The verdict is final.`"""
    line = match.string[match.string.rfind("\n", 0, match.start("rest")) + 1 : match.start("rest")]
    if match[0][:1] in "\"'“‘`«":
        return True  # a quotation, perhaps of the answer that is graded
    if match["is"] and re.search(r"\b(?:if|whether|when|unless)\b", line, re.IGNORECASE):
        return True
    return bool(match["is"] and _REMARK.match(match["rest"]) and score_of(match["rest"]) is None)


def _json_value(text: str) -> Any:
    """The verdict of a JSON object, empty if it is null; None without one, or if a label follows it."""
    value = None if _VERDICT.search(text, text.rfind("}") + 1) else json_with(text, _JSON_NAMES)
    if value is None:
        return None
    verdict = next(value[name] for name in _JSON_NAMES if name in value)
    return "" if verdict is None else verdict


def json_with(text: str, names: Sequence[str]) -> Json | None:
    """The JSON object with one of these fields: the whole text, in a fenced block, or its end; None without one."""
    for start in dict.fromkeys((0, text.rfind("\n{") + 1, text.find("\n{") + 1)):
        with suppress(ValueError):
            value = json_in(text[start:])
            if isinstance(value, dict) and not value.keys().isdisjoint(names):
                return value
    return None


def score_of(verdict: Any) -> float | None:
    """The score of a verdict: a bool, a number, or a text that begins with a word or number."""
    if isinstance(verdict, (bool, int, float)):
        return float(verdict)
    plain = _STRUCK.sub("", str(verdict)).strip()
    if plain.startswith(_CROSSES):
        return 0.0 if re.search(r"incorrect|wrong|false", plain, re.IGNORECASE) else None
    text = re.sub(r"^(?:(?![-.]?\d|-\.)\W)+|^\\(?:boxed|text|mathbf)\{", "", strip_markup(plain))
    text = _SUBJECT.sub("", text, count=1) if _SUBJECT.match(text) else text
    match = _VERDICT_WORD.match(re.sub(r"^(?:boxed|text|mathbf)\{", "", text))
    if match is None:
        return None
    word, end = match["word"].lower(), match["end"].lstrip("*_`\"'”)]}$")
    is_one_of_two = re.match(
        r"\w|\s*(?:or\b|/|\||,)\s*(?:in)?(?:correct|wrong|no|false|right|true|yes)\b", end, re.IGNORECASE
    )
    if is_one_of_two or (word[-1].isdigit() and _NO_SCORE.match(end)):
        return None  # `CORRECT/INCORRECT`, `correctly`, `10/10`, `2 errors`
    if word in ("yes", "no") and re.match(r"\s+(?!(?:because|since|as|for)\b)\w", end):
        return None  # `no idea`
    score = _WORD_SCORES.get(word)
    if score is None:
        return None if match["not"] else float(word)
    is_plain = score == 1.0 and not match["not"] and not match["prefix"]
    if is_plain and (_CONDITION.search(_REASON.split(end)[0]) or _MORE_WORDS.match(end)):
        return None  # `CORRECT except for the sign`, `Correct answer: 12`
    is_negated = bool(match["not"]) != bool(match["prefix"])  # `not incorrect` is correct
    score = 1.0 - score if is_negated else score
    return None if score == 0.0 and _RECONSIDERED.search(end) else score  # `INCORRECT. Wait, no: CORRECT`
