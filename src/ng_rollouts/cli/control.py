"""`ng_control_rollouts`: ask a run for its state, and change it while it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, get_type_hints

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.console import print_json, print_result, prints_only_json
from ng_rollouts.control.client import send_command
from ng_rollouts.control.commands import FORMS, parse_command
from ng_rollouts.outputs.paths import output_paths

_EXAMPLE = "rollouts.jsonl set num_samples_in_parallel=64"


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """Ask a run for its state, and change it while it runs: OUTPUT COMMAND."""

    output_jsonl_fpath: str = param(REQUIRED, "Output of the run; the first word without a name.")
    command: str = param(REQUIRED, f"Command, the other words: {', '.join(FORMS.values())}.")
    json: bool = param(False, "Print the reply of the run as JSON.")
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)


def main() -> NoReturn:
    """Run `ng_control_rollouts`."""
    sys.argv[1:] = as_parameters(sys.argv[1:])
    run_command("ng_control_rollouts", ControlConfig, run, example=_EXAMPLE)


def as_parameters(words: Sequence[str]) -> list[str]:
    """The parameters that output and command stand for, which are typed as words, and the other parameters."""
    parameters = [word for word in words if _is_parameter(word)]
    others = iter([word for word in words if not _is_parameter(word)])
    has_output = any(word.lstrip("+").startswith("output_jsonl_fpath=") for word in parameters)
    return [*parameters, *_parameters_of(others, has_output=has_output)]


def run(config: ControlConfig) -> int:
    """Send the command, print the reply, and return the exit code.

    Raises:
        ConfigError: the words are not a command.
        InputError: no run answers.
        UsageError: the run refuses the command.
    """
    command = parse_command(config.command)
    reply = send_command(output_paths(config.output_jsonl_fpath).control_socket, command.text)
    if config.json and not prints_only_json():
        print_json(reply)
    else:
        for line in str(reply["text"]).splitlines():
            print_result(line)
        if prints_only_json():
            print_json(reply)
    return 0


def _parameters_of(words: Iterator[str], *, has_output: bool) -> Iterator[str]:
    if not has_output and (output := next(words, None)) is not None:
        yield f"+output_jsonl_fpath={output}"
    if command := " ".join(words):
        yield f"+command={command}"


def _is_parameter(word: str) -> bool:
    """True for a word outside the command: an option, or a parameter of this program."""
    return word.startswith("-") or word.lstrip("+").partition("=")[0] in get_type_hints(ControlConfig)


if __name__ == "__main__":
    sys.exit(main())
