"""Compare a mathematical answer with the expected answer.

Numbers are compared exactly, as fractions. Lists are compared element by element. Everything else goes to the
math-verify library, whose verdict is checked again for numbers, because it compares rounded values. Runs in a worker
process.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ng_rollouts.verifiers.answer_extraction import last_statement, strip_quotes, unwrap

_CURRENCY = r"(?:\\?\$|\\?€|£|¥|₹|US\$|USD|EUR|GBP|Rs\.?)"
_UNIT = re.compile(
    r"""(?:[A-Za-zµμΩÀ-ÿ]{2,}|[mgsLlhNJWVAKCFTH])(?:\^?\{?-?\d\}?|[²³])?
    (?:[/·](?:[A-Za-zµμΩÀ-ÿ]+)(?:\^?\{?-?\d\}?|[²³])?){0,3}""",
    re.VERBOSE,
)
"""A unit or the name of a thing. One letter alone may be a variable, so only those of common units are listed."""

_GROUPS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:,|\{,\}|\\,|\\!|\u202f|\u2009|,\\!)\d{3})+)(?!\d)")
"""Thousands: one to three digits, then groups of exactly three."""

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(rf"[-+−]?\s?{_DECIMAL}")
_SCIENTIFIC = re.compile(
    rf"(?P<m>[-+−]?{_DECIMAL})\s*(?:[eE]\s?(?P<e>[-+−]?\d+)|(?:\\times|\\cdot|×|·|\*|x)\s*10\s?\^\s?\{{?\s?(?P<p>[-+−]?\d+)\s?\}}?)"
)
_POWER_OF_TEN = re.compile(r"(?P<s>[-−]?)10\s?\^\s?\{?\s?(?P<p>[-+−]?\d+)\s?\}?")
_FRACTION = re.compile(
    rf"(?P<s>[-+−]?)\s?(?:(?P<w>\d+)(?:\s+|\\ |\\,|~|(?=\\)))?"
    rf"(?:\\[dtc]?frac\s?(?:\{{\s?(?P<n1>[-−]?{_DECIMAL})\s?\}}|(?P<n2>\d))\s?(?:\{{\s?(?P<d1>{_DECIMAL})\s?\}}|(?P<d2>\d))"
    rf"|(?P<n3>\d+)\s?[/⁄]\s?(?P<d3>\d+))"
)
_MAX_REPEATING = 200

_MAX_EXPONENT = 5000
"""Exact arithmetic with larger powers of ten would take gigabytes."""

_NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w\\^])(?<!\^\{{)(?:[-−](?=\\?[\d.$]))?(?:{_CURRENCY}\s?)?[-−]?"
    rf"(?:\d+\s+\d+\s?/\s?\d+|(?:\d+\s?)?\\[dtc]?frac\s?\{{[^{{}}]*\}}\s?\{{[^{{}}]*\}}|\d+\s?/\s?\d+"
    rf"|\d{{1,3}}(?:(?:,|\{{,\}})\d{{3}})+(?:\.\d+)?|{_DECIMAL})(?:\s?[eE][-+]?\d+|\s?(?:\\times|×)\s?10\^\{{?[-−]?\d+\}}?)?(?:\s?\\?%)?"
)
_MATH_CHARACTERS = {
    **dict.fromkeys(map(ord, "−–‐‑"), "-"),
    ord("\u00a0"): " ",
    **{
        ord(character): f"\\{name} "
        for character, name in zip("π∞≤≥∅∪∩∈≠", "pi infty le ge emptyset cup cap in ne".split(), strict=True)
    },
}

_NEGATED = re.compile(r"\b(?:not|never|neither|cannot)\b|n['’]t\b", re.IGNORECASE)
_NO_UNIT = re.compile(
    r"""\b(?:or|and|if|unless|except|a?sin|a?cos|a?tan|arc\w+|log|ln|exp|sqrt|cbrt|pi|mod|floor|ceil|round|abs
    |hundred|thousand|million|billion|trillion|dozen|tenths?|hundredths?|thousandths?|halves|thirds?|quarters?
    |squared|cubed|twice|thrice|half|double|triple|minus|negative|least|most|less|more|fewer|greater|between
    |multiples?|impossible|undefined|but)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words beside a number that change it, so that they are not its unit."""

_BOUND = re.compile(
    r"(?:\bnot|\bnever|n['’]t|\bat\s(?:least|most)|\b(?:less|more|greater|fewer)\sthan|\btwice|\bhalf(?:\sof)?)[\s\\$({]*\Z",
    re.IGNORECASE,
)
"""Words in front of the last number of a text by which it is not the answer."""

_ALTERNATIVE = re.compile(r",\s(?:and\s)?not\s|\s(?:rather\sthan|instead\sof)\s", re.IGNORECASE)
"""The beginning of what an answer is not: `5, not 6`."""

_MODULUS = re.compile(r"\s*\(?\\?[bp]?mod\s?(?:\{\d+\}|\d+)\)?$")
"""`4 \\pmod 7`, `4 (mod 7)`: like a unit, it may be missing on one side."""

_WITH_BASE = re.compile(r"(?P<digits>[\dA-F]+)_\{?(?P<base>\d+)\}?")
"""A number in another base than ten: `1011_2`."""

_REPEATING = re.compile(
    r"(?P<s>-?)(?P<w>\d*)\.(?P<f>\d*)(?:\\overline\s?\{(?P<r>\d+)\}|(?P<d>\d)(?P=d){2,}(?:\.\.\.|…|\\[lc]?dots))"
)
"""A repeating decimal: `0.1\\overline{6}`, `0.333...`"""

_HUGE_FACTORIAL = re.compile(r"\d{5}\s?[)}]?\s?!")
"""Its value has over 35,000 digits, so computing it would use up the time limit. It is equal only if its text is."""

_PAIR = re.compile(r"[(\[][^()\[\],]+,[^()\[\],]+[)\]]")

_DOTS = re.compile(r"\\(?:l|c|v|d)?dots|\.\.\.|…")
_MAX_UNORDERED = 8
"""Up to this length, each element of a list is compared with each of the other; longer lists are sorted first."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number, with the unit that was written behind it."""

    value: Fraction
    unit: str = ""
    is_percent: bool = False

    def equals(self, other: Number) -> bool:
        """Whether two numbers are equal. A percent sign or a unit may be missing on one side."""
        if self.unit and other.unit and not _is_same_unit(self.unit, other.unit):
            return False
        if self.value == other.value:
            return True
        if self.is_percent != other.is_percent:  # 0.36 is 36 %
            return self.value / (100 if self.is_percent else 1) == other.value / (100 if other.is_percent else 1)
        return False


def compare_math(expected: list[str], text: str) -> tuple[bool, str | None, str | None]:
    """Compare the answer in a text with the accepted answers.

    Returns:
        Whether they are mathematically equal, the extracted answer, and its normal form. Equal answers have equal
        normal forms wherever they are numbers or lists of numbers.
    """
    # Python limits the digits of an integer for servers; here, the time limit of the verifier holds
    sys.set_int_max_str_digits(0)
    answer, is_stated = _answer_in(text)
    if not answer:
        return False, None, None
    if not is_stated and not any(number_of(each) or list_of(each) for each in expected):
        # Prose without a statement: math-verify finds the last formula in it.
        answer = _ascii(answer)
        correct = any(_compare_by_library(each, answer) for each in expected)
        extracted = _library_text(answer)
        return correct, extracted, normal_form(expected[0]) if correct else extracted
    is_formula = not re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", answer) and "\n" not in answer
    if not is_stated and not is_formula and (number := _last_number(answer)):
        answer = number
    correct = any(is_equal(each, answer) for each in expected)
    if not correct and answer.endswith("!") and "\\boxed" not in text:
        # Outside of a box, an exclamation mark may end the sentence. In a box, it is a factorial.
        without = answer.rstrip("!")
        if any(is_equal(each, without) for each in expected):
            correct, answer = True, without
    # A correct answer has the normal form of the expected one, however it is written.
    return correct, answer, normal_form(expected[0] if correct else answer)


def is_equal(expected: str, answer: str) -> bool:
    """Whether an answer is mathematically equal to the expected answer."""
    expected, answer = _comparable(_clean(expected), _clean(answer))
    if not expected or not answer:
        return False
    # white space decides whether `1, 234` is a list
    if _squeezed(expected) == _squeezed(answer) and (list_of(expected) is None) == (list_of(answer) is None):
        return True
    if _is_malformed(answer) or _have_other_brackets(expected, answer):
        return False
    if (is_same := _compare_by_form(expected, answer)) is not None:
        return is_same
    wanted, given = number_of(expected), number_of(answer)
    if wanted and len(wanted.unit) == 1 and wanted.unit.isalpha() and re.search(r"\d[A-Za-z]$", expected):
        if given:
            return False
        wanted = None  # `2m` is an expression, `2 m` a length
    if wanted and given:
        return wanted.equals(given) or _is_rounded(expected, answer, wanted, given)
    if (lists := (list_of(expected), list_of(answer))) != (None, None):
        return _is_equal_list(expected, answer, *lists)
    if wanted and (given := number_of(_right_side(answer)) or _number_with_words(answer)):
        return wanted.equals(given)
    # math-verify takes the last number of a text, even if the text says that it is not the answer
    return not (wanted and _NEGATED.search(answer)) and _compare_by_library(expected, answer)


def normal_form(answer: str) -> str:
    """The form by which majorities count equal answers."""
    answer = _clean(answer)
    if number := number_of(answer) or _number_with_words(answer):
        return str(number.value)
    if elements := list_of(answer):
        return "{" + ", ".join(sorted(map(normal_form, elements))) + "}"
    return _squeezed(answer)


def number_of(text: str) -> Number | None:
    """The exact number that a text is; None if it is not a number.

    Currency signs, thousands separators, a percent sign and a unit may be part of it.
    """
    text = _clean(text)
    text = re.sub(rf"^([-+−]?)\s?{_CURRENCY}\s?", r"\1", text)
    text = re.sub(rf"\s?{_CURRENCY}$", "", text)
    ungrouped = _GROUPS.sub(lambda match: match[1] + re.sub(r"\D", "", match[2]), text)
    for parse in (_repeating, _scientific, _fraction, _power_of_ten, _plain):
        if (parsed := parse(ungrouped)) is not None:
            value, end = parsed
            rest = ungrouped[end:].strip()
            if not rest:
                return Number(value)
            if (unit := _unit(rest)) is not None:
                return Number(value, "" if unit == "%" else unit, unit == "%")
            return None
    return None


def list_of(text: str) -> list[str] | None:
    """The elements of a list or set: `1, 2`, `\\{1, 2\\}`, `1 and 2`, `\\pm 3`; None if the text is not one."""
    text = _clean(text)
    if match := re.fullmatch(r"(?:([A-Za-z]\w?)\s?=\s?)?\\pm\s?(.+)", text):
        return [match[2], f"-{match[2]}"] if number_of(match[2]) else None
    if match := re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL):
        text = match[1]
    elif re.match(r"[(\[]|\\left[(\[]", text):
        return None  # a point or an interval: brackets and order count
    if _GROUPS.fullmatch(text):
        return None
    parts = _split(text)
    if len(parts) < 2 or not all(parts):
        return None
    return [_right_side(part) for part in parts]


def _answer_in(text: str) -> tuple[str, bool]:
    statement = last_statement(text)
    return (text.strip(), False) if statement is None else (_ALTERNATIVE.split(statement.text)[0], True)


def _clean(text: str) -> str:
    """An answer without markup, with the spellings of LaTeX that mean the same made one."""
    text = re.sub(r"(?<=\d)\s?(?=\\(?:text|textrm|mathrm|mbox)\s?\{)", " ", text)
    text = strip_quotes(unwrap(re.sub(r"\\mathrm\s?\{\s?([ied])\s?\}", r"\1", text)))
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr?|Big|limits)\b(?![a-z])", "", text)
    text = _ascii(text)
    text = re.sub(r"^\+\s?", "", text).replace("\\!", "").replace("\\%", "%").replace("\u00a0", " ")
    while text[-1:] in (".", ",", ";", ":", "!", "?") and text[-3:] != "..." and not re.fullmatch(r".*\d!", text):
        text = text[:-1].rstrip()
    return strip_quotes(text)


def _ascii(text: str) -> str:
    """A text with the Unicode characters of mathematics in ASCII or LaTeX."""
    if text.isascii():
        return text.replace("\\varnothing", "\\emptyset")
    text = re.sub(r"√\s?(?:\(([^()]*)\)|(\w+))", lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = re.sub(r"(?:(?<=\d)\s?)?[¼-¾⅐-⅞]", lambda match: " " + str(_vulgar(match[0].strip())), text).strip()
    text = re.sub(r"(?<=[\d)])[²³]", lambda match: f"^{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    text = re.sub(r"[⁰¹²³⁴-⁹⁻]+", lambda match: _superscript(match[0]), text)
    return text.translate(_MATH_CHARACTERS).replace("\\varnothing", "\\emptyset")


def _vulgar(character: str) -> Fraction:
    return Fraction(unicodedata.numeric(character)).limit_denominator(10)


def _superscript(characters: str) -> str:
    """An exponent in LaTeX. Behind a unit, `²` and `³` are left to it."""
    digits = unicodedata.normalize("NFKC", characters).replace("−", "-")
    return characters if characters in "²³" else f"^{{{digits}}}"


def _without_brackets(text: str) -> str:
    """An answer without the brackets around it, unless they belong to a point or an interval: `[95°]`, `(-9{,}149)`."""
    if len(text) > 2 and text[0] + text[-1] in ("()", "[]") and len(_split(inner := text[1:-1])) == 1:
        depth = 0
        for character in inner:
            depth += (character in "([") - (character in ")]")
            if depth < 0:
                return text  # `(1+2)(3+4)`
        return _clean(inner)
    return text


def _squeezed(text: str) -> str:
    return re.sub(r"\s|\\[,; ]|~", "", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _scientific(text: str) -> tuple[Fraction, int] | None:
    match = _SCIENTIFIC.match(text)
    if match is None:
        return None
    exponent = int((match["e"] or match["p"]).replace("−", "-"))
    return (_exact(match["m"]) * Fraction(10) ** exponent, match.end()) if abs(exponent) <= _MAX_EXPONENT else None


def _power_of_ten(text: str) -> tuple[Fraction, int] | None:
    match = _POWER_OF_TEN.match(text)
    if match is None or abs(exponent := int(match["p"].replace("−", "-"))) > _MAX_EXPONENT:
        return None
    return (-1 if match["s"] else 1) * Fraction(10) ** exponent, match.end()


def _fraction(text: str) -> tuple[Fraction, int] | None:
    match = _FRACTION.match(text)
    if match is None:
        return None
    numerator = _exact(match["n1"] or match["n2"] or match["n3"])
    denominator = _exact(match["d1"] or match["d2"] or match["d3"])
    if not denominator:
        return None
    value = numerator / denominator
    if match["w"]:
        if not 0 <= value < 1:
            return None  # 4 14/3 is not a mixed number
        value += int(match["w"])
    return -value if match["s"] in ("-", "−") else value, match.end()


def _plain(text: str) -> tuple[Fraction, int] | None:
    match = _PLAIN.match(text)
    return None if match is None else (_exact(match[0]), match.end())


def _repeating(text: str) -> tuple[Fraction, int] | None:
    match = _REPEATING.match(text)
    if match is None or len(match[0]) > _MAX_REPEATING:
        return None
    start, period = match["f"], match["r"] or match["d"]
    value = Fraction(f"{match['w'] or 0}.{start or 0}")
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(start))
    return -value if match["s"] else value, match.end()


def _exact(text: str) -> Fraction:
    return Fraction(text.replace("−", "-").replace(" ", "").removesuffix("."))


def _unit(rest: str) -> str | None:
    """The unit behind a number; `%` for a percent sign; None if the rest is an expression."""
    rest = re.sub(r"^(?:\\[,;: ]|~|\s)+", "", unwrap(rest)).strip().rstrip(".,;!")
    if re.fullmatch(r"%|percent|per\s?cent|percentage points?", rest, re.IGNORECASE):
        return "%"
    if re.fullmatch(r"°|\\degree|\^\s?\{?\\circ\}?|degrees?", rest):
        return "°"
    rest = re.sub(r"\\[dt]?frac\s?\{([^{}]+)\}\s?\{([^{}]+)\}", r"\1/\2", rest)
    rest = re.sub(r"\s+", " ", re.sub(r"~|\\[,;: ]", " ", rest.replace("\\cdot", "·")))
    rest = re.sub(r"\s?([/·])\s?", r"\1", rest)
    words = rest.split(" ")
    # at least two letters, so that `2x` and `3i` stay expressions; the common one-letter units are listed
    is_unit = all(map(_UNIT.fullmatch, words))
    return rest if is_unit and not _NO_UNIT.search(rest) and len(words) <= 6 else None


def _is_same_unit(first: str, second: str) -> bool:
    def stem(unit: str) -> str:
        return re.sub(r"[\s.{}]", "", unit.casefold()).rstrip("s")

    return stem(first) == stem(second) or stem(first).startswith(stem(second)) or stem(second).startswith(stem(first))


def _is_rounded(expected: str, answer: str, wanted: Number, given: Number) -> bool:
    """Whether a decimal with at least six places is the other number rounded: 0.333333 for 1/3."""
    for text, decimal, other in ((answer, given, wanted), (expected, wanted, given)):
        places = re.search(r"\.(\d{6,})", text)
        if places and decimal.value and abs(decimal.value - other.value) <= Fraction(1, 10 ** len(places[1])):
            return (abs(decimal.value) > Fraction(1, 1000) and decimal.value.denominator < other.value.denominator) or (
                other.value.denominator > 1 and 10 ** len(places[1]) % other.value.denominator != 0
            )
    return False


def _comparable(expected: str, answer: str) -> tuple[str, str]:
    """The two answers without brackets around them, and without a modulus, that only one of them has."""
    if expected[:1] not in ("(", "["):
        answer = _without_brackets(answer)
    if bool(_MODULUS.search(expected)) != bool(_MODULUS.search(answer)):
        return _MODULUS.sub("", expected), _MODULUS.sub("", answer)
    return expected, answer


def _compare_by_form(expected: str, answer: str) -> bool | None:
    """Compare numbers in other bases, times and ratios; None for all other answers."""
    if (based := (_WITH_BASE.fullmatch(expected), _WITH_BASE.fullmatch(answer))) != (None, None):
        return _is_equal_in_base(expected, answer, *based)
    if re.fullmatch(r"\d+(?::\d+)+", expected):
        return re.sub(r"\s?[AaPp]\.?[Mm]\.?$", "", answer) == expected
    return None


def _is_equal_in_base(expected: str, answer: str, wanted: re.Match[str] | None, given: re.Match[str] | None) -> bool:
    """Whether two numbers have the same digits and the same base, which one of them may leave out."""
    if wanted and given and wanted["base"] != given["base"]:
        return False
    return (wanted["digits"] if wanted else expected) == (given["digits"] if given else answer)


def _split(text: str) -> list[str]:
    """The parts of a list, split at commas, semicolons, `and` and `or` outside of brackets, not within numbers."""
    text = _GROUPS.sub(lambda match: match[0].replace(",", "\0"), text) if not re.search(r",\s", text) else text
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[({\[]|[)}\]]|[,;]|\\text\s?\{\s?(?:and|or)\s?\}|\s(?:and|or)\s", text):
        symbol = match[0]
        if symbol in "({[":
            depth += 1
        elif symbol in ")}]":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    stripped = [re.sub(r"^(?:and|or)\s", "", part.replace("\0", ",").strip().strip("$").strip()) for part in parts]
    return [part for position, part in enumerate(stripped) if part or position < len(stripped) - 1]


def _is_equal_list(expected: str, answer: str, wanted: list[str] | None, given: list[str] | None) -> bool:
    """Whether two lists have equal elements, in any order."""
    if wanted is None or given is None or len(wanted) != len(given):
        # one of them may be a single value that math-verify reads as a set, such as an equation or a matrix
        return (wanted is None) == (given is None) and _compare_by_library(expected, answer)
    names = _names(expected), _names(answer)
    if names[0] and names[1] and len(set(names[0])) == len(wanted):  # values of several variables
        ordered = [value for _, value in sorted(zip(names[0], wanted, strict=True))]
        return sorted(names[0]) == sorted(names[1]) and all(
            map(_pair, ordered, [value for _, value in sorted(zip(names[1], given, strict=True))])
        )
    if any(map(_DOTS.search, (*wanted, *given))):
        return all(
            _squeezed(first) == _squeezed(second) or _pair(first, second)
            for first, second in zip(wanted, given, strict=True)
        )
    if len(wanted) > _MAX_UNORDERED:
        return all(map(_pair, sorted(wanted, key=normal_form), sorted(given, key=normal_form)))
    remaining = list(given)
    for element in wanted:
        position = next((number for number, other in enumerate(remaining) if _pair(element, other)), None)
        if position is None:
            return False
        del remaining[position]
    return True


def _names(text: str) -> list[str]:
    """The variables of a list such as `x = 2, y = 3`; empty if an element has none."""
    parts = _split(text)
    names = [part.partition("=")[0].strip() for part in parts if "=" in part]
    return names if len(names) == len(parts) else []


def _pair(first: str, second: str) -> bool:
    if _DOTS.search(first) or _DOTS.search(second):
        return _squeezed(first) == _squeezed(second)
    return is_equal(first, second)


def _right_side(text: str) -> str:
    """The value in `x = 5`."""
    match = re.fullmatch(
        r"\s*\\?[A-Za-z](?:_\{?\w+\}?|\w{0,3})?(?:\([A-Za-z]\))?\s*(?:=|\\approx|≈)\s*(.+)", text, re.DOTALL
    )
    return match[1].strip() if match and "=" not in match[1] else text


def _number_with_words(text: str) -> Number | None:
    """The only number in a sentence such as `The farmer has 7 pears`, or the last one behind an equals sign."""
    if _NEGATED.search(text) or _NO_UNIT.search(text):
        return None  # `not 17`, `at least 17`
    if re.search(r"\\[A-Za-z]|[\^_{}]", re.sub(r"\\[dtc]?frac|\\times|\\\$|\\%|\\text", "", text)):
        return None  # a formula, not a sentence
    if "=" in text:
        return number_of(text.rpartition("=")[2])
    if not re.search(r"[A-Za-z]{2,}", text):
        return None
    numbers = [match[0] for match in _NUMBER_IN_TEXT.finditer(text)]
    return number_of(numbers[0]) if len(numbers) == 1 else None


def _last_number(text: str) -> str | None:
    last = None
    for last in _NUMBER_IN_TEXT.finditer(text):  # noqa: B007 - keeps the last match
        pass
    if last is None or _BOUND.search(text, max(0, last.start() - 30), last.start()):
        return None
    return last[0].strip()


def _is_malformed(text: str) -> bool:
    """Whether a text looks like a mixed number and is none, so that neither of its numbers is the answer."""
    match = re.match(r"[-−]?\d+\s+(\d+)\s?/\s?(\d+)", text)
    return match is not None and not 0 < int(match[1]) < int(match[2])


def _have_other_brackets(expected: str, answer: str) -> bool:
    """Whether two pairs, which may be intervals, differ in their brackets: `(8, 3)` and `[8, 3]`."""
    pairs = _PAIR.fullmatch(expected), _PAIR.fullmatch(answer)
    return all(pairs) and (expected[0], expected[-1]) != (answer[0], answer[-1])


def _compare_by_library(expected: str, answer: str) -> bool:
    """Compare with math-verify, and check equal numbers again, exactly."""
    from math_verify import verify  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    if any(map(_DOTS.search, (expected, answer))):
        return False  # a sequence: math-verify compares only its first numbers
    if _HUGE_FACTORIAL.search(expected) or _HUGE_FACTORIAL.search(answer):
        return False
    if re.fullmatch(r"\d+(?::\d+)+", expected) or re.fullmatch(r"\d+(?::\d+)+", answer):
        return False  # a time or a ratio, which is equal only if its text is
    gold, given = _parsed(expected), _parsed(answer)
    if not gold or not given or not verify(gold, given, timeout_seconds=None):
        return False
    return all(_is_exact(first, second) for first in gold[:1] for second in given[:1])


def _parsed(text: str) -> list[Any]:
    import logging  # noqa: PLC0415 - runs in a worker process

    from math_verify import parse  # noqa: PLC0415 - an extra

    # math-verify warns that its own timeouts are off; the process pool limits the time instead
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for form in _forms(text):
        if parsed := parse(form, parsing_timeout=None):
            return list(parsed)
    return []


def _forms(text: str) -> tuple[str, ...]:
    """Forms of an answer for math-verify, in order of preference. The first that it can parse counts.

    Bare LaTeX has to be put between dollar signs. Otherwise math-verify parses only its first number: `2\\pi` as 2.
    """
    if "$" in text or "\\boxed" in text:
        return (text,)
    latex = re.sub(r"(?<!\\)%", r"\\%", text)
    return (f"${latex}$", f"$\\boxed{{{latex}}}$", text)


def _library_text(text: str) -> str | None:
    parsed = _parsed(text)
    return str(parsed[-1]) if parsed else None


def _is_exact(first: Any, second: Any) -> bool:
    """Whether two parsed values that math-verify calls equal are equal, if they are numbers.

    math-verify rounds to six digits, so that 1/2004! equals 1/2006!.
    """
    with suppress(Exception):  # not SymPy numbers
        if not (first.is_number and second.is_number) or first.is_Relational or second.is_Relational:
            return True
        if first.has_float() if hasattr(first, "has_float") else "Float" in str(first.atoms()):
            return True
        difference = first - second
        if difference == 0 or difference.is_zero:
            return True
        scale = max(abs(complex(first.evalf(30))), abs(complex(second.evalf(30))))
        if scale == 0 or math.isinf(scale):
            return bool(difference.equals(0))
        return abs(complex(difference.evalf(30))) <= 1e-9 * scale
    return True
