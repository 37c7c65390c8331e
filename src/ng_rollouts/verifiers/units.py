"""Read and compare the units behind numbers. Units are not converted."""

from __future__ import annotations

import re

from ng_rollouts.verifiers.answer_markup import (
    unwrap,
)

NO_UNIT = re.compile(
    r"""\b(?:or|and|if|unless|except|a?sin|a?cos|a?tan|arc\w+|log|ln|exp|sqrt|cbrt|pi|mod|floor|ceil|round|abs
    |tens|hundred|thousand|million|billion|trillion|dozen|tenths?|hundredths?|thousandths?|halves|thirds?|quarters?
    |squared|cubed|twice|thrice|half|double|triple|minus|plus|negative|least|most|less|more|fewer|greater|between
    |minimum|maximum|off|does|works?|multiples?|impossible|possible|extraneous|undefined|but)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words beside a number that change it, so that they are not its unit."""

NEGATED = re.compile(r"\b(?:not|never|neither|cannot)\b|n['’]t\b", re.IGNORECASE)

_UNIT = re.compile(
    r"""(?:[A-Za-zµμΩÀ-ÿ]{2,}|[mgsLlhNJWVAKCFTH])(?:\^?\{?-?\d\}?|[²³])?
    (?:[/·](?:[A-Za-zµμΩÀ-ÿ]+)(?:\^?\{?-?\d\}?|[²³])?){0,3}""",
    re.VERBOSE,
)
"""A unit or the name of a thing. One letter alone may be a variable, so only those of common units are listed."""

_MAX_WORDS = 6

_NAMES = {
    "m": "meter metre",
    "cm": "centimeter centimetre",
    "mm": "millimeter millimetre",
    "km": "kilometer kilometre",
    "in": "inch inche",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "g": "gram",
    "mg": "milligram",
    "kg": "kilogram kilo",
    "lb": "pound lbs",
    "oz": "ounce",
    "s": "sec second",
    "ms": "millisecond",
    "min": "minute",
    "h": "hr hour",
    "l": "liter litre",
    "ml": "milliliter millilitre",
    "n": "newton",
    "j": "joule",
    "w": "watt",
    "v": "volt",
    "k": "kelvin",
    "hz": "hertz",
    "pa": "pascal",
    "$": "dollar buck usd",
    "€": "euro eur",
    "¢": "cent",
}
_ABBREVIATIONS = {name: short for short, names in _NAMES.items() for name in names.split()}
"""Name of a unit -> its abbreviation."""

_MONEY = ("$", "€", "¢")


def unit_of(rest: str) -> str | None:
    """The unit behind a number; `%` for a percent sign; None if the rest is an expression."""
    rest = re.sub(r"^(?:\\[,;: ]|~|\s)+", "", unwrap(rest)).strip().rstrip(".,;!")
    if re.fullmatch(r"%|percent|per\s?cent|percentage points?", rest, re.IGNORECASE):
        return "%"
    if re.fullmatch(r"(?:°|\\degree|\^\s?\{?\\circ\}?|degrees?)\s?(?:[CF]|Celsius|Fahrenheit)?", rest):
        return "°"
    rest = re.sub(r"\\[dt]?frac\s?\{([^{}]+)\}\s?\{([^{}]+)\}", r"\1/\2", rest)
    rest = re.sub(r"\s+", " ", re.sub(r"~|\\[,;: ]", " ", rest.replace("\\cdot", "·")))
    rest = re.sub(r"\s?([/·])\s?", r"\1", rest)
    words = rest.split(" ")
    # at least two letters, so that `2x` and `3i` stay expressions; the common one-letter units are listed
    is_unit = rest == "¢" or (all(map(_UNIT.fullmatch, words)) and len(words) <= _MAX_WORDS)
    return rest if is_unit and not NO_UNIT.search(rest) and not NEGATED.search(rest) else None


def is_same_unit(first: str, second: str) -> bool:
    """Whether two units are the same, by name or abbreviation. `12 marbles` and `12 marbles left` are."""
    parts = _parts(first), _parts(second)
    shorter = min(parts, key=len)
    is_longer_text = all(len(word) > 2 and word.isalpha() for part in parts for word in part)
    return parts[0] == parts[1] or (is_longer_text and all(part[: len(shorter)] == shorter for part in parts))


def money_of(unit: str) -> str:
    """The currency sign of a unit that is money; empty for other units."""
    name = _short(unit.casefold())
    return name if name in _MONEY else ""


def _parts(unit: str) -> tuple[str, ...]:
    """The words of a unit, abbreviated, with `/` in place of "per" and exponents as digits: `m`, `/`, `s2`."""
    unit = re.sub(r"[{}^.]", "", unit.casefold()).replace("²", "2").replace("³", "3")
    unit = re.sub(r"\bper\b", "/", unit)
    unit = re.sub(r"\b(?:square|sq)\s(\w+)", r"\1²", re.sub(r"\bcubic\s(\w+)", r"\1³", unit))
    words = re.findall(r"/|·|[^\W\d]+[²³\d]?|\S", unit)
    return tuple(
        _short(word.rstrip("²³23")) + word[len(word.rstrip("²³23")) :].translate({178: "2", 179: "3"}) for word in words
    )


def _short(word: str) -> str:
    singular = word.removesuffix("s") if len(word) > 2 else word
    return _ABBREVIATIONS.get(word) or _ABBREVIATIONS.get(singular, singular)
