"""Extraction of the answer from a model's text."""

from __future__ import annotations

import time

import pytest

from ng_rollouts.verifiers.answer_extraction import final_answer, last_statement, output_text
from ng_rollouts.verifiers.choices import answer_letter
from tests.verifiers.conftest import response_with


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{3} no, \boxed{\text{Paris}}", "Paris"),
        ("Final answer: 15.", "15"),
        ("### Final Answer:\n\n**Mason is it**.", "Mason is it"),
        ("I think the answer is **42**", "42"),
        ("Answer: B", "B"),
        ("To answer the question, I would need more", "To answer the question, I would need more"),
        ("Pacific Ocean", "Pacific Ocean"),
        (r"\boxed{unclosed", ""),
        (r"\boxed{7} and then \boxed{", ""),
        ("The final answer is 42. I hope it is correct.", "42"),
        ("The final answer is 4.2.", "4.2"),
    ],
)
def test_final_answer_is_boxed_or_stated_or_the_whole_text(text: str, answer: str) -> None:
    """The final answer is the last statement, readable or not, else the whole text."""
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{(c)}", "C"),
        (r"\boxed{\text{B}}", "B"),
        ("\\boxed{\nC: a whole sentence\n}", "C"),
        (r"A is wrong. \boxed{B}", "B"),
        ("The answer is (D).", "D"),
        ("Answer: **E**", "E"),
        ("F", "F"),
        ("The answer is An apple", None),
        ("The answer is a bit unclear.", None),
        ("Answer: B\n\nI considered answer a too", "B"),
        (r"\boxed {D}", "D"),
        ("I cannot say", None),
    ],
)
def test_answer_letter_is_a_letter_on_its_own(text: str, letter: str | None) -> None:
    """A letter is chosen if it is stated alone or before its option's text, not if it begins a sentence."""
    assert answer_letter(text) == letter


def test_reasoning_is_not_part_of_the_answer() -> None:
    """Text before `</think>` and the items of type `reasoning` are not part of the answer."""
    assert output_text(response_with("<think>\\boxed{1}</think>\\boxed{2}")) == "\\boxed{2}"
    assert last_statement(output_text({"output": [{"type": "reasoning", "summary": [{"text": "\\boxed{1}"}]}]})) is None


@pytest.mark.parametrize(
    "text",
    ["The answer" + " " * 100_000, "answer is " * 20_000, r"\boxed{" + r"\text{" * 20_000, "*" * 100_000],
    ids=["white space", "repeated phrase", "nested commands", "markup"],
)
def test_extraction_time_is_bounded_for_degenerate_text(text: str) -> None:
    """Extraction does not take quadratic time: it runs in the event loop, and models can write degenerate text."""
    began = time.process_time()
    answer_letter(text)
    final_answer(text)
    assert time.process_time() - began < 20


def test_list_of_options_after_a_statement_is_not_a_choice() -> None:
    """A last line that repeats an option is a choice, unless the line before is an option as well."""
    options = {"A": "Paris", "B": "Madrid", "C": "Rome", "D": "Berlin"}
    explained = "The answer is B.\n\nExplanation:\nA. Paris is in France.\nC. Rome\nD. Berlin"
    assert answer_letter(explained, options) == "B"
    assert answer_letter("It is in Spain.\n\nB) Madrid", options) == "B"
