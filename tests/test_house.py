"""The house itself: floors, the wheel, the documents."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest

from ng_rollouts._version import __version__
from ng_rollouts.config.help import documented
from ng_rollouts.config.parameters import SECTIONS, HeadServer

from .conftest import ROOT, SCRIPTS, Ran, Served, keys_of

PACKAGE = ROOT / "src" / "ng_rollouts"
CORE = "_version errors types jsonl chat templates seeds redaction console threads user_code".split()
LAYERS = [
    *"core config storage http metrics scheduling inputs outputs models verifiers agents executors".split(),
    *"export report integrations run cli api".split(),
]
"""From top to bottom: a package imports only from packages before it."""

ALLOWED = {name: {"core"} for name in ("config", "storage", "http", "metrics")} | {"scheduling": {"core", "metrics"}}
"""Packages that are held to less than what lies before them."""


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ng_rollouts"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ng_rollouts"):
            names = {alias.name for alias in node.names}
            yield from (
                (f"ng_rollouts.{name}" for name in names) if node.module == "ng_rollouts" else [node.module or ""]
            )


def layer(module: str) -> str:
    """The layer of a module: its package, `core` for a top-level module, `api`."""
    name = module.split(".")[1] if "." in module else "_version"
    return "core" if name in CORE else name


def test_packages_import_only_from_the_layers_above_them() -> None:
    """In the order of LAYERS; some packages, from still fewer."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):  # the face of the package, and `python -m`
            continue
        own = layer(f"ng_rollouts.{parts[0]}")
        allowed = ALLOWED.get(own, set(LAYERS[: LAYERS.index(own)])) | {own}
        wrong += [f"{'/'.join(parts)} imports {each}" for each in imports(path) if layer(each) not in allowed]
    assert wrong == []


def test_top_level_holds_core_modules_and_packages_of_at_most_sixteen_files() -> None:
    """What `ls` shows is the architecture."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == {*CORE, "api", "__init__", "__main__"}
    packages = {path.parent.name: len(list(path.parent.glob("*.py"))) for path in PACKAGE.glob("*/__init__.py")}
    assert set(packages) == set(LAYERS) - {"core", "api"}
    assert max(packages.values()) <= 16


def test_only_the_command_knows_hydra() -> None:
    """Below it there are dataclasses."""
    knowing = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"\b(import|from) hydra\b", path.read_text())}
    assert knowing == {"collect.py"}


def test_every_parameter_is_documented_once() -> None:
    """Under its field."""
    for section in (*SECTIONS, HeadServer):
        own = [field.name for field in fields(section) if field.name in section.__annotations__]
        assert list(documented(section)) == own


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_what_is_published_is_whole(wheel: Path, tmp_path: Path) -> None:
    """The index would take both archives, and the wheel has what is no Python."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), *map(str, tmp_path.glob("*.tar.gz"))]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("ng_rollouts/") for name in archive.namelist()}
    assert {"py.typed", "report/page.html", "report/page.css", "report/page.js", "conf/config.yaml"} <= names


def test_the_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """Installed into a fresh environment, away from the source tree: groups are found, the main job runs."""
    venv.create(tmp_path / "env", with_pip=True)
    pip: list[str | Path] = [
        tmp_path / "env" / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        wheel,
    ]
    subprocess.run(pip, check=True, capture_output=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    row = {"responses_create_params": {"input": "What is 2 + 3?"}}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row) + "\n")
    arguments = [
        "+agent_name=example_tool_agent",
        "+sampling=dpo",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
    ]
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "ng_collect_rollouts", *arguments],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(0, 0), (0, 1), (0, 2)]


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_blocks() -> Iterator[tuple[str, str]]:
    """The shell blocks of the documents, with a name each."""
    for path in documents():
        for number, block in enumerate(re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)):
            yield f"{path.name}-{number}", block


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, block in shell_blocks()])
def test_commands_of_the_documents_run(block: str, tmp_path: Path, serve_model: Callable[..., Served]) -> None:
    """Every shell block, beside the examples, with this environment first on the path and a model server at hand."""
    if "scripts/" in block:
        pytest.skip("these set up the environment that runs this test")
    if (model_server := "http://127.0.0.1:8000/v1") in block:
        block = block.replace(model_server, f"{serve_model().url}/v1")
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


def test_links_of_the_documents_lead_somewhere() -> None:
    """Every relative link names a file that is there."""
    for path in documents():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_parameter_is_in_the_documents() -> None:
    """By its name."""
    text = (ROOT / "docs" / "parameters.md").read_text()
    for section in SECTIONS:
        for field in fields(section):
            if field.name in section.__annotations__:
                assert f"`{field.name}" in text, field.name


def test_the_version_is_one() -> None:
    """In the package and in its metadata."""
    assert version("ng_rollouts") == __version__


SEED_COMMANDS = {
    "sampling parameters": "+num_repeats=4 +num_samples_in_parallel=8 +responses_create_params.temperature=0.7 +responses_create_params.top_p=0.9",
    "rl exploration": "+num_repeats=8 +responses_create_params.temperature=0.8 +responses_create_params.top_p=0.95",
    "sft, greedy": "+num_repeats=1 +responses_create_params.temperature=0.0",
    "dpo, moderate": "+num_repeats=4 +responses_create_params.temperature=0.6",
    "sft at scale": "+responses_create_params.temperature=0.2 +responses_create_params.top_p=0.95 +num_samples_in_parallel=20",
    "sft, no limit": "+responses_create_params.temperature=0.2 +responses_create_params.top_p=0.95 +num_samples_in_parallel=20 +limit=null",
    "sft, shorter": "+num_samples_in_parallel=30 +responses_create_params.max_output_tokens=512",
    "dpo": "+responses_create_params.temperature=0.7 +responses_create_params.top_p=0.9 +num_repeats=3 +num_samples_in_parallel=10",
    "dpo pairs": "+responses_create_params.temperature=0.7 +num_repeats=3 +num_samples_in_parallel=10",
    "rl buffer": "+responses_create_params.temperature=0.5 +num_samples_in_parallel=15",
    "evaluation": "+responses_create_params.temperature=0.1 +responses_create_params.seed=42 +num_samples_in_parallel=5 +limit=null",
    "comparison": "+responses_create_params.temperature=0.1 +responses_create_params.seed=42 +num_samples_in_parallel=5",
    "more exploration": "+responses_create_params.temperature=0.3",
    "more repeats": "+num_repeats=4",
}


@pytest.mark.parametrize("overrides", SEED_COMMANDS.values(), ids=SEED_COMMANDS.keys())
def test_commands_that_people_know(command: Callable[..., Ran], tmp_path: Path, overrides: str) -> None:
    """The commands of NeMo Gym's guides run as they are typed there, but for the names of agent and files."""
    lines = (ROOT / "examples" / "arithmetic.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:60]))
    files = "+agent_name=example_math_agent +input_jsonl_fpath=prompts.jsonl +output_jsonl_fpath=outputs/r.jsonl"
    ran = command(*shlex.split(f"{files} {overrides}"))
    assert ran.code == 0, ran.stderr
    repeats = int((re.findall(r"num_repeats=(\d+)", overrides) or ["1"])[0])
    assert keys_of(tmp_path / "outputs" / "r.jsonl") == [(t, r) for t in range(60) for r in range(repeats)]


LOADED = "import atexit, sys; atexit.register(lambda: print('LOADED', *sorted(sys.modules), file=sys.stderr))\n"


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["+num_repeat=4"], "hydra omegaconf httpx pyreqwest orjson asyncio stamina tqdm yaml uvloop"),
        (["--help"], "hydra omegaconf httpx pyreqwest orjson asyncio stamina tqdm uvloop"),
        (
            ["+agent_url=http://127.0.0.1:9", "+wait_for_agent_s=0", "+input_jsonl_fpath=i", "+output_jsonl_fpath=o"],
            (
                "httpx stamina tqdm aiohttp numpy pebble multiprocessing.pool http.cookies "
                "ng_rollouts.verifiers ng_rollouts.agents.model_agent ng_rollouts.run.dry_run"
            ),
        ),
    ],
)
def test_what_a_command_does_not_need_is_not_loaded(tmp_path: Path, arguments: list[str], unneeded: str) -> None:
    """A typo costs no third of a second; a run over addresses loads one HTTP engine."""
    (tmp_path / "i").write_text('{"responses_create_params": {"input": "hi"}}\n')
    script = f"{LOADED}import os, ng_rollouts.cli.collect as command\nos._exit = sys.exit\ncommand.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    loaded = set(done.stderr.rpartition("LOADED ")[2].split())
    assert "ng_rollouts.cli.collect" in loaded, done.stderr
    assert not loaded & set(unneeded.split())
