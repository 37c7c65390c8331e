"""The text of `--help` of every command, made from the fields of its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import Field, is_dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, get_type_hints

from ng_rollouts.config.fields import Spec, default_of, parameter_fields
from ng_rollouts.config.parameters import SECTIONS

_USAGE = """\
Collect LLM rollouts: run every task of a JSONL file num_repeats times and write the results in order.

usage: ng_collect_rollouts +key=value ... [-m] [--cfg job] [--config-dir FOLDER] [--version]

  ng_collect_rollouts +agent_name=my_agent \\
      +input_jsonl_fpath=tasks.jsonl +output_jsonl_fpath=rollouts.jsonl \\
      +num_repeats=4 +num_samples_in_parallel=32 +responses_create_params.temperature=0.7

key=value, +key=value and ++key=value mean the same. To try it without a server: +agent_name=example_math_agent.
"""

_FLAGS = """\
Flags
  -m                    run once for each combination of comma-separated values
  --cfg job             print the configuration and exit
  --config-dir FOLDER   folder with your own config groups
  -sc install=bash      print the shell completion: eval "$(ng_collect_rollouts -sc install=bash)"
  --hydra-help          further options of Hydra

Exit codes
  0    all rollouts collected, or no more failed than max_failed_rollouts allows, or max_total_tokens is spent
  1    more rollouts failed than allowed, or upload_to failed
  2    wrong command, configuration or input; nothing was sent
  3    stopped early, because continuing was pointless
  4    unexpected error of this program
  5    below min_mean or min_coverage
  129  interrupted by SIGHUP (the terminal closed); 130 by SIGINT (Ctrl-C), 140 by SIGUSR2, 143 by SIGTERM
"""


def collect_help(conf: Path) -> str:
    """The help of `ng_collect_rollouts`: every parameter by section, then the config groups in a folder."""
    sections = [f"{section.__doc__}\n{_format(_parameters(section))}" for section in SECTIONS]
    groups = "Config groups\n" + _format(_groups(conf))
    return "\n".join([_USAGE, *sections, groups, _FLAGS])


def command_help(name: str, config: type, example: str) -> str:
    """The help of a command with a flat configuration: its docstring, usage and an example, then each parameter.

    Args:
        example: arguments of the example.
    """
    required = [f"+{field.name}=..." for field, spec in parameter_fields(config) if spec.required]
    usage = " ".join([f"usage: {name}", *required, "[+key=value ...]"])
    head = f"{(config.__doc__ or '').strip()}\n\n{usage}\n\n  {name} {example}"
    return f"{head}\n\n{_format(_parameters(config))}"


def parameters_of(section: type, prefix: str = "") -> Iterator[tuple[str, Field[Any], Spec, str]]:
    """Name, field, spec and type of each parameter of a section, including those of nested configurations."""
    hints = get_type_hints(section)
    specs = {field.name: spec for field, spec in parameter_fields(section)}
    for field in fields_of(section):
        hint = hints[field.name]
        if spec := specs.get(field.name):
            yield f"{prefix}{field.name}", field, spec, _type(spec, hint)
        elif is_dataclass(hint) and isinstance(hint, type) and field.name in section.__annotations__:
            yield from parameters_of(hint, f"{prefix}{field.name}.")


def default_text(field: Field[Any], spec: Spec) -> str:
    """A default as it is written on the command line, such as `null` or `true`; `required` if there is none."""
    default = default_of(field)
    if spec.required:
        return "required"
    return {"None": "null", "True": "true", "False": "false"}.get(str(default), str(default))


def _parameters(section: type) -> Iterator[tuple[str, str]]:
    for name, field, spec, kind in parameters_of(section):
        default = default_text(field, spec)
        yield name, f"{spec.help} [{kind}{f', {default}' if default not in ('', '{}') else ''}]"


def _groups(conf: Path) -> Iterator[tuple[str, str]]:
    for folder in sorted(path for path in conf.iterdir() if path.is_dir()):
        for file in sorted(folder.glob("*.yaml")):
            comments = [line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
            # The description is the first comment that is not Hydra's package directive.
            yield f"{folder.name}={file.stem}", next(line for line in comments if not line.startswith("@package"))


def _format(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"  +{name}\n      {text}\n" for name, text in pairs)


def _type(spec: Spec, hint: Any) -> str:
    if spec.kind:
        return spec.kind
    if spec.choices:
        return "|".join(spec.choices)
    names = {str: "str", int: "int", float: "float", bool: "bool"}
    matching = [name for kind, name in names.items() if kind is hint or kind in getattr(hint, "__args__", ())]
    return matching[0] if matching and "dict" not in str(hint) else "dict"
