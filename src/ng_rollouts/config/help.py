"""The text of `--help`, made from the config's own documentation."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from ng_rollouts.config import parameters as config_module
from ng_rollouts.config.parameters import SECTIONS

_USAGE = """\
Collect LLM rollouts: every task of a JSONL file, answered num_repeats times, written in order.

usage: ng_collect_rollouts +key=value ... [-m] [--cfg job] [--config-dir FOLDER] [--version]

  ng_collect_rollouts +agent_name=my_agent \\
      +input_jsonl_fpath=tasks.jsonl +output_jsonl_fpath=rollouts.jsonl \\
      +num_repeats=4 +num_samples_in_parallel=32 +responses_create_params.temperature=0.7

key=value, +key=value and ++key=value mean the same. Without servers: +agent_name=example_math_agent.
"""

_FLAGS = """\
Flags
  -m                    run once for each combination of comma-separated values
  --cfg job             print the config and do nothing
  --config-dir FOLDER   a folder with config groups of your own
  -sc install=bash      print the shell completion: eval "$(ng_collect_rollouts -sc install=bash)"
  --hydra-help          what else Hydra offers

Exit codes
  0 all collected   1 some rollouts failed, or upload_to did   2 the command, config or input is wrong; nothing was sent
  3 stopped early: going on was pointless   4 an error of this program   5 below min_mean or min_coverage
  130, 143 interrupted
"""


def help_text(conf: Path) -> str:
    """Every parameter with type, default and its line, by section; then the config groups under `conf`."""
    sections = [f"{section.__doc__}\n{_lines(_parameters(section))}" for section in SECTIONS]
    groups = "Config groups\n" + _lines(_groups(conf))
    return "\n".join([_USAGE, *sections, groups, _FLAGS])


def documented(section: type) -> dict[str, str]:
    """The docstring under each field of a dataclass that `config.py` defines, by name."""
    tree = ast.parse(inspect.getsource(config_module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == section.__name__)
    docs = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            docs[node.target.id] = str(ast.literal_eval(after.value))
    return docs


def _parameters(section: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    docs = documented(section)
    hints = get_type_hints(section)
    own = inspect.get_annotations(section)
    for field in fields(section):
        kind = hints[field.name]
        if field.name not in own:
            continue
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _parameters(kind, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", f"{docs[field.name]} [{_kind(field, kind)}{_default(field)}]"


def _groups(conf: Path) -> Iterator[tuple[str, str]]:
    for folder in sorted(path for path in conf.iterdir() if path.is_dir()):
        for file in sorted(folder.glob("*.yaml")):
            comments = [line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
            yield f"{folder.name}={file.stem}", next(line for line in comments if not line.startswith("@package"))


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"  +{name}\n      {text}\n" for name, text in pairs)


def _kind(field: Field[Any], hint: Any) -> str:
    if "type" in field.metadata:
        return str(field.metadata["type"])
    names = {str: "str", int: "int", float: "float", bool: "bool"}
    kinds = [name for kind, name in names.items() if kind is hint or kind in getattr(hint, "__args__", ())]
    return kinds[0] if kinds and "dict" not in str(hint) else "dict"


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return ""
    text = {"None": "null", "True": "true", "False": "false"}.get(str(field.default), str(field.default))
    return f", {text}" if text else ""
