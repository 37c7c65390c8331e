"""Figures for files: what became of a run, and the aggregate metrics of its agents."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence

from ng_rollouts import __version__
from ng_rollouts.aggregates import Aggregate
from ng_rollouts.config import CollectConfig
from ng_rollouts.costs import Costs
from ng_rollouts.errors import GateMissed
from ng_rollouts.load import Load
from ng_rollouts.records import Counts, Json
from ng_rollouts.redact import shown_command
from ng_rollouts.tally import AgentTally

_BLOCKS = " ▁▂▃▄▅▆▇█"
_KEY_FIGURES = ("mean/", "pass@", "majority@")


def aggregate_metrics(agents: Mapping[str, AgentTally]) -> list[Json]:
    """An entry for each agent: NeMo Gym's four fields, and `statistics` with what goes beyond them."""
    return [
        {
            "agent_ref": {"name": name},
            "agent_metrics": (metrics := tally.aggregate.of_nemo_gym()),
            "key_metrics": {key: value for key, value in metrics.items() if key.startswith(_KEY_FIGURES)},
            "group_level_metrics": tally.group_figures(),
            "group_level_metrics_left_out": tally.groups_left_out,
            "statistics": tally.aggregate.figures(),
        }
        for name, tally in agents.items()
    ]


def run_summary(  # noqa: PLR0913 - each is named where it is given
    *,
    config: CollectConfig,
    command: Sequence[str],
    counts: Counts,
    failed_by_class: Mapping[str, int],
    finished: int | None,
    set_aside: int,
    sums: Mapping[str, tuple[float, int]],
    averages: Json,
    began: float,
    load: Load | None,
    most_in_flight: int,
    exit_code: int,
) -> Json:
    """What CI reads of a run.

    Args:
        finished: rows of the finished file; None if the run ended before there was one.
        sums: of each score over all rows collected, set aside or not, and how many have it.
        averages: means over the finished rows, or over those collected if there is no finished file.
        began: seconds since 1970.
    """
    wall = time.time() - began
    costs = Costs(config.price_per_million, config.max_total_tokens)
    rows = counts.collected if finished is None else finished
    return {
        "planned": counts.planned,
        "collected": counts.collected,
        "failed": counts.failed,
        "failed_by_class": dict(failed_by_class),
        "set_aside": set_aside,
        "not_done": counts.planned - counts.settled,
        "finished": finished,
        "coverage": rows / counts.planned if counts.planned else 0.0,
        "means": averages,
        "means_with_failures_as_zero": {name: total / (n + counts.failed) for name, (total, n) in sums.items()},
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "wall_s": round(wall, 3),
        "attempts": counts.answered,
        "attempts_per_s": round(counts.answered / wall, 3) if wall > 0 else None,
        "latency_s": {f"p{share}": _rounded(counts.latencies.quantile(share / 100)) for share in (50, 90, 99)},
        "tokens": {"input": counts.input_tokens, "output": counts.output_tokens},
        "output_tokens_per_s": round(counts.output_tokens / wall, 3) if wall > 0 else None,
        "cost": costs.spent(counts) if costs.are_known else None,
        "most_in_flight": most_in_flight,
        "client_busy": _rounded(load.busy if load else None),
        "event_loop_lag_s": {"mean": _rounded(load.mean_lag_s), "worst": _rounded(load.worst_lag_s)} if load else None,
        "seed": config.responses_create_params.get("seed"),
        "num_repeats_add_seed": config.num_repeats_add_seed,
        "versions": {"ng_rollouts": __version__, "python": platform.python_version(), "platform": platform.platform()},
        "command": shown_command(command),
        "exit_code": exit_code,
    }


def check_gates(config: CollectConfig, averages: Json, coverage: float) -> None:
    """Hold the figures against what was asked for.

    Raises:
        GateMissed: some are below it, all of which are named.
    """
    missed = [
        f"{name} is {_shown(averages.get(name))}, below min_mean.{name}={least:g}"
        for name, least in config.min_mean.items()
        if averages.get(name) is None or averages[name] < least
    ]
    if coverage < config.min_coverage:
        missed.append(f"coverage is {coverage:.4g}, below min_coverage={config.min_coverage:g}")
    if missed:
        raise GateMissed("; ".join(missed))


def histogram_told(aggregate: Aggregate, name: str = "reward") -> str | None:
    """A score's distribution in a line of blocks; None if there is none to see."""
    column = aggregate.columns.get(name)
    if column is None or column.count < 2:
        return None
    bars = column.histogram()
    tallest = max(bars)
    blocks = "".join(_BLOCKS[-(-bar * (len(_BLOCKS) - 1) // tallest)] for bar in bars)
    low, high = min(0.0, column.least), max(1.0, column.most)
    return f"{name} {low:g} |{blocks}| {high:g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _shown(value: float | None) -> str:
    return "not there" if value is None else f"{value:.6g}"
