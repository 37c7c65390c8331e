"""Compare a mathematical answer with the expected answer.

Numbers are compared exactly, as fractions. Lists are compared element by element. Everything else goes to the
math-verify library, whose verdict is checked again for numbers, because it compares rounded values. Runs in a worker
process.
"""

from __future__ import annotations

import math
import re
import sys
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ng_rollouts.verifiers.answer_extraction import ALTERNATIVE, last_statement
from ng_rollouts.verifiers.exact_numbers import (
    THOUSANDS,
    ascii_answer,
    clean_answer,
    is_rounded,
    last_number,
    number_of,
    number_with_words,
)
from ng_rollouts.verifiers.units import NEGATED

_REASON = re.compile(r",?\s(?:because|since)\s|,\swhich\s", re.IGNORECASE)
"""The beginning of a reason: `6, because 7 is odd`."""

_AT = re.compile(r"\s+(?:when|where|at|for|if|except)\s+(?=\$?[A-Za-z]\w?\$?\s?(?:=|<|>|\\(?:le|ge|to|neq?)))")
"""Where or when an answer holds, which is not a value: `7 at x = 4`, `no solution for x = 2`."""

_REMARK_BEGINS = re.compile(
    r""",\s(?:or\s(?:approximately|about|roughly|nearly)|so|rounded|assuming|i\.e\.|that\sis|as|given|because|since|which)(?!\w)
    |\s[—–]\s|:\s|\s\((?=≈|\\approx|=|[^()]*[A-Za-z]{3})|\s(?:after|over|within)\s""",
    re.IGNORECASE | re.VERBOSE,
)

_REMARK = re.compile(
    r"\s\((?!\s*\\?(?:p?mod|sin|cos|tan|log|ln|sqrt|exp)\b)(?=[^()]*[A-Za-z]{2,}\s)[^()]*\)[.\s]*$", re.IGNORECASE
)
"""A remark behind an answer: `12 (rounded to two digits)`."""

_RELATION = re.compile(r"(?:[<>]|!=|\\(?:leq?|geq?|lt|gt|neq?|not)(?![a-z]))")
"""The beginning of a bound: `>= 4`."""

_NO_VALUE = re.compile(r"\\(?:n?mid|to|rightarrow|mathbb)(?![a-z])|→|[\d}][-+'*]$|\^\{?[-+*']\}?$")
"""Symbols by which a text is more than a value: `2 \\mid 12`, `3\\mathbb{Z}`, `3+`."""

_CHANGES = re.compile(
    r"(?<!\\)\b(?:hundred|thousand|million|billion|trillion|tens|no|undefined|diverges|converges|off|plus|more|less|fewer|greater|between|least|most|twice|half)\b|\$\s?[\d.,]+\s?[MBK]\b",
    re.IGNORECASE,
)
"""Words beside a number that change it."""

_TIME = re.compile(r"(?P<time>\d+(?::\d+)+)(?:\s*(?P<half>[ap])\.?\s?m\.?)?", re.IGNORECASE)

_MODULUS = re.compile(r"\s*\(?\\?[bp]?mod\s?(?:\{\d+\}|\d+)\)?$")
"""`4 \\pmod 7`, `4 (mod 7)`: like a unit, it may be missing on one side."""

_WITH_BASE = re.compile(r"(?P<digits>[\dA-F]+)_\{?(?P<base>\d+)\}?")
"""A number in another base than ten: `1011_2`."""

_HUGE_FACTORIAL = re.compile(r"\d{5}\s?[)}]?\s?!")
"""Its value has over 35,000 digits, so computing it would use up the time limit. It is equal only if its text is."""

_PAIR = re.compile(r"[(\[][^()\[\],]+,[^()\[\],]+[)\]]")

_TUPLE = re.compile(r"[(\[]([^()\[\]]+)[)\]]")
"""A point or an interval."""

_INFINITE = {"\\infty": "oo", "+\\infty": "oo", "-\\infty": "-oo"}

_SEPARATOR = re.compile(r"[({\[]|[)}\]]|[,;](?:\s+(?:and|or)\s)?|\\text\s?\{\s?(?:and|or)\s?\}|\s(?:and|or)\s")
"""Brackets, and what separates the elements of a list."""

_DOTS = re.compile(r"\\(?:l|c|v|d)?dots|\.\.\.|…")
_MAX_UNORDERED = 8
"""Up to this length, each element of a list is compared with each of the other; longer lists are sorted first."""


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
        answer = ascii_answer(answer)
        correct = any(_compare_by_library(each, answer) for each in expected)
        extracted = _library_text(answer)
        return correct, extracted, normal_form(expected[0]) if correct else extracted
    is_formula = not re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", answer) and "\n" not in answer
    if not is_stated and not is_formula and (number := last_number(answer)):
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
    expected, answer = _comparable(clean_answer(expected), clean_answer(answer))
    if not expected or not answer:
        return False
    if _is_same_text(expected, answer):
        return True
    if _is_malformed(answer) or _is_false_equation(answer) or _has_other_form(expected, answer):
        return False
    if (is_same := _compare_by_form(expected, answer)) is not None:
        return is_same
    wanted, given = number_of(expected), number_of(answer)
    if wanted and len(wanted.unit) == 1 and wanted.unit.isalpha() and re.search(r"\d[A-Za-z]$", expected):
        if given:
            return False
        wanted = None  # `2m` is an expression, `2 m` a length
    if wanted and given:
        return wanted.equals(given) or is_rounded(expected, answer, wanted, given)
    if (lists := (list_of(expected), list_of(answer))) != (None, None):
        return _is_equal_list(expected, answer, *lists)
    if wanted and (given := number_of(_right_side(answer)) or number_with_words(answer)):
        return wanted.equals(given)
    # math-verify takes the last number of a text, even if the text says that it is not the answer
    return not (wanted and (NEGATED.search(answer) or _CHANGES.search(answer))) and _compare_by_library(
        expected, answer
    )


def _is_same_text(expected: str, answer: str) -> bool:
    """Whether two answers have the same text, apart from white space and the case of words."""
    if expected.isalpha() and (len(expected) > 2 or expected.casefold() == "no"):
        return expected.casefold() == answer.casefold()
    # white space decides whether `1, 234` is a list
    return _squeezed(expected) == _squeezed(answer) and (list_of(expected) is None) == (list_of(answer) is None)


def _differ_in_case(expected: str, answer: str) -> bool:
    """Whether two formulas differ in the case of their variables: `R` and `r` are two."""
    if number_of(expected) and number_of(answer):
        return False  # `2.7e8` and `2.7E8`
    first, second = _squeezed(expected), _squeezed(answer)
    return first != second and first.casefold() == second.casefold() and not re.search(r"[A-Za-z]{3}", expected)


def normal_form(answer: str) -> str:
    """The form by which majorities count equal answers."""
    answer = clean_answer(answer)
    if number := number_of(answer) or number_with_words(answer):
        return str(number.value)
    if elements := list_of(answer):
        return "{" + ", ".join(sorted(map(normal_form, elements))) + "}"
    return _squeezed(answer)


def list_of(text: str) -> list[str] | None:
    """The elements of a list or set: `1, 2`, `\\{1, 2\\}`, `1 and 2`, `\\pm 3`; None if the text is not one."""
    text = clean_answer(text)
    if text.count("\\pm") == 1 and len(_split(text)) == 1:
        return [_right_side(text.replace("\\pm", sign)) for sign in "+-"]
    if match := re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL):
        text = match[1]
    elif re.match(r"[(\[]|\\left[(\[]", text):
        return None  # a point or an interval: brackets and order count
    if THOUSANDS.fullmatch(text):
        return None
    parts = _split(text)
    if len(parts) < 2 or not all(parts):
        return None
    return [_right_side(part) for part in parts]


def _value_before_remark(text: str) -> str:
    """The number at the beginning of a text that continues with a remark, `16, so Tom needs 16`; else the text."""
    for match in _REMARK_BEGINS.finditer(text):
        value = text[: match.start()]
        if number_of(value) or (value.count("$") > 1 and number_of(value.replace("$", ""))):
            return value.replace("$", "") if value.count("$") > 1 else value
    return text


def _answer_in(text: str) -> tuple[str, bool]:
    statement = last_statement(text)
    if statement is not None:
        stated = _REMARK.sub("", _REASON.split(ALTERNATIVE.split(statement.text)[0])[0])
        return _value_before_remark(_AT.split(stated)[0]), True
    text = text.strip()
    first = _REASON.split(text)[0]
    # `6, because 7 is odd` states 6, and no other number counts
    return (first, True) if number_of(first) else (text, False)


def _without_brackets(text: str) -> str:
    """An answer without the brackets around it, unless they belong to a point or an interval: `[95°]`, `(-9{,}149)`."""
    if len(text) > 2 and text[0] + text[-1] in ("()", "[]") and len(_split(inner := text[1:-1])) == 1:
        depth = 0
        for character in inner:
            depth += (character in "([") - (character in ")]")
            if depth < 0:
                return text  # `(1+2)(3+4)`
        return clean_answer(inner)
    return text


def _squeezed(text: str) -> str:
    return (
        re.sub(r"(?<!\d)(?:\s|\\[,; ]|~)|(?:\s|\\[,; ]|~)(?!\d)", "", text)
        .replace("\\dfrac", "\\frac")
        .replace("\\tfrac", "\\frac")
    )


def _comparable(expected: str, answer: str) -> tuple[str, str]:
    """The two answers without brackets around them, and without a modulus, that only one of them has."""
    if expected[:1] not in ("(", "["):
        answer = _without_brackets(answer)
    if bool(_MODULUS.search(expected)) != bool(_MODULUS.search(answer)):
        return _MODULUS.sub("", expected), _MODULUS.sub("", answer)
    return expected, answer


def _compare_by_form(expected: str, answer: str) -> bool | None:
    """Compare numbers in other bases, times, ratios, and most points and intervals; None for all other answers."""
    if (based := (_WITH_BASE.fullmatch(expected), _WITH_BASE.fullmatch(answer))) != (None, None):
        return _is_equal_in_base(expected, answer, *based)
    if wanted := _TIME.fullmatch(expected):
        given = _TIME.fullmatch(answer)
        halves = {each["half"].casefold() for each in (wanted, given) if each and each["half"]}
        return given is not None and given["time"] == wanted["time"] and len(halves) <= 1
    return _compare_tuples(expected, answer)


def _compare_tuples(expected: str, answer: str) -> bool | None:
    """Compare two points or intervals of numbers, which take math-verify 20 ms to parse; None if others decide."""
    first, second = _exact_elements(expected), _exact_elements(answer)
    if len(first) < 2 or None in first or len(first) != len(second) or None in second:
        return None
    if (expected[0], expected[-1]) != (answer[0], answer[-1]):
        return None
    if first == second:
        return True
    return None if "." in expected + answer else False  # a decimal may be rounded


def _exact_elements(text: str) -> list[Fraction | str | None]:
    """The elements of a point or an interval; None for each that is neither a plain number nor infinite."""
    match = _TUPLE.fullmatch(text)
    return [_INFINITE.get(part) or _plain_value(part) for part in (_split(match[1]) if match else [])]


def _plain_value(text: str) -> Fraction | None:
    number = number_of(text)
    return None if number is None or number.unit or number.currency or number.is_percent else number.value


def _is_equal_in_base(expected: str, answer: str, wanted: re.Match[str] | None, given: re.Match[str] | None) -> bool:
    """Whether two numbers have the same digits and the same base, which one of them may leave out."""
    if wanted and given and wanted["base"] != given["base"]:
        return False
    return (wanted["digits"] if wanted else expected) == (given["digits"] if given else answer)


def _split(text: str) -> list[str]:
    """The parts of a list, split at commas, semicolons, `and` and `or` outside of brackets, not within numbers."""
    text = THOUSANDS.sub(lambda match: match[0].replace(",", "\0"), text) if not re.search(r",\s", text) else text
    parts, depth, start = [], 0, 0
    for match in re.finditer(
        r"[({\[]|[)}\]]|[,;](?:\s+(?:and|or)\s)?|\\text\s?\{\s?(?:and|or)\s?\}|\s(?:and|or)\s", text
    ):
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
    if names[0] and not names[1] and len(set(names[0])) == len(wanted) > 1:
        return all(map(_pair, wanted, given))  # the order of the variables
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


def _is_malformed(text: str) -> bool:
    """Whether a text looks like a mixed number and is none, so that neither of its numbers is the answer."""
    match = re.match(r"[-−]?\d+\s+(\d+)\s?/\s?(\d+)", text)
    return match is not None and not 0 < int(match[1]) < int(match[2])


def _is_false_equation(text: str) -> bool:
    """Whether a text equates two different numbers, as `7 = 6` does, so that neither is the answer."""
    left, equals, right = text.partition("=")
    has_variables = re.search(r"[A-Za-z]", re.sub(r"\\(?:cdot|times|div|frac|dfrac|left|right)", "", left))
    return bool(equals and left.strip() and "=" not in right and not has_variables and not is_equal(right, left))


def _has_other_form(expected: str, answer: str) -> bool:
    """Whether an answer is a bound, `>= 4`, has variables in another case, or is a pair in other brackets."""
    if _differ_in_case(expected, answer):
        return True
    for form, find in ((_RELATION, _RELATION.match), (_NO_VALUE, _NO_VALUE.search)):
        if find(answer) and not form.search(expected):
            return True
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
    if not gold or not given:
        return False
    if verify(list(gold), list(given), timeout_seconds=None):
        return _is_exact(gold[0], given[0])
    return _is_equal_complex(gold[0], given[0])


def _is_equal_complex(first: Any, second: Any) -> bool:
    """Whether two values are equal numbers with `i` as the imaginary unit, which math-verify takes for a variable."""
    from sympy import I  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    with suppress(Exception):  # not SymPy expressions
        numbers = [
            value.subs({symbol: I for symbol in value.free_symbols if symbol.name == "i"}) for value in (first, second)
        ]
        if numbers != [first, second] and all(number.is_number for number in numbers):
            return abs(complex((numbers[0] - numbers[1]).evalf(30))) <= 1e-12 * max(1, abs(complex(numbers[0])))
    return False


@lru_cache(maxsize=128)  # the answers of one task come one after another, and many are equal
def _parsed(text: str) -> tuple[Any, ...]:
    import logging  # noqa: PLC0415 - runs in a worker process

    from math_verify import parse  # noqa: PLC0415 - an extra

    # math-verify warns that its own timeouts are off; the process pool limits the time instead
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for form in _forms(text):
        if parsed := parse(form, parsing_timeout=None):
            return tuple(parsed)
    return ()


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
