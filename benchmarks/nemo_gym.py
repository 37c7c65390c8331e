"""NeMo Gym's own collector, in a virtual environment of its own: installed once, used by `run`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PYTHONS = ("python3.13", "python3.12")
WANTED = "nemo-gym==0.4.0"
INSTALL_LIMIT_S = 1200


def nemo_gym() -> Path | str:
    """Its `ng_collect_rollouts`, or why there is none. `NEMO_GYM_BIN` names a folder that has it already."""
    if folder := os.environ.get("NEMO_GYM_BIN"):
        return Path(folder) / "ng_collect_rollouts"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    venv = cache / "ng_rollouts_bench" / "nemo_gym"
    script = venv / "bin" / "ng_collect_rollouts"
    if script.exists():
        return script
    python = next(filter(None, map(shutil.which, PYTHONS)), None)
    if python is None:
        return f"not measured: it needs one of {', '.join(PYTHONS)}"
    try:
        subprocess.run([python, "-m", "venv", str(venv)], check=True, timeout=INSTALL_LIMIT_S)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", WANTED]
        subprocess.run(pip, check=True, timeout=INSTALL_LIMIT_S)
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(venv, ignore_errors=True)
        return f"not measured: it could not be installed ({type(error).__name__})"
    return script
