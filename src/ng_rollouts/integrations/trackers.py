"""Trackers of experiments: a run's parameters, figures and files, to each in its own words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.types import Json

_NOT_FOR_MLFLOW = re.compile(r"[^\w\-. :/]")
_LONGEST_PARAMETER = 6000
"""Characters that mlflow keeps of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What trackers are told of a run.

    Attributes:
        figures: every number of the summary and of the aggregate metrics, by a name with slashes.
    """

    name: str
    parameters: Json
    figures: dict[str, float]
    files: list[Path]

    @classmethod
    def of(cls, paths: OutputPaths) -> TrackedRun:
        """Of a finished run, by its files."""
        summary, manifest = _read(paths.summary, {}), _read(paths.manifest, {})
        figures = dict(_numbers(summary))
        for entry in _read(paths.aggregate_metrics, []):
            agent = entry["agent_ref"]["name"]
            figures |= {f"{agent}/{key}": value for key, value in _numbers(entry["agent_metrics"])}
            figures |= {f"key_metrics/{agent}/{key}": value for key, value in _numbers(entry["key_metrics"])}
        parameters = {**manifest, "command": summary.get("command"), "versions": summary.get("versions")}
        files = paths.existing
        return cls(name=paths.output.stem, parameters=parameters, figures=figures, files=files)


def to_wandb(run: TrackedRun, project: str) -> str:
    """Weights & Biases; `WANDB_MODE=offline` keeps it on this machine."""
    import wandb  # noqa: PLC0415 - an extra

    with wandb.init(project=project, name=run.name, config=run.parameters, job_type="rollouts") as tracked:
        tracked.log(run.figures)
        artifact = wandb.Artifact(re.sub(r"[^\w\-.]", "_", run.name), type="rollouts")
        for path in run.files:
            artifact.add_file(str(path))
        tracked.log_artifact(artifact)
        where = tracked.url or tracked.dir
    return f"wandb: {where}"


def to_mlflow(run: TrackedRun, project: str) -> str:
    """MLflow, at `MLFLOW_TRACKING_URI` if that is set."""
    import mlflow  # noqa: PLC0415 - an extra

    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=run.name) as tracked:
        mlflow.log_params({key: _text(value)[:_LONGEST_PARAMETER] for key, value in run.parameters.items()})
        mlflow.log_metrics({_NOT_FOR_MLFLOW.sub("_", key): value for key, value in run.figures.items()})
        for path in run.files:
            mlflow.log_artifact(str(path))
    return f"mlflow: run {tracked.info.run_id} at {mlflow.get_tracking_uri()}"


def to_trackio(run: TrackedRun, project: str) -> str:
    """Trackio, in `TRACKIO_DIR` if that is set."""
    import trackio  # noqa: PLC0415 - an extra

    tracked = trackio.init(project=project, name=run.name, config=run.parameters, embed=False)
    trackio.log(run.figures)
    artifact = trackio.Artifact(re.sub(r"[^\w\-.]", "_", run.name), type="rollouts")
    for path in run.files:
        artifact.add_file(str(path))
    tracked.log_artifact(artifact)
    trackio.finish()
    return f"trackio: run {run.name} of project {project}"


TRACKERS: dict[str, Callable[[TrackedRun, str], str]] = {"wandb": to_wandb, "mlflow": to_mlflow, "trackio": to_trackio}


def _read(path: Path, absent: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else absent


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}" if name else key)
    elif isinstance(value, (int, float)) and name:
        yield name, float(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
