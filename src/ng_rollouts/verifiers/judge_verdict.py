"""Read the verdict in a judge's text."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

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

_CROSSES = ("✗", "✘", "❌", "✖")

_WORD_SCORES = {"correct": 1.0, "right": 1.0, "yes": 1.0, "true": 1.0, "wrong": 0.0, "no": 0.0, "false": 0.0}


def read_verdict(text: str) -> float | None:
    """The score of the last verdict in a judge's text; None if the last one cannot be read.

    A verdict is a JSON object with `verdict`, `correct`, `score` or `reward`, or a label `VERDICT:` in any markup.
    """
    value = None if _VERDICT.search(text, text.rfind("}") + 1) else json_verdict(text)
    if value is not None:
        return score_of(value)
    text = _TAG.sub(lambda tag: "\n" if tag[1] else "\nVERDICT: ", text.translate(INVISIBLE).replace("：", ":"))
    verdicts = {match.start("rest"): match["rest"] for match in _VERDICT.finditer(text) if not _is_remark(match)}
    verdicts |= {match.start("rest"): match["rest"] for match in _VERDICT_HEADING.finditer(text)}
    if not verdicts:
        return None
    last = max(verdicts)
    score = score_of(verdicts[last])
    # Text behind the verdict may take it back: `VERDICT: CORRECT. Wait, the sign is wrong.`
    return None if score == 1.0 and _TAKEN_BACK.search(_STRUCK.sub("", text[last:])) else score


def _is_remark(match: re.Match[str]) -> bool:
    """Whether a sentence with "verdict is" says something about a verdict: `The verdict is final.`"""
    line = match.string[match.string.rfind("\n", 0, match.start("rest")) + 1 : match.start("rest")]
    if match[0][:1] in "\"'“‘`«":
        return True  # a quotation, perhaps of the answer that is graded
    if match["is"] and re.search(r"\b(?:if|whether|when|unless)\b", line, re.IGNORECASE):
        return True
    return bool(match["is"] and _REMARK.match(match["rest"]) and score_of(match["rest"]) is None)


def json_verdict(text: str) -> Any:
    """The verdict of a JSON object that is the whole text, in a fenced block, or its end; None without one."""
    start = max(text.rfind("\n{") + 1, 0)
    for candidate in (text, text[start:]):
        with suppress(ValueError):
            value = json_in(candidate)
            for name in ("verdict", "correct", "is_correct", "score", "reward") if isinstance(value, dict) else ():
                if name in value:
                    return "" if value[name] is None else value[name]
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
