r"""Find the answer in a model's text.

The rules, in this order (docs/verifiers.md states them for users):

1. **Reasoning is not an answer.** Text up to the last `</think>` is dropped. A `<think>` that never closes leaves no
   answer.
2. **The last decisive statement counts.** Statements are a box (`\boxed{}`, `\fbox{}`, `\boxed 9`), a line `#### 18`,
   and "answer" with a colon, "is", or as a heading over the next line, in any markup.
3. **A box is kept** if a later statement repeats its content ("\boxed{12} ... The answer is 12 apples.").
4. **Boxes in one statement are a list**: `\boxed{3}, \boxed{5} and \boxed{7}`. A box that a later sentence corrects
   does not count.
5. **A statement without a readable answer is not replaced by an earlier one.**
6. Without a statement, the whole text is the answer.

Model output can be long and degenerate, and extraction runs in the event loop. All patterns and loops are linear in the
length of the text.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ng_rollouts.types import Json
from ng_rollouts.verifiers.answer_markup import (
    FULL_STOP,
    INVISIBLE,
    normalise_answer,
    strip_markup,
    unwrap,
    without_fence,
)

_CLOSED_REASONING = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_OPEN_REASONING = re.compile(r"^[^\S\n]*+<(?:think|thinking|thought|reasoning)>", re.IGNORECASE | re.MULTILINE)
"""Only at the start of a line: a tag within a sentence is quoted, not opened."""

_BOX = re.compile(r"\\(?:boxed|fbox)\b\s{0,3}")
_MAX_BOXES = 64
"""A degenerate text repeats its box for ever. Only the last boxes are read."""

_BETWEEN_BOXES = re.compile(
    r"""(?:[\s$\\()\[\],;]|\\q?quad)*            # ends of formulas, commas
    (?:(?:and|or|und|et|y)\b|&|\\text\s?\{\s*(?:and|or)\s*\})?    # one conjunction
    (?:[\s$\\()\[\],;]|\\q?quad)*
    (?:[A-Za-z]\w{0,9}\s?=\s?)?     # `x_2 =`
    [\s$\\(\[]*""",
    re.VERBOSE,
)
"""The text between boxes of one statement. A full stop or other words start a new statement."""

_MAX_JSON = 100_000
"""How many characters at the end of a reply are read as a JSON object."""

_MARKUP = r"[\s*_`~#>$\\\[({]*"
_KINDS = (
    r"(?:(?:final|correct|best|right|selected|chosen|(?:most\s)?(?:appropriate|likely|suitable|accurate))\s+)*"
    r"(?:(?:answer\s)?(?:option|choice)s?|answers?|ans\b)"
)
_LABEL = re.compile(
    rf"""^{_MARKUP}(?:(?:so|thus|hence|therefore)\W{{1,3}})?(?:(?:the|my)\s+)?{_KINDS}
    (?:\sto\s[^:=.!?]{{1,60}}(?=[:=]))?[\s*_`~]*
    (?:(?:\bis\b[\s*_`~]*)?(?:[:=]|(?<=\bans)\.\s)(?P<rest>.*)|\bis\b(?P<said>\s.*)|{_MARKUP.replace("({", ")}")}$)""",
    re.IGNORECASE | re.VERBOSE,
)
"""A line that starts with a label: `Answer: 7`, `**Final Answer:** 7`, or a heading `### Answer` alone."""

_INLINE = re.compile(
    rf"""(?:\b(?:the|my)\s{_KINDS}(?:\sto\s[^:=.!?]{{1,60}}?|\shere|\sthen|\stherefore)?
        (?:['’]s|\s(?:is|remains|(?:would|must|should|will|has\sto)\sbe))\b
    |\bfinal\sanswer\b(?:\sis\b)?|\banswer\s?(?=[:=]))(?:[\s*_`~]*[:=])?""",
    re.IGNORECASE | re.VERBOSE,
)
"""The beginning of a statement within a sentence: `The answer is 7.`"""

_OTHER_ANSWER = re.compile(
    r"\b(?:incorrect|wrong|your|student['’]?s?|users?|alternative|other|another|second|previous|old|initial|original"
    r"|possible|tempting|common|bad|false|his|her|their|given|expected|typical|approximate|decimal|numerical|rounded"
    r"|check(?:ing)?|verify(?:ing)?|confirm(?:ing)?|test(?:ing)?)\s(?:\w+\s)?[*_`]*$",
    re.IGNORECASE,
)
"""Words in front of "answer" by which it is not the text's own: `Common wrong answer: 12`."""

_WOULD = re.compile(r"\bwould\b", re.IGNORECASE)

_MAX_CLAUSE = 200
"""How much text in front of a label is read."""

_HYPOTHETICAL = re.compile(
    r"""(?:\b(?:if|suppose|supposing|unless|had|were|for\s\$?\w{1,3}\s?=|misconception|tempting|mistake|at\sfirst)
    |\b(?:some|many|most|others?|people|students?|you|they|one)\s(?:\w+\s){0,3}(?:think|thought|say|argue|believe|claim|assume|guess)
    |\b(?:often|commonly|sometimes)\s(?:claimed|said|thought|believed)
    |\b(?:in|under|at|with|without|for)\s[^.!?,]{1,60},\s*(?=[^.!?]*$))\s?[^.!?]*$""",
    re.IGNORECASE | re.VERBOSE,
)
"""A condition, or a view of others, in front of a statement, which then replaces none without: `If n = 5, it is 8`."""

_REVERSED = re.compile(
    rf"""(?:^|[.!?:,]\s+)(?!(?:what|which|who|this|that|it|here|there|how|one|none)\b)(?P<rest>[^.!?:,]{{1,60}}?)
    \s(?:is|must\sbe|would\sbe|should\sbe)\s(?:the|my)\s{_KINDS}\W*$""",
    re.IGNORECASE | re.VERBOSE,
)
"""A statement in reverse: `17 is my final answer.`"""

_CHOSEN = re.compile(
    r"""(?:(?:\b(?:I|we)(?:['’](?:d|ll)|\swould|\swill)?\s|^)(?:choose|pick|select|go\swith)\s(?P<rest>.*)
    |(?:^|[.!?,]\s+)(?P<said>(?:(?:option|choice|answer)\s)?[(\[]?[A-Z][)\]]?)\sis\s(?:the\s)?(?:correct|right|best)(?:\s(?:one|option|choice|answer))?(?:,?\s(?:because|since|as)\s.*|\W*)$
    |\b(?:the\s(?:correct|right|best)\s(?:statement|one)\sis|(?:corresponds\sto|matches|points\sto)\s(?:the\s)?(?:answer\s)?(?:option|choice)
        |I\s(?:think|believe)\s(?:it['’]s|it\sis))\s(?P<named>[(\[*]*(?-i:[A-Z])[)\]*]*)\W*$
    |(?:^|[.!?,;]\s+)(?:so|thus|hence|therefore|(?:it\s)?must\sbe|I['’]d\ssay|it(?:['’]s|\sis))[,:]?\s(?:it(?:['’]s|\sis|\smust\sbe)\s)?(?P<then>(?:(?:option|choice|letter)\s)?[(\[]?(?-i:[A-Z])[)\]]?)\W*$)""",
    re.IGNORECASE | re.VERBOSE,
)
"""The statement of a choice: `I would choose B`, `B is correct.`, `So B.`"""

_ADVERB = re.compile(
    r"^(?:therefore|thus|hence|then|clearly|definitely|certainly|obviously|probably|simply|indeed|(?:most )?likely),? "
)

_WITHDRAWN = re.compile(
    r"""\b(?:no,?\swait|wait,\s(?:no\b|(?:that|this|it)(?:['’]s|\sis|\swas)\s(?:wrong|not|incorrect)\b)|scratch\sthat|correction:|I\stake\s(?:that|this|it)\sback|on\ssecond\sthoughts?|I\swas\swrong
    |no,\s(?:that|this|it)(?:['’]s|\sis|\swas)\s(?:wrong|not\s(?:right|correct|quite|it)\b|an?\s)|actually,?\s(?:no\b|that['’]?s\swrong))""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words by which a text takes back the statement before them."""

_INSTEAD = re.compile(r"\bit(?:['’]s|\s(?:is|(?:should|must|has\sto|would)\sbe))\s(?P<rest>[^\n]*)", re.IGNORECASE)
_VALUE_ONLY = re.compile(r"[\s,;:.–—-]{1,4}(?P<rest>[(\[]?(?:[A-Z]|[-−$]?\d[\d.,/]*)[)\]]?[.!$]{0,2}\s*)(?:\n|$)")
"""The correction after such words: `it's B`, or the value alone: `no wait, B.`"""

_HOWEVER = re.compile(
    r"\b(?:however|but|actually)\b(?![^.\n]{0,200}\b(?:if|when|unless|for)\b)[^.\n]{0,60}?\b(?:it|that|this|the\s(?:(?:correct|actual|real|right|true)\s)?(?:value|result|answer))"
    r"(?:['’]s|\s(?:is|(?:should|must)\sbe))\s(?P<rest>(?:[-−$\\({\[]*\d[^\s]*|[(\[]?(?-i:[A-Z])\b[)\]]?)(?=[.!$]*\s*(?:$|\n|,?\s(?:because|since|as)\s)))",
    re.IGNORECASE,
)
"""Another value after "however" takes the statement back, too: `However, on checking, it is 7.`"""

_CLAUSE_END = re.compile(r"(?<=[.!?;,])[^\S\n]+|(?<=[.!?;,]\$)[^\S\n]+")
"""White space behind a clause."""

_REJECTED = re.compile(
    r"[\s$*)\].]{0,6}(?:is|was)\s(?:wrong|incorrect|false|not\s(?:correct|right|the\s(?:right\s|correct\s)?answer))\b"
)
"""Words behind a box by which it is not the answer: `\\boxed{6} is wrong`."""

_ABOUT_ANSWER = re.compile(
    r"""[\s*_]*(?:(?:verified|confirmed|checked)\b|(?:correct|exact|boxed|rounded|(?:given|shown|stated)\s(?:above|below)
    |reasonable|supported|based\son|consistent\swith|plausible|clear\sfrom|in\s(?:whole|simplest|lowest|terms|the)\b|independent\sof
    |expressed|written|obtained)\b(?![\s*_]*[:=]))""",
    re.IGNORECASE | re.VERBOSE,
)
"""What a sentence may say about an answer without stating one: `The answer is rounded to the nearest integer.`"""

_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_LAST_JSON = re.compile(
    r"\n[ \t]*+(?P<fence>`{3,}+|~{3,}+)json[ \t]*+\n(?P<fenced>\s*+\{[^`~]*\})\s*(?P=fence)$|\n(?P<inner>\{[^\n]*\})$",
    re.IGNORECASE,
)
"""A JSON object at the end of a text, fenced or on its last line."""

_FENCE_LINE = re.compile(r"^\s*(?:`{3,}|~{3,})\s*\w*\s*$")
LINE_MARK = re.compile(r"^\s*(?:>\s*|→\s*|[-•]\s+(?=\D))+")
"""A quote mark or bullet at the start of a line."""

_HASHES = re.compile(r"^\s{0,3}\#{4}\s*(?P<rest>[^#\s].*)$")
"""GSM8K's result line. A heading of level four looks the same, see `_hash_answer`."""

_STARTS_WITH_VALUE = re.compile(r"[\s*_`]*(?:[A-Za-z]\w?\s?=)?[-+±(\[{\\$€£¥.\s]*\d|[\s*_`]*\\?\$")

_CLOSING_UNDERSCORES = re.compile(r"^_{1,2}(?=\s)")
"""The end of a label in italics: `_Answer:_ 7`."""

_SENTENCE_END = re.compile(r"(?<=[^\s.])(?<!\b(?:Dr|Mr|Ms|St|Mt))(?<!\bMrs)[.!?](?=[*_]{0,2}\s+[A-Z*(\"“])")
"""The end of a sentence, not the decimal point of `4.2`."""

ALTERNATIVE = re.compile(r",?\s(?:and\s|but\s)not\s|,\snot\s|,?\s(?:rather\sthan|instead\sof)\s", re.IGNORECASE)
"""The beginning of what an answer is not: `5, not 6`."""

_KEYWORD = re.compile(r"answer|\b(?:option|choice|ans\b)", re.IGNORECASE)

DECORATION = re.compile(r"^[\s*_`~$\\\[\](){}#>=-]*$")
"""A line that only opens a formula, a quote or a rule."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A decisive statement in a text.

    Attributes:
        text: the stated answer; empty if the statement has none that can be read.
        boxes: the contents of its boxes, if it consists of boxes.
        line: the stated answer up to the end of the line, where `text` ends with the sentence.
        is_hypothetical: whether it holds only under a condition.
    """

    text: str
    boxes: tuple[str, ...] = ()
    line: str = ""
    is_hypothetical: bool = False


def output_text(response: Json) -> str:
    """The text of a response's last assistant message, without reasoning."""
    text = ""
    for item in response.get("output") or ():
        if isinstance(item, dict) and item.get("type", "message") == "message" and item.get("role") != "user":
            text = _content_text(item.get("content"))
    return without_reasoning(text)


def without_reasoning(text: str) -> str:
    """The text after the reasoning; empty if the reasoning never ends."""
    closed = None
    for closed in _CLOSED_REASONING.finditer(text):  # noqa: B007 - keeps the last match
        pass
    answer = text[closed.end() :] if closed else text
    return "" if _OPEN_REASONING.search(answer) else answer


def last_statement(text: str, *, is_choice: bool = False) -> Statement | None:
    """The last decisive statement of a text; None if there is none.

    Args:
        is_choice: whether `I choose B` and `B is correct` are statements, too.
    """
    text = without_fence(text.translate(INVISIBLE).replace("：", ":"))
    if (value := _json_answer(text)) is not None:
        return Statement(strip_markup(value))
    text = _ANSWER_TAG.sub(lambda tag: "\n" if tag[1] else "\nAnswer: ", text)
    boxes, box_position, box_end = last_boxes(text)
    if boxes is not None:
        if _REJECTED.match(text, box_end):
            return _correction(text, box_end) or Statement("")
        # a label behind a box is a later statement, although it is on the same line
        line, newline, rest = text[box_end:].partition("\n")
        text = text[:box_end] + _CLAUSE_END.sub("\n", line, count=1) + newline + rest
    label, label_position = _last_label(text, is_choice=is_choice)
    if boxes is None and label is None:
        return None
    correction = _correction(text, max(box_position, label_position))
    if correction is not None:
        return correction
    if boxes is not None and (
        label is None or label_position <= box_position or label.is_hypothetical or _mentions(label.text, boxes)
    ):
        return Statement(", ".join(boxes), boxes)
    return label


def final_answer(text: str) -> str:
    """The stated answer of a text; the whole text without a statement."""
    statement = last_statement(text)
    return text.strip() if statement is None else statement.text


def final_line(text: str) -> str:
    """The stated answer up to the end of its line, where the answer itself may have full stops: `J. K. Rowling`."""
    statement = last_statement(text)
    return text.strip() if statement is None else statement.line or statement.text


def _json_answer(text: str) -> str | None:
    """The answer of a reply that is a JSON object with `answer` or `final_answer`."""
    text = text[-_MAX_JSON:].strip()
    if (last := _LAST_JSON.search(text)) is not None:
        text = last["fenced"] or last["inner"]
    if text[:1] + text[-1:] != "{}":
        return None
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        for name in ("final_answer", "answer"):
            if isinstance(value.get(name), (str, int, float)):
                return str(value[name])
    return None


def _correction(text: str, position: int) -> Statement | None:
    """The statement that takes the place of the one at a position; None if the text does not take that back."""
    if however := _HOWEVER.search(text, position):
        return _statement(however["rest"])
    withdrawn = None
    for withdrawn in _WITHDRAWN.finditer(text, position):  # noqa: B007 - keeps the last match
        pass
    if withdrawn is None:
        return None
    instead = _VALUE_ONLY.match(text, withdrawn.end()) or _INSTEAD.search(text, withdrawn.start())
    return Statement("") if instead is None else _statement(instead["rest"])


def last_boxes(text: str) -> tuple[tuple[str, ...] | None, int, int]:
    """The boxes of the last statement that has some, and where the last of them begins and ends."""
    matches = list(_BOX.finditer(text))[-_MAX_BOXES:]
    if not matches:
        return None, -1, -1
    contents: list[str] = []
    last = matches[-1].start()
    start = last_end = len(text)
    for match in reversed(matches):
        content, end = _box_content(text, match.end())
        if content is None:  # never closed: the answer was cut off, or the box is empty of sense
            return ("",) if not contents else tuple(reversed(contents)), last, last_end
        last_end = end if match is matches[-1] else last_end
        if contents and not _BETWEEN_BOXES.fullmatch(text, end, start):
            break
        start = match.start()
        if content not in contents:
            contents.append(content)
        if not content:
            break
    return tuple(reversed(contents)), last, last_end


def _box_content(text: str, start: int) -> tuple[str | None, int]:
    """The argument of a box: a group in balanced braces, or the next token. None if it is not closed."""
    if text[start : start + 1] != "{":
        token = re.compile(r"\\[A-Za-z]+|[-+]?\d+(?:\.\d+)?|\S").match(text, start)
        return (unwrap(token[0]), token.end()) if token else (None, start)
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "{" and text[position - 1] != "\\":
            depth += 1
        elif text[position] == "}" and text[position - 1] != "\\":
            depth -= 1
            if depth == 0:
                return unwrap(text[start + 1 : position]), position + 1
    return None, len(text)


def _last_label(text: str, *, is_choice: bool) -> tuple[Statement | None, int]:
    """The last labelled or inline statement, and where its line begins. A hypothetical one only counts alone."""
    lines = text.splitlines(keepends=True)
    position = len(text)
    hypothetical: tuple[Statement | None, int] = (None, -1)
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        position -= len(line)
        statement = _stated_in(line, lines, number, is_choice=is_choice)
        if statement is None:
            continue
        if not statement.is_hypothetical:
            return statement, position
        if hypothetical[0] is None:
            hypothetical = statement, position
    return hypothetical


def _stated_in(line: str, lines: list[str], number: int, *, is_choice: bool = False) -> Statement | None:
    """The answer that a line states, on it or on the next line with text; None if it states none."""
    if line.isspace():
        return None
    plain = unwrap(" ".join(line.split()))
    if match := _HASHES.match(line):
        return _hash_answer(match["rest"], lines, number)
    if is_choice and (match := _CHOSEN.search(plain)):
        stated = _statement(match["rest"] or match["said"] or match["then"] or match["named"])
        is_hypothetical = bool(_HYPOTHETICAL.search(plain[max(0, match.start() - _MAX_CLAUSE) : match.start() + 2]))
        if not is_hypothetical or not _KEYWORD.search(plain[: match.start()]):
            return replace(stated, is_hypothetical=is_hypothetical)
    if not _KEYWORD.search(plain):
        return None
    if match := _REVERSED.search(plain):
        return _statement(match["rest"])
    found = _labelled(plain)
    if found is None:
        return None
    rest, is_hypothetical = found
    if DECORATION.match(rest):
        rest = _next_line(lines, number) or rest
    rest = _CLOSING_UNDERSCORES.sub("", rest)
    if plain.startswith("_") and rest.count("_") % 2 and rest.endswith("_"):
        rest = rest.rstrip("_")
    return replace(_statement(rest), is_hypothetical=is_hypothetical)


def _labelled(line: str) -> tuple[str, bool] | None:
    """The text behind the last label of a line, and whether it is hypothetical; None if the line has no label."""
    hypothetical = None
    labels = [(match.end(), match.start()) for match in _INLINE.finditer(line)]
    if match := _LABEL.match(line):
        behind = match.start("rest") if match["rest"] is not None else match.start("said")
        labels.insert(0, (behind if behind >= 0 else len(line), 0))
    for end, start in reversed(labels):
        before = line[max(0, start - _MAX_CLAUSE) : start]
        if _ABOUT_ANSWER.match(line, end) or _OTHER_ANSWER.search(before):
            continue
        if not _HYPOTHETICAL.search(before) and not _WOULD.search(line[start:end]):
            return line[end:], False
        hypothetical = hypothetical or (line[end:], True)
    return hypothetical


def _next_line(lines: list[str], number: int) -> str | None:
    """The next of the five lines after a label that has text; None if there is none."""
    for line in lines[number + 1 : number + 6]:
        if not DECORATION.match(line) and not _FENCE_LINE.match(line):
            return LINE_MARK.sub("", line)
    return None


def _hash_answer(rest: str, lines: list[str], number: int) -> Statement | None:
    """The answer of a line `#### 18`. A heading is not one: text without a number that is followed by more text."""
    if _LABEL.match(rest):
        return _stated_in(rest, lines, number)
    is_last = all(DECORATION.match(each) for each in lines[number + 1 :])
    return Statement(_without_full_stop(strip_markup(rest))) if _STARTS_WITH_VALUE.match(rest) or is_last else None


def _statement(rest: str) -> Statement:
    """The statement in the rest of a line, up to the end of its sentence."""
    sentence = _ADVERB.sub("", strip_markup(_SENTENCE_END.split(rest)[0]))
    return Statement(_without_full_stop(strip_markup(sentence)), line=strip_markup(rest))


def _without_full_stop(statement: str) -> str:
    """A statement without the full stop behind its number. Behind a word it may belong to an abbreviation."""
    return FULL_STOP.sub("", statement) if statement[-2:-1].isdigit() else statement


def _mentions(statement: str, boxes: tuple[str, ...]) -> bool:
    """Whether a statement repeats the content of the boxes."""
    words = f" {normalise_answer(statement, case_sensitive=False)} "
    return all(
        box and re.search(rf"(?<![\w.]){re.escape(normalise_answer(box, case_sensitive=False))}(?!\w|[.,]\d)", words)
        for box in boxes
    )


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part.get("text") or "" for part in parts if isinstance(part, dict))
