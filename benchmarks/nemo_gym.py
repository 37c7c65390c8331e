"""NeMo Gym's own collector, in a virtual environment of its own: installed once, used by `run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from own_venvs import NotInstalledError, environment_of

WANTED = "nemo-gym==0.4.0"


def nemo_gym() -> Path | str:
    """Its `ng_collect_rollouts`, or why there is none. `NEMO_GYM_BIN` names a folder that has it already."""
    folder = os.environ.get("NEMO_GYM_BIN")
    try:
        return (Path(folder) if folder else environment_of(WANTED)) / "ng_collect_rollouts"
    except NotInstalledError as error:
        return f"not measured: {error}"
