"""The architecture: layers, import order, and where names are defined."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "ng_rollouts"
CORE = (
    "_version errors types jsonl chat chat_items reasoning templates seeds unescape known_secrets redaction streams console "
    "threads user_code"
).split()
LAYERS = [
    *"core config storage http metrics health scheduling inputs outputs models workers verifiers".split(),
    *"agents executors control export report integrations run rescoring cli api".split(),
]
"""From top to bottom: a package imports only from packages before it."""

ALLOWED = {name: {"core"} for name in ("config", "storage", "http", "metrics")} | {
    name: {"core", "metrics"} for name in ("health", "scheduling")
}
"""Packages that import from fewer packages than those before them."""

MAX_MODULES = 16
"""Files in a package, `__init__.py` included."""


def imported_by(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ng_rollouts"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ng_rollouts"):
            names = {alias.name for alias in node.names}
            yield from (
                (f"ng_rollouts.{name}" for name in names) if node.module == "ng_rollouts" else [node.module or ""]
            )


def layer_of(module: str) -> str:
    """The layer of a module: its package, or else `core` or `api`."""
    name = module.split(".")[1] if "." in module else "_version"
    return "core" if name in CORE else name


def module_name(path: Path) -> str:
    """The dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_packages_import_only_from_the_layers_above_them() -> None:
    """A package imports only from the packages before it in `LAYERS`, and some only from those in `ALLOWED`."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):  # the public names, and `python -m`
            continue
        own = layer_of(f"ng_rollouts.{parts[0]}")
        allowed = ALLOWED.get(own, set(LAYERS[: LAYERS.index(own)])) | {own}
        wrong += [f"{'/'.join(parts)} imports {each}" for each in imported_by(path) if layer_of(each) not in allowed]
    assert wrong == []


def test_top_level_has_core_modules_and_packages_of_limited_size() -> None:
    """The top level has the core modules and one package for each layer, and no package has more than 16 files."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == {*CORE, "api", "__init__", "__main__"}
    packages = {path.parent.name: len(list(path.parent.glob("*.py"))) for path in PACKAGE.glob("*/__init__.py")}
    assert set(packages) == set(LAYERS) - {"core", "api"}
    assert max(packages.values()) <= MAX_MODULES


def test_only_the_collect_command_imports_hydra() -> None:
    """Only cli/collect.py imports Hydra; all other modules work on dataclasses."""
    importing = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"\b(import|from) hydra\b", path.read_text())}
    assert importing == {"collect.py"}


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    """No import cycle exists between modules at import time."""
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    imports = {
        name: set(imported_on_import(ast.parse(path.read_text()).body, paths)) & paths.keys()
        for name, path in paths.items()
    }
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a cycle


def test_every_class_name_is_defined_once() -> None:
    """Every class name without a leading underscore is defined in one place of the package."""
    places = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{module_name(path)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def imported_on_import(statements: Iterable[ast.AST], modules: Iterable[str]) -> Iterator[str]:
    """The modules that statements import when their module is imported: not in functions, not for type checkers only."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"  # a module of a package, or else a name in a module
                yield full_name if full_name in modules else node.module or ""
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imported_on_import(node.orelse, modules)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imported_on_import(ast.iter_child_nodes(node), modules)
