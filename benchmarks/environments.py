"""Virtual environments of the programs that are measured: this checkout, as users install it, and NeMo Gym."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from own_venvs import NotInstalledError, environment_of

ROOT = Path(__file__).resolve().parents[1]

RELEASES = (
    ("0.7.0", ("python3.13", "python3.14"), (3, 13, 14)),
    ("0.4.0", ("python3.13", "python3.12"), (3,)),
)
"""Releases of NeMo Gym, the newest first, and the Pythons that they need."""


def installed(extra: str = "bench") -> Path:
    """The `bin` folder of an environment with this checkout and an extra, installed anew at each call.

    Python compiles an editable installation again at each start if PYTHONDONTWRITEBYTECODE is set. It does not compile
    an installed wheel.
    """
    wanted = f"{ROOT}[{extra}]"
    folder = environment_of(wanted, pythons=(sys.executable,))
    subprocess.run([str(folder / "pip"), "install", "--quiet", "--disable-pip-version-check", wanted], check=True)
    return folder


def nemo_gym() -> tuple[str, Path]:
    """The newest release of NeMo Gym that runs here, and the `bin` folder of an environment that has it.

    NEMO_GYM_BIN names a folder that has it already.

    Raises:
        NotInstalledError: no release can be installed, and why.
    """
    if "NEMO_GYM_BIN" in os.environ:
        folder = Path(os.environ["NEMO_GYM_BIN"]).absolute()
        version = "from importlib.metadata import version; print(version('nemo-gym'))"
        command = [str(folder / "python"), "-c", version]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(), folder
    reasons = []
    for release, pythons, at_least in RELEASES:
        try:
            return release, environment_of(f"nemo-gym=={release}", pythons=pythons, at_least=at_least)
        except NotInstalledError as error:
            reasons.append(str(error))
    raise NotInstalledError("; ".join(reasons))
