"""Read exact numbers, with their units and currencies, in the spellings of prose, LaTeX and Unicode."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from ng_rollouts.verifiers.answer_markup import (
    strip_quotes,
    unwrap,
)
from ng_rollouts.verifiers.units import NEGATED, NO_UNIT, is_same_unit, money_of, unit_of

_CURRENCY = r"(?:\\?\$|\\?€|£|¥|₹|US\$|USD|EUR|GBP|Rs\.?)"

_CURRENCY_SIGNS = {"US$": "$", "USD": "$", "EUR": "€", "GBP": "£", "Rs": "₹"}

THOUSANDS = re.compile(
    r"(?<![\d.])(\d{1,3})((?:(?:,|\{,\}|\\,|\\!|\\ |\u202f|\u2009|,\\!)\d{3}|[ ]\d{3}(?![\s\d]*/))+)(?!\d)"
)
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

_REPEATING = re.compile(
    r"(?P<s>-?)(?P<w>\d*)\.(?P<f>\d*)(?:\\overline\s?\{(?P<r>\d+)\}|(?P<d>\d)(?P=d){2,}(?:\.\.\.|…|\\[lc]?dots))"
)
"""A repeating decimal: `0.1\\overline{6}`, `0.333...`"""

_MAX_REPEATING = 200

_MAX_EXPONENT = 5000
"""Exact arithmetic with larger powers of ten would take gigabytes."""

_NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w\\^])(?<!\^\{{)(?:[-−](?=\\?[\d.$]))?(?:{_CURRENCY}\s?)?[-−]?"
    rf"(?:\d+\s+\d+\s?/\s?\d+|(?:\d+\s?)?\\[dtc]?frac\s?\{{[^{{}}]*\}}\s?\{{[^{{}}]*\}}|\d+\s?/\s?\d+"
    rf"|\d{{1,3}}(?:(?:,|\{{,\}})\d{{3}})+(?:\.\d+)?|{_DECIMAL})(?:\s?[eE][-+]?\d+|\s?(?:\\times|×)\s?10\^\{{?[-−]?\d+\}}?)?(?:\s?\\?%)?(?![A-Za-z]\d)"
)

_MATH_CHARACTERS = {
    **dict.fromkeys(map(ord, "−–‐‑"), "-"),
    ord("\u00a0"): " ",
    **{
        ord(character): f"\\{name} "
        for character, name in zip("π∞≤≥∅∪∩∈≠", "pi infty le ge emptyset cup cap in ne".split(), strict=True)
    },
}

_ELEMENT_OF = re.compile(r"^[A-Za-z]\s?\\in\s?(?=\\?\{)")
"""The variable in front of a set of solutions: `x \\in \\{2, 3\\}`."""

_BOUND = re.compile(
    r"""(?:\d[^.\n]{0,12}\bor|\bbetween\s[^.\n]{1,20}\sand|\b(?:not|never|cannot|neither)(?:\sbe)?|n['’]t(?:\sbe)?|\bat\s(?:least|most)|(?<!add\s)(?<!adds\s)(?<!sums\s)\bup\sto|(?<!equal)(?<!close)\bfrom
    |\b(?:than|before|after|below|under|over|above|beyond|within|until|between|without|twice|half|divides|times|plus|minus
    |mod|modulo|rejecting|excluding|except|theorem|lemma|step|case|equation|figure|problem|chapter|section)
    )[\s\\$({]*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words in front of a number by which it is not the answer."""

_OF = re.compile(r"\bof[\s\\$({]*\Z", re.IGNORECASE)
_TOTAL_OF = re.compile(
    r"""\b(?:total|sum|area|lengths?|value|price|cost|volume|speed|perimeter|amount|average|mean|height|width|weight|mass
    |distance|probability|number|answer|result|maximum|minimum|profit|radius|age|median|angle|rate|ratio|score|discount)
    \sof[\s\\$({]*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
"""Behind these, "of" states a value: `a total of 12`. Elsewhere it does not: `the square root of 12`."""

_SCALE = re.compile(r"\s(?:hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)
"""Words behind a number that multiply it."""

_MAX_BEFORE = 40
"""How many characters in front of a number are read."""

_PREFIX = re.compile(
    r"""^(?:not\s[^\s,]{1,30}(?:,?\sbut|,\sit['’]s|,\sit\sis)\s|(?:the\s)?(?:ordered\s)?(?:point|pair|interval|set)\s(?=[(\[\\])
    |\([A-E]\)(?:\\[ ,]|~|\s)+(?=\S))""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words in front of a value, and the letter of a choice with its value: `\\textbf{(C)}\\ 12`."""

_ENDS = re.compile(r"^(?:\\[,;: ]|~)+|(?:\\[,;:]|\\(?=\s*$)|~)+\s*$")
"""LaTeX spaces at the ends."""

_INFINITY = re.compile(r"^([+-]?)\s?infinity$", re.IGNORECASE)
_NEGATIVE = re.compile(r"^negative\s(?=[\d\\$])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number, with the unit that was written behind it, and the currency sign beside it."""

    value: Fraction
    unit: str = ""
    is_percent: bool = False
    currency: str = ""

    @property
    def money(self) -> str:
        """Its currency, by a sign or in words; empty if it has none."""
        return self.currency or money_of(self.unit)

    def equals(self, other: Number) -> bool:
        """Whether two numbers are equal. A percent sign or a unit may be missing on one side."""
        if self.money and other.money:
            if self.money != other.money:
                return False
        elif self.unit and other.unit and not is_same_unit(self.unit, other.unit):
            return False
        if self.value == other.value:
            return True
        if self.is_percent != other.is_percent:  # 0.36 is 36 %
            return self.value / (100 if self.is_percent else 1) == other.value / (100 if other.is_percent else 1)
        return False


def number_of(text: str) -> Number | None:
    """The exact number that a text is; None if it is not a number.

    Currency signs, thousands separators, a percent sign and a unit may be part of it.
    """
    text = clean_answer(text)
    currency = re.search(rf"^[-+−]?\s?({_CURRENCY})|({_CURRENCY})$", text)
    text = re.sub(rf"^([-+−]?)\s?{_CURRENCY}\s?", r"\1", text)
    text = re.sub(rf"\s?{_CURRENCY}$", "", text)
    number = _number_without_currency(text)
    if number is None or currency is None:
        return number
    sign = (currency[1] or currency[2]).removeprefix("\\").rstrip(".")
    return replace(number, currency=_CURRENCY_SIGNS.get(sign, sign))


def number_with_words(text: str) -> Number | None:
    """The only number in a sentence such as `The farmer has 7 pears`, or the last one behind an equals sign."""
    if NEGATED.search(text) or NO_UNIT.search(text):
        return None  # `not 17`, `at least 17`
    if re.search(r"\\[A-Za-z]|[\^_{}]", re.sub(r"\\[dtc]?frac|\\times|\\\$|\\%|\\text", "", text)):
        return None  # a formula, not a sentence
    if "=" in text:
        return number_of(text.rpartition("=")[2])
    if not re.search(r"[A-Za-z]{2,}", text):
        return None
    numbers = list(_NUMBER_IN_TEXT.finditer(text))
    if len(numbers) != 1 or _is_qualified(text[: numbers[0].start()]):
        return None
    return number_of(numbers[0][0])


def last_number(text: str) -> str | None:
    last = None
    for last in _NUMBER_IN_TEXT.finditer(text):  # noqa: B007 - keeps the last match
        pass
    if (
        last is None
        or _SCALE.match(text, last.end())
        or _is_qualified(text[max(0, last.start() - _MAX_BEFORE) : last.start()])
    ):
        return None
    return last[0].strip()


def _is_qualified(before: str) -> bool:
    """Whether the words in front of a number make it another one: `the square root of`, `up to`, `not`."""
    return bool(_BOUND.search(before) or (_OF.search(before) and not _TOTAL_OF.search(before)))


def _number_without_currency(text: str) -> Number | None:
    ungrouped = THOUSANDS.sub(lambda match: match[1] + re.sub(r"\D", "", match[2]), text)
    for parse in (_repeating, _scientific, _fraction, _power_of_ten, _plain):
        if (parsed := parse(ungrouped)) is not None:
            value, end = parsed
            rest = ungrouped[end:].strip()
            if re.match(r"[Kk]$|[A-Z]\d", ungrouped[end:]):
                return None  # `12K` is a scale, `12C3` a function
            if not rest:
                return Number(value)
            if (unit := unit_of(rest)) is not None:
                return Number(value, "" if unit == "%" else unit, unit == "%")
            return None
    return None


@lru_cache(maxsize=64)
def clean_answer(text: str) -> str:
    """An answer without markup, with the spellings of LaTeX that mean the same made one."""
    text = re.sub(r"(?<=\d)\s?(?=\\(?:text|textrm|mathrm|mbox)\s?\{)", " ", text)
    text = strip_quotes(unwrap(re.sub(r"\\mathrm\s?\{\s?([ied])\s?\}", r"\1", text)))
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr?|Big|limits)\b(?![a-z])", "", text)
    text = ascii_answer(text)
    text = (
        re.sub(r"^\+\s?", "", _ELEMENT_OF.sub("", text)).replace("\\!", "").replace("\\%", "%").replace("\u00a0", " ")
    )
    text = _NEGATIVE.sub("-", _INFINITY.sub(r"\1\\infty", _ENDS.sub("", _PREFIX.sub("", text))))
    while text[-1:] in (".", ",", ";", ":", "!", "?") and text[-3:] != "..." and not re.fullmatch(r".*\d!", text):
        text = text[:-1].rstrip()
    return strip_quotes(text)


def ascii_answer(text: str) -> str:
    """A text with the Unicode characters of mathematics in ASCII or LaTeX."""
    if text.isascii():
        return text.replace("\\varnothing", "\\emptyset")
    text = re.sub(r"√\s?(?:\(([^()]*)\)|(\w+))", lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = re.sub(r"(?:(?<=\d)\s?)?[¼-¾⅐-⅞]", lambda match: " " + str(_vulgar(match[0].strip())), text).strip()
    text = re.sub(
        r"(?<=[\d)])[²³]|(?<=(?<![A-Za-z])[A-Za-z])[²³]",
        lambda match: f"^{{{unicodedata.normalize('NFKC', match[0])}}}",
        text,
    )
    text = re.sub(r"[⁰¹²³⁴-⁹⁻]+", lambda match: _superscript(match[0]), text)
    return text.translate(_MATH_CHARACTERS).replace("\\varnothing", "\\emptyset")


def _vulgar(character: str) -> Fraction:
    return Fraction(unicodedata.numeric(character)).limit_denominator(10)


def _superscript(characters: str) -> str:
    """An exponent in LaTeX. Behind a unit, `²` and `³` are left to it."""
    digits = unicodedata.normalize("NFKC", characters).replace("−", "-")
    return characters if characters in "²³" else f"^{{{digits}}}"


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


def _repeating(text: str) -> tuple[Fraction, int] | None:
    match = _REPEATING.match(text)
    if match is None or len(match[0]) > _MAX_REPEATING:
        return None
    start, period = match["f"], match["r"] or match["d"]
    value = Fraction(f"{match['w'] or 0}.{start or 0}")
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(start))
    return -value if match["s"] else value, match.end()


def _plain(text: str) -> tuple[Fraction, int] | None:
    match = _PLAIN.match(text)
    return None if match is None else (_exact(match[0]), match.end())


def _exact(text: str) -> Fraction:
    return Fraction(text.replace("−", "-").replace(" ", "").removesuffix("."))


def is_rounded(expected: str, answer: str, wanted: Number, given: Number) -> bool:
    """Whether a decimal with at least six places is the other number rounded: 0.333333 for 1/3."""
    for text, decimal, other in ((answer, given, wanted), (expected, wanted, given)):
        places = re.search(r"\.(\d{6,})", text)
        if places and decimal.value and abs(decimal.value - other.value) <= Fraction(1, 2 * 10 ** len(places[1])):
            return (abs(decimal.value) > Fraction(1, 1000) and decimal.value.denominator < other.value.denominator) or (
                other.value.denominator > 1 and 10 ** len(places[1]) % other.value.denominator != 0
            )
    return False
