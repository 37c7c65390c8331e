"""Virtual environments for other projects' programs, created once and kept in the cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

INSTALL_LIMIT_S = 1200


class NotInstalledError(Exception):
    """An environment cannot be created. Tests that ask for one by their marker fail then, rather than skip."""


def environment_of(
    *requirements: str, pythons: Sequence[str] = ("python3.13", "python3.12"), at_least: tuple[int, ...] = (3,)
) -> Path:
    """The `bin` folder of an environment with these requirements.

    Args:
        pythons: names of the Pythons to try, in this order.
        at_least: the lowest version that is taken, such as (3, 13, 14).

    Raises:
        NotInstalledError: it cannot be created, and why.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ng_rollouts_peers"
    venv = cache / "".join(letter if letter.isalnum() else "_" for letter in "_".join(requirements))
    installed = venv / "installed"
    if installed.exists():
        return venv / "bin"
    python = next(filter(None, (_working(name, at_least) for name in pythons)), None)
    if python is None:
        version = f" ({'.'.join(map(str, at_least))} or later)" if len(at_least) > 1 else ""
        raise NotInstalledError(f"{', '.join(requirements)}: needs one of {', '.join(pythons)}{version}")
    try:
        subprocess.run([python, "-m", "venv", "--clear", str(venv)], check=True, timeout=INSTALL_LIMIT_S)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(pip, check=True, timeout=INSTALL_LIMIT_S, stderr=subprocess.DEVNULL)
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(venv, ignore_errors=True)
        raise NotInstalledError(
            f"{', '.join(requirements)}: could not be installed ({type(error).__name__})"
        ) from error
    installed.touch()
    return venv / "bin"


def _working(name: str, at_least: tuple[int, ...]) -> str | None:
    """The path of a Python that runs and is new enough; None without one.

    pyenv has shims for versions that are not selected, which fail.
    """
    check = [f"import sys; sys.exit(sys.version_info < {at_least})"]
    candidates = [shutil.which(name), *_of_version_managers(name.removeprefix("python"))]
    works = (
        path
        for path in candidates
        if path and subprocess.run([path, "-c", *check], capture_output=True, check=False).returncode == 0
    )
    return next(works, None)


def _of_version_managers(version: str) -> list[str]:
    """The Pythons of pyenv and uv, the newest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    paths = [*pyenv.glob(f"versions/{version}.*/bin/python"), *data.glob(f"uv/python/cpython-{version}.*/bin/python")]
    return [str(path) for path in sorted(paths, key=lambda path: _numbers(path.parts[-3]), reverse=True)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
