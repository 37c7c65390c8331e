"""Log a finished run's parameters, metrics and files to an experiment tracker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.types import Json

_FORBIDDEN_IN_MLFLOW = re.compile(r"[^\w\-. :/]")
"""Characters that mlflow does not accept in the name of a metric."""

_MAX_PARAMETER_CHARACTERS = 6000
"""The maximum length of a parameter's value in mlflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """The data of a run for a tracker.

    Attributes:
        parameters: the manifest, with the command and the versions from the summary.
        metrics: every number of the summary and of the aggregate metrics; nested names are joined with slashes.
        files: the output and its side files, as far as they exist.
    """

    name: str
    parameters: Json
    metrics: dict[str, float]
    files: list[Path]

    @classmethod
    def of(cls, paths: OutputPaths) -> TrackedRun:
        """Read the data of a finished run from its files."""
        summary, manifest = _read(paths.summary, {}), _read(paths.manifest, {})
        metrics = dict(_numbers(summary))
        for entry in _read(paths.aggregate_metrics, []):
            agent = entry["agent_ref"]["name"]
            metrics |= {f"{agent}/{key}": value for key, value in _numbers(entry["agent_metrics"])}
            metrics |= {f"key_metrics/{agent}/{key}": value for key, value in _numbers(entry["key_metrics"])}
        parameters = {**manifest, "command": summary.get("command"), "versions": summary.get("versions")}
        files = paths.existing
        return cls(name=paths.output.stem, parameters=parameters, metrics=metrics, files=files)


def to_wandb(run: TrackedRun, project: str) -> str:
    """Log to Weights & Biases; with `WANDB_MODE=offline`, to a local folder. The line to report."""
    import wandb  # noqa: PLC0415 - an extra

    with wandb.init(project=project, name=run.name, config=run.parameters, job_type="rollouts") as tracked:
        tracked.log(run.metrics)
        # artifact names allow only these characters
        artifact = wandb.Artifact(re.sub(r"[^\w\-.]", "_", run.name), type="rollouts")
        for path in run.files:
            artifact.add_file(str(path))
        tracked.log_artifact(artifact)
        location = tracked.url or tracked.dir
    return f"wandb: {location}"


def to_mlflow(run: TrackedRun, project: str) -> str:
    """Log to MLflow, at `MLFLOW_TRACKING_URI` if it is set. The line to report."""
    import mlflow  # noqa: PLC0415 - an extra

    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=run.name) as tracked:
        mlflow.log_params({key: _text(value)[:_MAX_PARAMETER_CHARACTERS] for key, value in run.parameters.items()})
        mlflow.log_metrics({_FORBIDDEN_IN_MLFLOW.sub("_", key): value for key, value in run.metrics.items()})
        for path in run.files:
            mlflow.log_artifact(str(path))
    return f"mlflow: run {tracked.info.run_id} at {mlflow.get_tracking_uri()}"


def to_trackio(run: TrackedRun, project: str) -> str:
    """Log to Trackio, in `TRACKIO_DIR` if it is set. The line to report."""
    import trackio  # noqa: PLC0415 - an extra

    tracked = trackio.init(project=project, name=run.name, config=run.parameters, embed=False)
    trackio.log(run.metrics)
    artifact = trackio.Artifact(re.sub(r"[^\w\-.]", "_", run.name), type="rollouts")
    for path in run.files:
        artifact.add_file(str(path))
    tracked.log_artifact(artifact)
    trackio.finish()
    return f"trackio: run {run.name} of project {project}"


TRACKERS: dict[str, Callable[[TrackedRun, str], str]] = {"wandb": to_wandb, "mlflow": to_mlflow, "trackio": to_trackio}


def _read(path: Path, default: Any) -> Any:
    """The JSON value in a file; the default if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested objects, with the names on the way to each joined with slashes; lists are skipped."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}" if name else key)
    elif isinstance(value, (int, float)) and name:
        yield name, float(value)


def _text(value: Any) -> str:
    """A parameter as text: a string as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
