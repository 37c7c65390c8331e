"""The documentation: its commands run, its links and tables are correct, its language is plain."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.config.parameters import SECTIONS
from ng_rollouts.errors import FailureClass
from tests.conftest import ROOT, SCRIPTS, needs
from tests.servers import Served

PACKAGE = ROOT / "src" / "ng_rollouts"
DOCS = ROOT / "docs"
MODEL_SERVER = "http://127.0.0.1:8000/v1"
"""The address of a model server in the documentation."""

# Many readers are not native speakers of English. Each of these words is an idiom, a metaphor or a private term that has
# a plainer standard term: `told` -> `reported`, `heed` -> `respect`, `goes on` -> `continues`, `is no file` -> `is not a
# file`, `of its own` -> `its own`. Identifiers count too, so an underscore ends a word here.
BANNED_WORDS = re.compile(
    (
        r"(?<![a-z])("
        r"told|met|heed|heeds|heeded|heeding|held against|hold against|handed on|hand on|nobody|whoever|whatever|"
        r"goes on|go on|going on|owed|owes|(is|are) no (?!longer\b)\w+|of (its|their|your) own|"
        r"book|rehearsal|rehearse|tally|moments|so many|so long"
        r")(?![a-z])"
    ).replace(" ", r"[\s#]+"),  # a phrase may continue on the next line, also of a comment
    re.IGNORECASE,
)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks_of(path: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def shell_blocks() -> Iterator[tuple[str, str, str]]:
    """The shell blocks of the documentation, each with a name and the output that the page shows for it."""
    for path in documents():
        blocks = [*blocks_of(path), ("", "")]
        shells = [number for number, (language, _) in enumerate(blocks) if language == "bash"]
        for number, at in enumerate(shells):
            next_language, next_text = blocks[at + 1]
            yield f"{path.name}-{number}", blocks[at][1], next_text if next_language == "text" else ""


def with_tools(name: str, block: str, shown: str) -> Any:
    """A shell block as a parameter of a test, which is skipped without the programs that it runs."""
    scripts = [(ROOT / script).read_text() for script in re.findall(r"examples/\w+\.sh", block)]
    programs = set(re.findall(r"\b(?:jq|shuf|bc)\b", "\n".join([block, *scripts])))
    return pytest.param(block, shown, id=name, marks=needs(*sorted(programs)))


def comparable(line: str) -> str:
    """A line of output without what differs from run to run, or between versions of jq: 1 or 1.0."""
    return re.sub(r"\b(\d+)\.0\b", r"\1", re.sub(r", in [\d.]+ s$", ", in 1 s", line))


@pytest.mark.parametrize(("block", "shown"), [with_tools(*each) for each in shell_blocks()])
def test_shell_blocks_run(block: str, shown: str, tmp_path: Path, serve_model: Callable[..., Served]) -> None:
    """Every shell block of the documentation runs, in a folder with the examples and with a model server.

    A text block after it is its output. `...` stands for lines that are left out. A terminal has a progress bar as well.
    """
    if "scripts/" in block:
        pytest.skip("these set up the environment that runs this test")
    if MODEL_SERVER in block:
        options = {"text": "VERDICT: CORRECT"} if "+verifier=judge" in block else {}
        block = block.replace(MODEL_SERVER, f"{serve_model(**options).url}/v1")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    env = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = {comparable(line) for line in (done.stdout + done.stderr).splitlines()}
    left_out = re.compile(r"\.\.\.$|.*it/s, ")
    assert [line for line in shown.splitlines() if comparable(line) not in printed and not left_out.match(line)] == []


def python_programs() -> Iterator[Any]:
    """The Python blocks of each page of the documentation that has any, in their order."""
    for path in documents():
        if blocks := re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
            yield pytest.param(blocks, id=path.name)


@pytest.mark.parametrize("blocks", list(python_programs()))
def test_python_programs_run(blocks: list[str], tmp_path: Path) -> None:
    """Every Python program of a page runs as it stands, after those before it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in blocks:
        command = [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr


def test_relative_links_lead_to_files() -> None:
    """Every relative link of the documentation names an existing file."""
    for path in documents():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_parameter_is_in_the_parameters_page() -> None:
    """docs/parameters.md has every parameter of the command."""
    text = (DOCS / "parameters.md").read_text()
    for section in SECTIONS:
        for field in fields(section):
            if field.name in section.__annotations__:
                assert f"`{field.name}" in text, field.name


def test_generated_parts_are_up_to_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`scripts/generate --check` finds no generated table or keyword that differs from the code."""
    script = str(ROOT / "scripts" / "generate")
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().out


def test_failure_classes_in_docs_are_the_enum() -> None:
    """The generated table of docs/output.md has exactly the failure classes, and says which of them are retried."""
    page = (DOCS / "output.md").read_text()
    [table] = re.findall(r"<!-- generated: failure classes -->\n(.*?)<!-- end generated -->", page, re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.MULTILINE)
    assert rows == [(each.value, "yes" if each.is_retryable else "no") for each in FailureClass]


def test_readme_lists_every_console_script() -> None:
    """README.md names every console script of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    assert [name for name in project["scripts"] if f"`{name}`" not in readme] == []


def test_troubleshooting_quotes_messages_of_the_program() -> None:
    """The fixed parts of every message in the first column of docs/troubleshooting.md are in the code of the program."""
    program = [text for _, tree in modules() for text in strings_of(tree)]
    quotes = [
        quote
        for line in (DOCS / "troubleshooting.md").read_text().splitlines()
        if line.startswith("| ")
        for quote in re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", line)[1])
    ]
    assert len(quotes) > 20
    for quote in quotes:
        # `…` stands for a value, which may be in quotes. The program joins parts of a message with `, ` and `: `.
        for part in re.split(r"'?…'?|, |: ", quote):
            assert any(part in text for text in program), f"{part!r} of {quote!r} is not a message of the program"


def test_language_is_plain() -> None:
    """No banned word is in the program or the documentation, and no docstring is a clause such as "What it does"."""
    sources = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".py", ".html", ".css", ".js")]
    banned = [
        f"{path.relative_to(ROOT)}:{path.read_text().count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
        for path in [*sources, *documents()]
        for match in BANNED_WORDS.finditer(path.read_text())
    ]
    assert banned == []
    clauses = [f"{path.relative_to(ROOT)}: {text}" for path, tree in modules() for text in clause_docstrings(tree)]
    assert clauses == []


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """The modules of the package, parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def strings_of(tree: ast.Module) -> Iterator[str]:
    """The strings of a module, and the fixed parts of its f-strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def clause_docstrings(tree: ast.Module) -> Iterator[str]:
    """The docstrings that begin with What, Who or Whether, except with Whether in a function that returns a bool."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node) or ""
            allowed = "What|Who" if returns_bool(node) else "What|Who|Whether"
            if re.match(rf"({allowed})\b", docstring):
                yield docstring.partition("\n")[0]


def returns_bool(node: ast.AST) -> bool:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.returns is None:
        return False
    returns = ast.unparse(node.returns)
    return returns == "bool" or returns.startswith(("TypeGuard[", "TypeIs["))
