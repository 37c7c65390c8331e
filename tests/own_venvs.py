"""Virtual environments for other projects' programs, created once and kept in the cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

INSTALL_LIMIT_S = 1200


class NotInstalledError(Exception):
    """An environment cannot be created. Tests that ask for one by their marker fail then, rather than skip."""


def environment_of(*requirements: str, pythons: Sequence[str] = ("python3.13", "python3.12")) -> Path:
    """The `bin` folder of an environment with these requirements.

    Raises:
        NotInstalledError: it cannot be created, and why.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ng_rollouts_peers"
    venv = cache / "".join(letter if letter.isalnum() else "_" for letter in "_".join(requirements))
    installed = venv / "installed"
    if installed.exists():
        return venv / "bin"
    python = next(filter(None, map(_working, pythons)), None)
    if python is None:
        raise NotInstalledError(f"{', '.join(requirements)}: needs one of {', '.join(pythons)}")
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


def _working(name: str) -> str | None:
    """The path of a Python that runs; None without one. pyenv has shims for versions that are not selected, which fail."""
    candidates = [shutil.which(name), *_of_pyenv(name.removeprefix("python"))]
    works = (
        path
        for path in candidates
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    )
    return next(works, None)


def _of_pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return sorted(map(str, root.glob(f"versions/{version}.*/bin/python")), reverse=True)
