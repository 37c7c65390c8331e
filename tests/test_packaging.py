"""The published archives: complete, valid, and usable without the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from ng_rollouts._version import __version__
from tests.conftest import ROOT, keys_of


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_version_of_the_package_is_the_version_of_its_metadata() -> None:
    """`__version__` is the version in the metadata of the installed package."""
    assert version("ng_rollouts") == __version__


def test_archives_are_valid_and_the_wheel_has_all_data_files(wheel: Path, tmp_path: Path) -> None:
    """`twine check` accepts both archives, and the wheel has the type marker, the report's page and the config groups."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), *map(str, tmp_path.glob("*.tar.gz"))]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("ng_rollouts/") for name in archive.namelist()}
    assert {"py.typed", "report/page.html", "report/page.css", "report/page.js", "conf/config.yaml"} <= names


@pytest.mark.slow
def test_wheel_collects_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """The wheel, installed into a fresh environment, finds its config groups and collects without the source tree."""
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
