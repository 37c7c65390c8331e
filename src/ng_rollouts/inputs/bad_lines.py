"""The message about lines of the input that are not tasks."""

from __future__ import annotations

from itertools import islice

_MAX_REASONS = 50
"""Number of different reasons in a message. Of further lines, only the numbers are listed."""


def bad_lines_message(name: str, bad: list[tuple[int, str]]) -> list[str]:
    """A message about bad lines, given as (line number, reason), and a line of text for each reason."""
    by_reason: dict[str, list[int]] = {}
    for number, reason in bad:
        by_reason.setdefault(reason, []).append(number)
    listed = [f"  {_lines_label(numbers)}: {reason}" for reason, numbers in islice(by_reason.items(), _MAX_REASONS)]
    rest = [number for numbers in islice(by_reason.values(), _MAX_REASONS, None) for number in numbers]
    if rest:
        listed.append(f"  and {len(rest)} more, for other reasons: {_lines_label(sorted(rest))}")
    count = "1 bad line" if len(bad) == 1 else f"{len(bad)} bad lines"
    return [f"input_jsonl_fpath {name} has {count}, so nothing was sent:", *listed]


def _lines_label(numbers: list[int]) -> str:
    """For example `lines 1-70, 72`."""
    return f"line{'s' if len(numbers) > 1 else ''} {_ranges(numbers)}"


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
