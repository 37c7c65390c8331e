"""Log a run to an experiment tracker: running figures, then its parameters, metrics and files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ng_rollouts.integrations.live import FINISH
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


class Tracker(Protocol):
    """A run that is open in a tracker."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log running figures."""
        ...

    def finish(self, run: TrackedRun) -> str:
        """Log the finished run, and end it; the line to report."""
        ...

    def close(self) -> None:
        """End a run that was not finished."""
        ...


class Wandb:
    """A run of Weights & Biases; with `WANDB_MODE=offline`, in a local folder."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        import wandb  # noqa: PLC0415 - an extra

        self._wandb = wandb
        self._run = wandb.init(project=project, name=run.name, config=run.parameters, job_type="rollouts")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log running figures."""
        self._run.log(dict(metrics), step=step)

    def finish(self, run: TrackedRun) -> str:
        """Log the finished run, and end it; the line to report."""
        self._run.config.update(run.parameters, allow_val_change=True)
        self._run.log(run.metrics)
        # artifact names allow only these characters
        artifact = self._wandb.Artifact(re.sub(r"[^\w\-.]", "_", run.name), type="rollouts")
        for path in run.files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)
        location = self._run.url or self._run.dir
        self.close()
        return f"wandb: {location}"

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Mlflow:
    """A run of MLflow, at `MLFLOW_TRACKING_URI` if it is set."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        import mlflow  # noqa: PLC0415 - an extra

        self._mlflow = mlflow
        mlflow.set_experiment(project)
        self._run = mlflow.start_run(run_name=run.name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log running figures."""
        self._mlflow.log_metrics(_mlflow_names(metrics), step=step)

    def finish(self, run: TrackedRun) -> str:
        """Log the finished run, and end it; the line to report."""
        parameters = {key: _text(value)[:_MAX_PARAMETER_CHARACTERS] for key, value in run.parameters.items()}
        self._mlflow.log_params(parameters)
        self._mlflow.log_metrics(_mlflow_names(run.metrics))
        for path in run.files:
            self._mlflow.log_artifact(str(path))
        self.close()
        return f"mlflow: run {self._run.info.run_id} at {self._mlflow.get_tracking_uri()}"

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class Trackio:
    """A run of Trackio, in `TRACKIO_DIR` if it is set."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        import trackio  # noqa: PLC0415 - an extra

        self._trackio = trackio
        self._project = project
        self._run = trackio.init(project=project, name=run.name, config=run.parameters, embed=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log running figures."""
        self._trackio.log(dict(metrics), step=step)

    def finish(self, run: TrackedRun) -> str:
        """Log the finished run, and end it; the line to report."""
        self._trackio.log(run.metrics)
        artifact = self._trackio.Artifact(re.sub(r"[^\w\-.]", "_", run.name), type="rollouts")
        for path in run.files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)
        self.close()
        return f"trackio: run {run.name} of project {self._project}"

    def close(self) -> None:
        """End the run."""
        self._trackio.finish()


TRACKERS: dict[str, Callable[[TrackedRun, str], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


def follow(
    tracker: Tracker, lines: Iterable[bytes], finished: Callable[[], TrackedRun], logged: Callable[[], None]
) -> str:
    """Log the figures in lines of JSON until the line `finish`, then the finished run; the line to report.

    Args:
        finished: reads the data of the finished run.
        logged: called after each line of figures.
    """
    for line in lines:
        if line == FINISH:
            return tracker.finish(finished())
        message = json.loads(line)
        tracker.log(message["figures"], message["step"])
        logged()
    tracker.close()
    return "the run was not finished"


def _mlflow_names(metrics: Mapping[str, float]) -> dict[str, float]:
    return {_FORBIDDEN_IN_MLFLOW.sub("_", key): value for key, value in metrics.items()}


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
