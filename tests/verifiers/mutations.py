"""Mutations of right and wrong answers, whose grades are known by construction.

A mutation starts from a value and an expected answer that are equal or different by construction: a number is written
in another form, or another number is taken. Then a frame states the value, as models do, and a context surrounds the
statement: an earlier answer that it corrects, reasoning, remarks. No verifier is used to find the right grade.

The same count gives the same mutations.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

UNREADABLE = "judge_unreadable"


@dataclass(frozen=True, slots=True)
class Mutation:
    """An answer with its known grade.

    Attributes:
        kind: the names of its form, frame and context.
        grade: the reward, or the class of the failure.
        options: the verifier's options.
    """

    kind: str
    answer: str
    row: dict[str, Any]
    grade: float | str
    options: dict[str, Any] = field(default_factory=dict)


def mutations(verifier: str, count: int) -> Iterator[Mutation]:
    """Mutations for a verifier, half of them right."""
    make = _GENERATORS[verifier]
    for number in range(count):
        yield make(random.Random(f"{verifier} {number}"), is_right=number % 2 == 0)


# Frames state a value. `{}` is the value; `{m}` is the value between the delimiters of a formula where it has LaTeX.

BOXES = (
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$",
    r"\[ \boxed{{{}}} \]",
    "Adding up:\n\\[\n\\boxed{{{}}}\n\\]",
    r"$$\boxed{{{}}}$$",
    r"\fbox{{{}}}",
    r"\boxed {{{}}}",
    r"So the final answer is $\boxed{{{}}}$.",
    r"**Answer:** \(\boxed{{{}}}\)",
)
LABELS = (
    "Answer: {m}",
    "ANSWER: {m}",
    "answer: {m}.",
    "**Answer:** {m}",
    "**Answer**: {m}",
    "**Answer: {m}**",
    "*Answer:* {m}",
    "__Answer:__ {m}",
    "_Answer_: {m}",
    "**Final Answer**: **{m}**",
    "Final answer: *{m}*",
    "Final Answer：{m}",
    "### Final Answer: {m}",
    "### Final Answer\n\n{m}",
    "## Answer\n**{m}**",
    "**Final Answer**\n\n{m}",
    "Final Answer:\n\n{m}",
    "**Answer:**\n\n> {m}",
    "- **Answer:** {m}",
    "> Answer: {m}",
    "1. Answer: {m}",
    "Answer = {m}",
    "My answer: {m}",
    "My final answer is {m}.",
    "The answer is {m}.",
    "The answer is: {m}",
    "The final answer is {m}!",
    "The correct answer is **{m}**.",
    "Therefore, the answer is {m}.",
    "So the answer is ({m}).",
    "The answer is [{m}]",
    'The answer is "{m}".',
    "The answer is “{m}”.",
    "Final answer: `{m}`",
    "Thus, the final answer is **{m}**",
    "I believe that the answer is {m}.",
    "✅ **Final Answer:** {m}",
    "Answer:\u00a0{m}",
    "Answer:\u200b {m}",
    "  Answer :  {m}  ",
)
FORMULAS = (
    "Answer: ${}$",
    "Answer: $${}$$",
    r"Answer: \({}\)",
    r"Answer: \[{}\]",
    "The answer is ${}$.",
    r"The answer is \( {} \).",
    "**Final Answer:**\n\\[\n{}\n\\]",
    "Final answer:\n\n$$\n{}\n$$",
    "**Answer:** $\\mathbf{{{}}}$",
)
HASHES = ("#### {m}", "Adding up.\n#### {m}\n", "####{m}", "The steps are above.\n\n#### {m}.")
LAST_HASHES = ("#### {}", "Adding up.\n\n#### {}")

HEDGES = (
    "Answer: I don't know.",
    "The answer is not known to me.",
    "**Answer:** I cannot say.",
    "Final answer: unknown",
    "Answer: none of this can be said",
    r"\boxed{\text{unknown}}",
    "Answer: ?",
)
REMARKS = (
    "",
    "",
    "",
    "\n\nI hope that it is correct.",
    "\n\nPlease ask if a step is unclear.",
    "\n\n---\n",
    "\n\n*Checked twice.*",
)


@dataclass(frozen=True, slots=True)
class _Draft:
    """An expected answer with forms that equal it and values that differ from it."""

    kind: str
    expected: Any
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    row: dict[str, Any] = field(default_factory=dict)


def _framed(rng: random.Random, value: str, frames: tuple[str, ...]) -> str:
    frame = rng.choice(frames)
    return frame.format(value, m=f"${value}$" if "\\" in value or "^" in value else value)


def _mutation(
    rng: random.Random, draft: _Draft, frames: tuple[str, ...], others: tuple[str, ...], *, is_right: bool
) -> Mutation:
    """State a value of a draft, in a context."""
    row = {"expected_answer": draft.expected, **draft.row}
    other = rng.choice(others)
    value = rng.choice(draft.right if is_right else draft.wrong)
    stated = _framed(rng, value, frames)
    context = rng.randrange(10)
    name, grade = f"{draft.kind}/plain", float(is_right)
    match context:
        case 0:
            name, stated = (
                f"{draft.kind}/corrected",
                f"At first sight, the answer is {other}. But that was a slip.\n\n{stated}",
            )
        case 1:
            name, stated = f"{draft.kind}/corrected", f"Answer: {other}\n\nWait, let me check that again.\n\n{stated}"
        case 2:
            name, stated = (
                f"{draft.kind}/thought",
                f"<think>\nPerhaps \\boxed{{{other}}}. The answer is {other}.\n</think>\n\n{stated}",
            )
        case 3 if not is_right:
            right = _framed(rng, rng.choice(draft.right), frames)
            name, stated = f"{draft.kind}/withdrawn", f"{right}\n\nNo, that is wrong.\n\n{stated}"
        case 4 if not is_right:
            right = _framed(rng, rng.choice(draft.right), frames)
            name, stated = (
                f"{draft.kind}/hedged",
                f"{right}\n\nOn reflection, I take that back.\n\n{rng.choice(HEDGES)}",
            )
        case 5 if not is_right:
            name, stated = f"{draft.kind}/open thought", f"<think>\n{_framed(rng, rng.choice(draft.right), frames)}"
        case _ if frames is not LAST_HASHES:
            stated += rng.choice(REMARKS)
        case _:
            pass
    return Mutation(name, stated, row, grade)


def _grouped(number: int) -> str:
    return f"{number:,}"


def _integer(rng: random.Random) -> _Draft:
    number = rng.choice([rng.randint(2, 99), rng.randint(100, 9_999), rng.randint(10_000, 9_999_999)])
    sign = rng.choice(["", "", "-"])
    forms = [f"{sign}{number}", f"{sign}{number}.0", f"{sign}{number}.00", f"{sign}{_grouped(number)}"]
    forms += [
        f"{sign}{_grouped(number).replace(',', '{,}')}",
        rf"{sign}\frac{{{2 * number}}}{{2}}",
        f"{sign}{number}e0",
    ]
    forms += [
        f"{sign}{number} apples",
        rf"{sign}{number}\text{{ apples}}",
        rf"{sign}{number}\,\mathrm{{cm}}",
        f"x = {sign}{number}",
    ]
    if not sign:
        forms += [f"${number}", rf"\${number}", f"€{number}", f"{number} dollars", f"+{number}", rf"\text{{{number}}}"]
        forms += [f"{number} km/h", rf"{number}^\circ", f"{number}°", f"{number} m²"]
    expected = rng.choice([f"{sign}{number}", f"{sign}{_grouped(number)}", f"{sign}{number}.0", int(f"{sign}{number}")])
    others = [number + 1, number - 1, number * 10, number + 1000, int(f"1{number}")]
    wrong = [f"{sign}{_grouped(each)}" for each in others] + [f"{sign}{each}" for each in others]
    wrong += [
        f"{'' if sign else '-'}{number}",
        f"{sign}{number}.5",
        f"{sign}{number}, 3",
        rf"{sign}\frac{{{number}}}{{2}}",
    ]
    wrong += [
        f"{sign}{number}e3",
        rf"{sign}{number + 2}\text{{ apples}}",
        f"{sign}{number}x",
        f"{sign}{number}!" if number > 2 else "5!",
    ]
    return _Draft("integer", expected, tuple(forms), tuple(each for each in wrong if not each.endswith("!")))


def _fraction(rng: random.Random) -> _Draft:
    bottom = rng.choice([2, 3, 4, 5, 7, 8, 9, 11, 20, 25])
    top = rng.choice([n for n in range(1, 60) if Fraction(n, bottom).denominator == bottom])
    value = Fraction(top, bottom)
    forms = [
        f"{top}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{top}}}{{{bottom}}}",
        rf"\tfrac{{{top}}}{{{bottom}}}",
    ]
    forms += [
        rf"\frac{{{3 * top}}}{{{3 * bottom}}}",
        f"{2 * top}/{2 * bottom}",
        f"{top} / {bottom}",
        rf"\left(\frac{{{top}}}{{{bottom}}}\right)",
    ]
    if top > bottom:
        whole, rest = divmod(top, bottom)
        forms += [
            f"{whole} {rest}/{bottom}",
            rf"{whole}\frac{{{rest}}}{{{bottom}}}",
            rf"{whole} \frac{{{rest}}}{{{bottom}}}",
        ]
    if 10**4 % bottom == 0:
        decimal = f"{float(value):.4f}"
        forms += [decimal, decimal.rstrip("0")]
    if top < 10 and bottom < 10:
        forms.append(rf"\frac{top}{bottom}")
    expected = rng.choice(forms[:4] + forms[-1:])
    wrong = [
        f"{top + bottom}/{bottom}",
        rf"\frac{{{bottom}}}{{{top}}}" if top != 1 else f"{bottom}",
        f"-{top}/{bottom}",
        f"{top}",
        f"{top}.{bottom}1",
    ]
    wrong += [
        rf"\frac{{{top}}}{{{bottom + 1}}}",
        f"{top // bottom + 1} {top}/{top + bottom + 3}",
        f"{float(value) + 0.01:.3f}",
    ]
    return _Draft("fraction", expected, tuple(forms), tuple(wrong))


def _decimal(rng: random.Random) -> _Draft:
    number = Fraction(rng.choice([n for n in range(1, 99_999) if n % 10]), rng.choice([10, 100, 1000]))
    text = str(float(number))
    forms = [
        text,
        f"{text}0",
        f"{text} kg",
        rf"{text}\text{{ m}}",
        rf"{text} \mathrm{{~m}}",
        f"≈ {text}",
        rf"\approx {text}",
    ]
    if number >= 1000:
        forms.append(f"{float(number):,}")
    exponent = rng.randint(3, 30)
    wrong = [
        str(float(number * 10)),
        str(float(number + Fraction(1, 10))),
        f"{text}1",
        f"-{text}",
        f"{text.replace('.', ', ')}",
    ]
    if rng.random() < 0.4:
        mantissa = f"{rng.randint(1, 9)}.{rng.randint(1, 9)}"
        sign = rng.choice(["", "-"])
        forms = [
            f"{mantissa}e{sign}{exponent}",
            rf"{mantissa}\times 10^{{{sign}{exponent}}}",
            rf"{mantissa} \cdot 10^{{{sign}{exponent}}}",
        ]
        forms += [
            f"{mantissa}E{sign}{exponent}",
            f"{mantissa} × 10^{sign}{exponent}",
            f"{mantissa}*10^{sign}{exponent}",
        ]
        wrong = [
            f"{mantissa}e{sign}{exponent + 1}",
            rf"{mantissa}1\times 10^{{{sign}{exponent}}}",
            mantissa,
            rf"10^{{{sign}{exponent}}}",
        ]
        expected: Any = rng.choice([forms[0], forms[1], float(f"{mantissa}e{sign}{exponent}")])
        return _Draft("exponent", expected, tuple(forms), tuple(wrong))
    return _Draft("decimal", rng.choice([text, float(number)]), tuple(forms), tuple(wrong))


def _percent(rng: random.Random) -> _Draft:
    number = rng.randint(2, 98)
    forms = (
        f"{number}%",
        rf"{number}\%",
        f"{number} %",
        f"{number} percent",
        rf"{number}\text{{ percent}}",
        f"{number}.0%",
        f"{number}",
    )
    wrong = (f"{number + 1}%", rf"{number * 10}\%", f"-{number}%", f"{number}.5%", f"{number + 2} percent")
    return _Draft("percent", rng.choice([f"{number}%", rf"{number}\%", f"{number}"]), forms, wrong)


def _list(rng: random.Random) -> _Draft:
    numbers = rng.sample(range(-20, 60), rng.randint(2, 4))
    turned = rng.sample(numbers, len(numbers))

    def joined(elements: list[int], mark: str = ", ") -> str:
        return mark.join(map(str, elements))

    forms = [joined(numbers), joined(turned), joined(turned, ","), rf"\{{{joined(turned)}\}}", joined(numbers, "; ")]
    forms += [f"x = {joined(numbers[:-1])} and {numbers[-1]}", rf"{joined(numbers[:-1])} \text{{ and }} {numbers[-1]}"]
    forms += [
        ", ".join(f"x = {number}" for number in numbers),
        ", ".join(f"x_{n} = {each}" for n, each in enumerate(numbers, 1)),
    ]
    wrong = [joined(numbers[:-1]), joined([*numbers, 77]), joined([*numbers[:-1], numbers[-1] + 1]), str(numbers[0])]
    wrong += [rf"\{{{joined([*numbers[:-1], 99])}\}}"]
    return _Draft("list", rng.choice([forms[0], forms[2], forms[3]]), tuple(forms), tuple(wrong))


def _expression(rng: random.Random) -> _Draft:
    a, b = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    forms: tuple[str, ...]
    wrong: tuple[str, ...]
    match rng.randrange(6):
        case 0:
            forms = (
                rf"{a}\sqrt{{{b}}}",
                rf"\sqrt{{{a * a * b}}}",
                rf"{a} \cdot \sqrt{{{b}}}",
                rf"\sqrt{{{b}}} \cdot {a}",
            )
            wrong = (
                rf"{a + 1}\sqrt{{{b}}}",
                rf"\sqrt{{{a * b}}}",
                str(a),
                rf"{a}\sqrt{{{b + 1}}}",
                rf"-{a}\sqrt{{{b}}}",
            )
        case 1:
            forms = (rf"{a}\pi", rf"{a} \pi", rf"\pi \cdot {a}", rf"\frac{{{2 * a}\pi}}{{2}}", rf"{a}\pi\text{{ cm}}")
            wrong = (str(a), rf"{a + 1}\pi", rf"\frac{{{a}\pi}}{{2}}", f"{a}.14", rf"{a}\pi^2", rf"{a}+\pi")
        case 2:
            forms = (f"{a}x+{b}", f"{b}+{a}x", f"{a}x + {b}", rf"{a} \cdot x + {b}")
            wrong = (f"{a}x-{b}", f"{a + 1}x+{b}", f"{a}x", f"{a}x^2+{b}", f"{a}y+{b}", str(b))
        case 3:
            forms = (f"{a}+{b}i", f"{b}i+{a}", f"{a} + {b}i", rf"{a}+{b}\mathrm{{i}}")
            wrong = (f"{a}-{b}i", f"{b + 20}+{b}i", str(a), f"{a}+{b + 1}i", f"{a + b}")
        case 4:
            forms = (f"({a}, {b})", f"({a},{b})", rf"\left({a}, {b}\right)", f"( {a}, {b} )")
            wrong = (f"[{a}, {b}]", f"({b + 10}, {a})", f"({a}, {b + 1})", f"({a}, {b}]", str(a), f"({a}, {b}, 0)")
        case _:
            forms = (f"x^{{{a}}}", f"x^{a}", rf"x^{{{a - 1}}} \cdot x")
            wrong = (f"x^{{{a + 1}}}", f"{a}x", str(a), f"x^{{-{a}}}", f"y^{a}")
    return _Draft("expression", rng.choice(forms[:2]), forms, wrong)


_WORDLESS = tuple(frame for frame in LABELS if "({m})" not in frame and "[{m}]" not in frame)
"""Frames without brackets, which would belong to a point or an interval."""


def _math(rng: random.Random, *, is_right: bool) -> Mutation:
    make: Callable[[random.Random], _Draft] = rng.choice(
        [_integer, _integer, _fraction, _decimal, _percent, _list, _expression]
    )
    draft = make(rng)
    labels = _WORDLESS if draft.kind in ("expression", "list") else LABELS
    frames = rng.choice([BOXES, labels, FORMULAS, HASHES])
    if rng.random() < 0.15 and draft.kind == "list" and is_right and "=" not in str(draft.expected):
        elements = [each.strip() for each in draft.right[0].split(",")]
        text = rng.choice([", ", " and ", "$, $"]).join(rf"\boxed{{{each}}}" for each in elements)
        return Mutation("list/boxes", f"The roots are ${text}$.", {"expected_answer": draft.expected}, 1.0)
    if rng.random() < 0.1 and draft.kind == "integer":
        value = str(abs(int(float(str(draft.expected).replace(",", ""))))) if is_right else "0"
        row = {"expected_answer": value if is_right else draft.expected}
        prose = rng.choice(
            ["So he has {} left.", "In total, that makes {}.", "3 + 4 gives\n\n**{}**", "Hence x = {}", "{}", "**{}**"]
        )
        return Mutation("integer/prose", prose.format(value), row, float(is_right))
    return _mutation(rng, draft, frames, ("987654", "3.25", r"1234321"), is_right=is_right)


WORDS = (
    "Lima",
    "Marie Curie",
    "the Baltic Sea",
    "photosynthesis",
    "Ångström",
    "O'Brien",
    "C++",
    "42",
    "1984",
    "blue-green",
)
OTHER_WORDS = ("Oslo", "Niels Bohr", "the Black Sea", "osmosis", "Newton", "McBride", "Java", "43", "1985", "red")


def _spelled(rng: random.Random, word: str) -> str:
    return rng.choice([word, word, word.upper(), word.lower(), word.replace(" ", "  "), f"**{word}**", f"_{word}_"])


def _exact_match(rng: random.Random, *, is_right: bool) -> Mutation:
    place = rng.randrange(len(WORDS))
    word, other = WORDS[place], OTHER_WORDS[place]
    wrong = (
        other,
        f"not {word}",
        f"{word} or {other}",
        f"New {word}",
        f"{word}{word[-1]}",
        f"{other}, {word}",
        word[:-1],
    )
    forms = tuple(_spelled(rng, word) for _ in range(4))
    expected: Any = rng.choice([word, word, [word], [other + " II", word], f"{word}."])
    frames = rng.choice(
        [LABELS, LABELS, BOXES, FORMULAS[:6], HASHES, ("{}", "{}.", "**{}**", '"{}"', "`{}`", "({})", "{}!")]
    )
    if frames in (BOXES, FORMULAS[:6]):
        forms = (word, word.upper(), rf"\text{{{word}}}", rf"\text{{ {word} }}", rf"\textbf{{{word}}}")
    if frames is HASHES and not word.isdigit():
        frames = LAST_HASHES  # text in such a line is a heading if more text follows
    if frames[0] == "{}":  # the reply is the answer; a context would be part of it
        value = rng.choice((word, word.lower()) if is_right else wrong)
        return Mutation("word/reply", rng.choice(frames).format(value), {"expected_answer": expected}, float(is_right))
    return _mutation(
        rng, _Draft("word", expected, forms, wrong), frames, ("Mombasa", "Ada Lovelace"), is_right=is_right
    )


OPTION_TEXTS = (
    "12 litres",
    "a red kite",
    "Both of them",
    "It depends",
    "24 litres",
    "Mercury",
    "a blue kite",
    "The third law",
    "Saturn",
    "Iron",
    "Gold",
    "Neon",
)


def _mcqa(rng: random.Random, *, is_right: bool) -> Mutation:
    letters = "ABCDEFGHIJKL"[: rng.choice([4, 4, 5, 10, 12])]
    texts = rng.sample(OPTION_TEXTS, len(letters))
    options = dict(zip(letters, texts, strict=True))
    gold = rng.choice(letters)
    other = rng.choice([each for each in letters if each != gold])
    row: dict[str, Any] = rng.choice(
        [
            {"options": options},
            {"choices": texts},
            {"options": [{letter: text} for letter, text in options.items()]},
            {"choices": {"text": texts, "label": list(letters)}},
        ]
    )
    # without options in the row, only A to J are letters of choices
    if letters[-1] <= "J" and rng.random() < 0.3:
        row = {}

    def forms(letter: str) -> tuple[str, ...]:
        text = options[letter]
        plain = (
            letter,
            f"({letter})",
            f"{letter})",
            f"[{letter}]",
            f"{letter}.",
            f"**{letter}**",
            f"option {letter}",
            f"Option ({letter})",
        )
        return (
            *plain,
            f"{letter}. {text}",
            f"{letter}) {text}",
            f"({letter}) {text}",
            f"{letter}: {text}",
            *((text,) if row else ()),
        )

    draft = _Draft(
        "letter",
        rng.choice([gold, gold.lower(), f"({gold})"]),
        forms(gold),
        (*forms(other), *forms(other), f"{gold} and {other}", f"{gold} or {other}", f"{gold}, {other}"),
        row,
    )
    frames = rng.choice([LABELS, LABELS, BOXES, FORMULAS[:6], LETTER_FRAMES])
    if frames in (BOXES, FORMULAS[:6]):

        def formula(letter: str) -> tuple[str, ...]:
            return (
                letter,
                f"({letter})",
                rf"\text{{{letter}}}",
                rf"\text{{({letter})}}",
                rf"\mathbf{{{letter}}}",
                rf"\mathrm{{{letter}}}",
            )

        draft = _Draft("letter", draft.expected, formula(gold), formula(other), row)
    elif frames is LETTER_FRAMES:
        draft = _Draft("letter", draft.expected, (gold,), (other,), row)
    else:  # brackets within brackets, and quotes around letter and text, are not written
        frames = tuple(
            frame
            for frame in frames
            if "({m})" not in frame and "[{m}]" not in frame and '"' not in frame and "“" not in frame
        )
    if rng.random() < 0.1 and not is_right:
        hedge = rng.choice(
            [
                "I don't know.",
                "I cannot say.",
                "A bicycle would do better.",
                "Answer: I am not sure",
                "The answer is a matter of taste.",
                "**Answer:** I don't know",
                "Answer: A guess would not help.",
            ]
        )
        return Mutation("letter/hedge", hedge, {"expected_answer": rng.choice(["I", "A"]), **row}, 0.0)
    return _mutation(
        rng, draft, frames, (other if is_right else gold, f"({other if is_right else gold})"), is_right=is_right
    )


LETTER_FRAMES = (
    "The correct option is {}.",
    "The correct choice is ({}).",
    "The best answer is {}, since the others fail.",
    "The answer is {} because I checked the others.",
    "The answer is option {}.",
    "**The correct answer is {}.**",
    "The others fail.\n\n{}",
    "The others fail.\n\n**{}**",
    "The others fail.\n\n({})",
    "{}",
    "**{}**",
    "({})",
    "Answer: {} - it is the largest",
    "Answer: {}\n\nExplanation: the others are too small.",
    "The correct answer is:\n\n**{}**",
    "Correct answer: {}",
)


def _judge(rng: random.Random, *, is_right: bool) -> Mutation:
    good = ("CORRECT", "correct", "Correct", "yes", "TRUE", "right", "1", "1.0", "not wrong", "not incorrect")
    bad = ("INCORRECT", "incorrect", "Incorrect", "no", "FALSE", "wrong", "0", "0.0", "NOT CORRECT", "not right")
    unclear = (
        "CORRECT/INCORRECT",
        "CORRECT or INCORRECT",
        "PARTIALLY CORRECT",
        "unclear",
        "10/10",
        "hard to say",
        "no idea",
        "mostly",
        "85%",
        "UNDECIDED",
        "",
    )
    frames = (
        "VERDICT: {}",
        "verdict: {}.",
        "**VERDICT:** {}",
        "**VERDICT: {}**",
        "**Verdict**: **{}**",
        "VERDICT: [{}]",
        r"VERDICT: \boxed{{{}}}",
        r"VERDICT: \boxed{{\text{{{}}}}}",
        'VERDICT: "{}"',
        "VERDICT: `{}`",
        "VERDICT：{}",
        "VERDICT:\u200b{}",
        "FINAL VERDICT: {}!",
        "### Verdict\n{}",
        "### Verdict: {}",
        "VERDICT - {}",
        "VERDICT = {}",
        "The verdict is {}.",
        "> VERDICT: {}",
        "VERDICT: ({})",
        "VERDICT: ${}$",
    )
    kinds: list[tuple[str, float | str, tuple[str, ...]]] = [
        ("incorrect", 0.0, bad),
        ("incorrect", 0.0, bad),
        ("unclear", UNREADABLE, unclear),
    ]
    kind, grade, words = ("correct", 1.0, good) if is_right else rng.choice(kinds)
    word = rng.choice(words)
    stated = rng.choice(frames if word else ("VERDICT: {}", "**VERDICT:** {}")).format(word)
    before = rng.choice(
        [
            "",
            "",
            "The sum is 7, as in the reference.\n\n",
            f"VERDICT: {rng.choice(bad if is_right else good)}\n\nWait, I misread that.\n\n",
            "I am asked for VERDICT: CORRECT or VERDICT: INCORRECT.\n\n",
        ]
    )
    after = (
        rng.choice(["", "", "\n", "\n\nThat verdict, no question, is final.", " because both signs were checked"])
        if word and "\n" not in stated
        else ""
    )
    if grade != UNREADABLE and rng.random() < 0.15:
        value = (
            {"verdict": rng.choice((good if is_right else bad)[:3])} if rng.random() < 0.5 else {"correct": is_right}
        )
        text = json.dumps({"reasoning": "Both are 7.", **value})
        return Mutation(
            "json",
            rng.choice([text, f"```json\n{text}\n```", f"<think>hm</think>{text}"]),
            {"expected_answer": "7"},
            grade,
        )
    return Mutation(kind, before + stated + after, {"expected_answer": "7"}, grade)


SCHEMA = {
    "type": "object",
    "required": ["title", "count"],
    "properties": {
        "title": {"type": "string"},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "additionalProperties": False,
}


def _json_schema(rng: random.Random, *, is_right: bool) -> Mutation:
    title = rng.choice(["a", "put it between ```json and ```", 'say "hi"', "{", "~~~", "ä\\n", "NaN"])
    good = {"title": title, "count": rng.randint(-5, 10**20), "tags": ["x"] * rng.randint(0, 3)}
    bad = rng.choice(
        [
            {**good, "count": "3"},
            {"title": "a"},
            {**good, "more": 1},
            {**good, "count": 1.5},
            {**good, "tags": [1]},
            [good],
            {**good, "count": None},
        ]
    )
    text = json.dumps(good if is_right else bad, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
    frames = (
        "{}",
        "\ufeff{}",
        "  {}\n",
        "```json\n{}\n```",
        "```\n{}\n```",
        "~~~json\n{}\n~~~",
        "```JSON {} ```",
        "````json\n{}\n````",
        "Here it is:\n\n```json\n{}\n```\n\nRun:\n```bash\nmake\n```",
        "```json\r\n{}\r\n```",
        "<think>{{}}</think>\n{}",
        "Here:\n```\n{}\n```\nDone.",
    )
    if is_right or rng.random() < 0.6:
        return Mutation(
            "valid" if is_right else "invalid",
            rng.choice(frames).format(text),
            {"schema": rng.choice([SCHEMA, json.dumps(SCHEMA)])},
            float(is_right),
        )
    good_text = json.dumps(good)
    broken = rng.choice(
        [
            good_text[:-1],
            f"Sure: {good_text}",
            good_text.replace('"title":', '"title"'),
            f"<think>{good_text}",
            '{"title": "a", "count": NaN}',
            f"{good_text} {good_text}",
            good_text.replace('"', "'"),
            "",
            f"```json\n{good_text[:-1]}\n```",
        ]
    )
    return Mutation("broken", broken, {"schema": SCHEMA}, 0.0)


def _regex(rng: random.Random, *, is_right: bool) -> Mutation:
    options = {"pattern": r"(?i)result\s*[:=]\s*(?P<answer>[^\s;]+)", "answer_field": "gold"}
    word, other = rng.choice([("x7", "x8"), ("42", "43"), ("Lima", "Oslo"), ("a-b", "b-a")])
    value = (
        rng.choice([word, word.upper(), f"**{word}**", f'"{word}"', f"{word}.", f"`{word}`", f"({word})"])
        if is_right
        else other
    )
    before = rng.choice(["", f"result: {other if is_right else word}; no. ", "It took a while. "])
    gold: Any = rng.choice([word, [word], ["zz", word]])
    return Mutation(
        "match",
        f"{before}{rng.choice(['Result: ', 'result=', 'RESULT =  '])}{value}",
        {"gold": gold},
        float(is_right),
        options,
    )


_GENERATORS: dict[str, Callable[..., Mutation]] = {
    "math": _math,
    "mcqa": _mcqa,
    "exact_match": _exact_match,
    "judge": _judge,
    "json_schema": _json_schema,
    "regex": _regex,
}
VERIFIERS = tuple(_GENERATORS)
