"""Every parameter of `ng_collect_rollouts`.

The mixin classes are the sections of `--help` and of the documentation, in the order of `SECTIONS`. Their docstrings
are the titles. Nothing makes one of them alone, so they get no methods, which every start of the command would pay for.
Values are checked when a `CollectConfig` is made, so that a wrong one is reported before anything else happens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ng_rollouts.config.combinations import check_combinations
from ng_rollouts.config.fields import check_fields, param, spec_of
from ng_rollouts.config.validation import (
    MAX_SECONDS,
    check_max_failed,
    check_min_mean,
    check_repeats,
    check_sampling,
    executor_options,
    hedge_threshold,
    integration_names,
    zero_names,
)

RESPONSES_PARAMETERS = frozenset(
    "background context_management conversation include input instructions max_output_tokens max_tool_calls metadata "
    "model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_retention "
    "reasoning safety_identifier seed service_tier store stream stream_options temperature text tool_choice tools "
    "top_logprobs top_p truncation user".split()
)
"""The fields of an OpenAI Responses request that NeMo Gym's agents accept, and `seed`."""

_MILLION = 1_000_000

POLICY_APIS = ("auto", "responses", "chat_completions")

TOKEN_IDS = ("never", "auto", "required")

ENTRY_KEYS = (
    "policy_base_url",
    "policy_api_key",
    "policy_model_name",
    "policy_api",
    "token_ids",
    "responses_create_params",
    "verifier",
    "resources_base_url",
    "tools",
    "max_steps",
)
"""Keys of an entry under `agents` for a model server. The parameter of the same name is the default of each."""

HTTP_ENGINES = ("auto", "pyreqwest", "httpx")


@dataclass(kw_only=True)
class HeadServer:
    """Address of the NeMo Gym head server."""

    host: str = param("127.0.0.1", "Host of the NeMo Gym head server that is asked for agents not found elsewhere.")
    port: int = param(11000, "Port of the head server.", minimum=1, maximum=65535)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class InputAndOutput:
    """Input and output"""

    input_jsonl_fpath: str = param(
        "",
        "Tasks, one JSON object per line.",
        doc="Blank lines, CRLF and a byte-order mark are ignored. A line may have up to 256 MB. "
        "`-` reads stdin, and a pipe works too. Compressed "
        "files (`.gz`, `.bz2`, `.xz`, `.zst` with the extra `zstd`), `.parquet` (extra `parquet`) and URLs such as "
        "`s3://`, `gs://`, `hf://` (extra `remote`) are copied to the temporary folder first. [More](storage.md).",
        required=True,
        kind="path",
    )
    output_jsonl_fpath: str = param(
        "",
        "Output file. Missing directories are created. A name ending in .jsonl.gz or .jsonl.zst compresses it.",
        doc="[Its contents](output.md), [compression](storage.md#compressed-outputs).",
        required=True,
        kind="path",
    )
    limit: int | None = param(None, "Read only the first N rows of the input (null or 0: all).", minimum=0)
    num_repeats: Any = param(
        1,
        "Rollouts per task, in aabbcc order; by agent as {agent: n, _default: n}.",
        doc="An agent of the input that the dict does not cover is an error.",
        kind="int or dict",
        annotation="int | Mapping[str, int] | None",
    )
    prompt_config: str | None = param(
        None,
        "YAML file with a `user` and optionally a `system` template that makes each row's input from its fields.",
        doc="[Prompt templates](#prompt-templates).",
        nonempty=True,
        kind="path",
    )
    training_view: bool = param(
        True,
        "Add `prompt_id`, `input` and `output` (chat messages) to each rollout and write booleans as numbers.",
        decides_results=True,
    )
    materialized_inputs: bool = param(
        False,
        "Also write <stem>_materialized_inputs.jsonl, one row per planned rollout, for NeMo Gym's commands.",
        doc="An existing file is kept up to date. [More](nemo-gym.md).",
    )
    overwrite: bool = param(False, "Replace an existing output. By default it is renamed to <output>.1, .2 and so on.")
    upload_to: str | None = param(
        None,
        "Folder or URL, such as s3://bucket/run, to which all files are copied when the run ends, successful or not.",
        doc="[More](storage.md#remote-copies).",
        nonempty=True,
        kind="path",
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class Agents:
    """Agents"""

    agent_name: str | None = param(
        None,
        "Agent that answers every row. It replaces the agents that rows name in `agent_ref`.",
        doc="As in NeMo Gym since 0.6, where it is `agent_map={_default: NAME}`. [Routes](nemo-gym.md#routes).",
        nonempty=True,
        decides_results=True,
    )
    agent_map: dict[str, str] = param(
        {},
        "Agents by the name of a row's agent or its `task_source`; `_default` is for all other rows.",
        doc="[Routes](nemo-gym.md#routes).",
        annotation="Mapping[str, str]",
    )
    fan_out: dict[str, Any] = param(
        {},
        "Several agents for a row, as {KEY: [AGENT, AGENT]}, where KEY is the row's agent or its `task_source`.",
        doc="Their rollouts are repeats of one task. [Routes](nemo-gym.md#routes).",
        annotation="Mapping[str, Sequence[str]]",
    )
    environment_routing_mode: str = param(
        "agent",
        "Environment server of a flat row: the one before its `agent`, or, with `legacy`, environment_server_name.",
        choices=("agent", "legacy"),
    )
    environment_server_name: str | None = param(
        None, "Environment server of all flat rows, with environment_routing_mode=legacy.", nonempty=True
    )
    environment_server_routes: dict[str, str] = param(
        {},
        "Environment servers of materialized rows by task set, as {TASKSET: NAME}.",
        doc="[Environment servers](nemo-gym.md#environment-servers).",
        annotation="Mapping[str, str]",
    )
    agent_url: Any = param(
        None,
        "URL of that agent, or a list of URLs to balance load over. Without agent_name it answers every row.",
        doc="[Load balancing](model-servers.md#load-balancing).",
        nonempty=True,
        kind="URL or list",
        annotation="str | Sequence[str] | None",
    )
    agents: dict[str, Any] = param(
        {},
        "Agents by name: {url: URL or list}, {policy_base_url: ...} or {_target_: module.function}. +agent=FILE reads "
        "them from a config group (end of --help).",
        doc="`+agents.mine.url=http://127.0.0.1:8000`, or [over a model server](model-servers.md#several-agents).",
        annotation="Mapping[str, Mapping[str, Any]]",
    )
    head_server: HeadServer = field(default_factory=HeadServer)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class ModelServers:
    """Model servers without an agent server"""

    policy_base_url: Any = param(
        None,
        "OpenAI-compatible endpoint up to /v1, or a list. An agent in this process calls it and scores the answers.",
        nonempty=True,
        kind="URL or list",
        annotation="str | Sequence[str] | None",
    )
    policy_api_key: str | None = param(None, "API key of the endpoint, preferably as '${oc.env:OPENAI_API_KEY}'.")
    policy_model_name: str | None = param(
        None,
        "Model to request; not needed if the endpoint serves exactly one.",
        nonempty=True,
        decides_results=True,
    )
    policy_api: str = param(
        "auto", "API to use. `auto`: try /responses, fall back to /chat/completions on 404.", choices=POLICY_APIS
    )
    token_ids: str = param(
        "never",
        "Ask the endpoint for token ids and log probabilities, for training. `auto`: keep them if it sends them. "
        "`required`: stop if it does not.",
        doc="[Token ids](model-servers.md#token-ids).",
        choices=TOKEN_IDS,
        decides_results=True,
    )
    verifier: dict[str, Any] = param(
        {},
        "Scorer of the answers: +verifier=NAME, a config group (end of --help). +verifier.answer_field=FIELD names the "
        "field of the expected answer.",
        doc="[Verifiers](verifiers.md).",
        kind="group and dict",
        text_keys=(
            *("pattern", "verdict_pattern", "answer_field", "schema_field", "template", "function", "model", "api_key"),
            "compare_with",
            "responses_create_params.instructions",
        ),
        decides_results=True,
    )
    scoring: str = param(
        "now",
        "`defer`: collect answers without scoring them; ng_rescore_rollouts scores them.",
        doc="[More](verifiers.md#score-later).",
        choices=("now", "defer"),
        decides_results=True,
    )
    resources_base_url: str | None = param(
        None, "NeMo Gym resources server: provides tools and scores the answers.", kind="URL"
    )
    tools: str | None = param(
        None,
        "Python module or file whose public functions the model may call.",
        nonempty=True,
        kind="path",
        decides_results=True,
    )
    max_steps: int = param(
        32, "Maximum model calls per rollout, with tool calls in between.", minimum=1, decides_results=True
    )
    max_rollout_turns: int | None = param(None, "Another name of max_steps, which it replaces.", minimum=1)
    max_rollout_tokens: int | None = param(
        None,
        "Maximum tokens of a rollout: input and output of all its model calls. Checked between calls.",
        doc="[Limits of a rollout](model-servers.md#limits-of-a-rollout).",
        minimum=1,
        decides_results=True,
    )
    max_rollout_cost: float | None = param(
        None, "Maximum cost of a rollout, with price_per_million. Checked between calls.", above=0, decides_results=True
    )


@dataclass(kw_only=True)
class Prices:
    """Prices per million tokens, in any currency."""

    input: float | None = param(None, "Price per million input tokens, to report the cost.", minimum=0)
    output: float | None = param(None, "Price per million output tokens.", minimum=0)

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """The cost of a number of tokens; a price that is not known counts as 0."""
        return (input_tokens * (self.input or 0.0) + output_tokens * (self.output or 0.0)) / _MILLION


@dataclass(kw_only=True)
class JudgePrices(Prices):
    """Prices of judges per million tokens, in the same currency."""

    input: float | None = param(
        None, "Price per million input tokens of judges (null: price_per_million.input).", minimum=0
    )
    output: float | None = param(
        None, "Price per million output tokens of judges (null: price_per_million.output).", minimum=0
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class RateAndBudget:
    """Rate and budget"""

    adaptive_parallelism: bool = param(
        False,
        "Adapt the number of rollouts in flight to the servers, up to num_samples_in_parallel.",
        doc="[More](model-servers.md#adaptive-parallelism).",
    )
    engine_metrics_url: Any = param(
        None,
        "Prometheus metrics of the inference engines, for adaptive_parallelism (null: /metrics of each server; never).",
        nonempty=True,
        kind="URL or list",
        annotation="str | Sequence[str] | None",
    )
    max_requests_per_minute: float | None = param(None, "Rate limit in requests per minute, evenly spaced.", above=0)
    max_tokens_per_minute: float | None = param(
        None, "Rate limit in tokens per minute, measured from the usage in replies.", above=0
    )
    max_total_tokens: int | None = param(
        None,
        "Token budget: start no new rollouts or retries once this command has used this many tokens.",
        doc="Judges and failed attempts count. [More](model-servers.md#token-budget-and-cost).",
        above=0,
    )
    price_per_million: Prices = field(default_factory=Prices)
    judge_price_per_million: JudgePrices = field(default_factory=JudgePrices)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class Sampling:
    """Sampling"""

    responses_create_params: dict[str, Any] = param(
        {},
        "Sampling parameters that override those of each row, such as .temperature=0.7, .top_p=0.9, "
        ".max_output_tokens=512 and .seed=42.",
        doc="`.temperature` is from 0 to 2, `.top_p` from 0 to 1. Other parameters are sent unchanged. A nested value "
        "replaces the row's.",
        text_keys=("instructions", "model", "user", "previous_response_id"),
        decides_results=True,
    )
    num_repeats_add_seed: bool = param(
        False, "Give every rollout its own seed: its rollout index plus the given seed.", decides_results=True
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class Execution:
    """Execution"""

    num_samples_in_parallel: int | None = param(
        None, "Maximum rollouts in flight (null or 0: as many as open files allow).", minimum=0
    )
    executor: dict[str, Any] = param(
        {},
        "Where attempts run: +executor=NAME, a config group (end of --help). +executor=ray runs them in the actors of "
        "a Ray cluster.",
        doc="[Ray](scale.md#ray).",
        kind="group and dict",
    )
    interleave_repeats: bool = param(
        False, "Send the first rollouts of all tasks before the second ones. The order of the output is the same."
    )
    dispatch: str = param(
        "in_order",
        "`longest_first`: send the tasks that are expected to take longest first. The order of the output is the same.",
        doc="[The last rollouts](scale.md#the-last-rollouts).",
        choices=("in_order", "longest_first"),
    )
    dispatch_field: str | None = param(
        None,
        "Number in each row, such as expected tokens, from which dispatch=longest_first takes its order.",
        nonempty=True,
    )
    dispatch_from: str | None = param(
        None,
        "File of rollouts whose mean output tokens of each task give the order of dispatch=longest_first.",
        nonempty=True,
        kind="path",
    )
    hedge_after: Any = param(
        None,
        "Seconds, or a percentile of this run's durations such as p99, after which a rollout gets a second attempt, "
        "when slots are idle at the end (null: never).",
        doc="The first answer wins. [The last rollouts](scale.md#the-last-rollouts).",
        kind="float or str",
        annotation="float | str | None",
    )
    dispatch_longest_first: bool = param(
        False, "On a resume, begin with the failed rollouts that took longest (`elapsed_seconds` in the failures file)."
    )
    dispatch_budget_s: float | None = param(
        None,
        "Start no new rollouts or retries this many seconds after the first one; those in flight finish.",
        minimum=0,
        below=MAX_SECONDS,
    )
    drain_margin_s: float | None = param(
        None,
        "Start no new rollouts if less of dispatch_budget_s is left (null: the 75th percentile of this run's times).",
        minimum=0,
        below=MAX_SECONDS,
    )
    max_wall_s: float | None = param(
        None,
        "Seconds after the command's start in which it ends. Rollouts that would probably not finish do not start.",
        doc="A Slurm job ends its command in time without it. [More](resume.md#limited-time).",
        above=0,
        below=MAX_SECONDS,
    )
    wall_margin_s: float | None = param(
        None,
        "Seconds before that end in which rollouts are cancelled and files written (null: 1 % of the time, 1 to 60 s).",
        doc="Of a time of less than 2 seconds, the default is half.",
        minimum=0,
        below=MAX_SECONDS,
    )
    stop_ok: bool = param(False, "Exit code 0 instead of 3 if the time is over and rollouts remain.")
    dry_run: bool = param(False, "Check everything and print the plan and the first request, but send no rollout.")
    canary: int = param(0, "Send this many rollouts first, and the rest only if none of them failed.", minimum=0)
    http_engine: str = param(
        "auto",
        "HTTP client. `auto`: pyreqwest if it is installed, else httpx.",
        doc="httpx is slow above a few dozen rollouts in flight, unless httpx-aiohttp is installed. It ends requests "
        "that are cancelled; pyreqwest does not. `auto` is httpx with `hedge_after`, if httpx-aiohttp is installed.",
        choices=HTTP_ENGINES,
    )
    session_header: str | None = param(
        "X-Session-ID",
        "Header of each request by which a router keeps the requests of a rollout on one server (null: none).",
        doc="[Routers](model-servers.md#routers).",
        nonempty=True,
    )
    session_by: str = param(
        "rollout",
        "The requests with the same value of session_header: those of a `rollout`, or of all rollouts of a `task`.",
        choices=("rollout", "task"),
    )
    connect_timeout_s: float | None = param(
        10.0, "Connect timeout in seconds (null: none).", above=0, below=MAX_SECONDS
    )
    idle_timeout_s: float | None = param(
        1800.0,
        "Read timeout in seconds: the longest time without a byte while a reply is expected (null: none).",
        above=0,
        below=MAX_SECONDS,
    )
    rollout_timeout_s: float | None = param(
        3600.0, "Timeout of one attempt at a rollout, in seconds (null: none).", above=0, below=MAX_SECONDS
    )
    max_reply_mb: float = param(
        256.0,
        "Maximum size of a reply in megabytes, after decompression. A larger one is a failed attempt.",
        doc="It bounds the memory that a faulty server can use. Such a failure (`reply_too_large`) is not retried.",
        minimum=0.001,
        maximum=1_000_000,
    )
    wait_for_agent_s: float = param(
        10.0,
        "Seconds to wait for an agent or model server to come up before the run starts.",
        minimum=0,
        below=MAX_SECONDS,
    )
    drain_s: float = param(
        10.0,
        "Seconds that rollouts in flight may take to finish after Ctrl-C or SIGTERM.",
        minimum=0,
        below=MAX_SECONDS,
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class FailuresAndResume:
    """Failures and resume"""

    resume_from_cache: bool = param(
        False, "Resume the existing output: keep what is collected, collect the rest.", doc="[Resume](resume.md)."
    )
    retry_failed: bool = param(True, "On a resume, retry failed rollouts, except those the agent marked as terminal.")
    retry_terminal_timeouts: bool = param(
        False, "On a resume, also retry terminal failures that are due to the environment, such as timeout_exceeded."
    )
    max_attempts: int = param(
        3,
        "Attempts per rollout, and per model request within one (1: no retries). Replies 429 and 503 do not count.",
        doc="[Which failures are retried](output.md#failures).",
        minimum=1,
    )
    retry_budget_s: float | None = param(
        3600.0,
        "Seconds after a rollout's first attempt in which retries may start, after 429 and 503 too (null: no limit).",
        above=0,
        below=MAX_SECONDS,
    )
    max_failed_rollouts: Any = param(
        0,
        "Failed rollouts above which the exit code is 1: a count, or a fraction of the planned rollouts such as 0.01.",
        kind="int or fraction",
        annotation="int | float",
    )
    require_complete: bool = param(
        False, "Exit code 1 if any planned rollout is missing, also if max_failed_rollouts or a budget allows it."
    )
    incomplete_groups: str = param(
        "set_aside",
        "Rollouts of tasks with a failed repeat: `set_aside` in <stem>_incomplete.jsonl, or `keep` in the output.",
        choices=("set_aside", "keep"),
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class Shards:
    """Shards"""

    shard_index: int | None = param(
        None,
        "Collect only every num_shards-th task, starting at this one, into <stem>_shard_<i>_of_<n>.jsonl.",
        doc="[Scale](scale.md).",
        minimum=0,
    )
    num_shards: int | None = param(None, "Number of commands that share the input.", minimum=1)
    shard_from: str | None = param(
        None,
        "`slurm`: take both from the variables of the job array, or of srun.",
        choices=("slurm",),
    )


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class MetricsAndReports:
    """Metrics and reports"""

    disable_aggregation: bool = param(False, "Do not write <stem>_aggregate_metrics.json.")
    answer_key: str | None = param(None, "Field whose majority counts for majority@k (null: extracted_answer).")
    agent_side_metrics: str = param(
        "auto",
        "`auto`: ask agents that the head server lists for their own metrics after the run; `never`: do not.",
        doc="[More](metrics.md).",
        choices=("auto", "never"),
    )
    count_as_zero: Any = param(
        None,
        "Rollouts that count with a reward of 0 in all metrics: a list of `failed`, `masked`, `missing` and failure "
        "classes (null: none, they are left out).",
        doc="[Count failures as 0](metrics.md#count-failures-as-0).",
        kind="str or list",
        annotation="str | Sequence[str] | None",
    )
    count_failure_classes_as_zero: Any = param(
        None,
        "NeMo Gym's name: failure classes to add to count_as_zero.",
        kind="str or list",
        annotation="str | Sequence[str] | None",
    )
    count_missing_rollouts_as_zero: bool = param(False, "NeMo Gym's name: add `missing` to count_as_zero.")
    metrics_by: str | None = param(None, "`agent`: also print the averages of each agent.", choices=("agent",))
    min_mean: dict[str, float] = param(
        {},
        "Minimum means, such as .reward=0.6; below one, the exit code is 5.",
        annotation="Mapping[str, float]",
    )
    min_coverage: float = param(
        0.0,
        "Minimum share of the planned rollouts that are finished and not masked; below it, the exit code is 5.",
        minimum=0,
        maximum=1,
    )
    fail_on: Any = param(
        None,
        "Health checks whose share is limited, such as {empty: 0.05}, or a list: 0; above, the exit code is 5.",
        doc="[Health](health.md#in-ci).",
        kind="list or dict",
        annotation="Mapping[str, float] | Sequence[str] | None",
    )
    disable_health_check: bool = param(False, "Do not check the health of the rollouts.", doc="[Health](health.md).")
    health_check_ignored_checks: Any = param([], "Health checks to leave out.", kind="list", annotation="Sequence[str]")
    status_file: str | None = param(
        None, "Live status file (null: <stem>_status.json). Deleted when the run ends.", kind="path"
    )
    quiet: bool = param(False, "Print the averages alone to stdout, as JSON, and errors alone to stderr.")
    report: bool = param(False, "Write an HTML report of the run, as ng_view_rollouts does.", doc="[View](view.md).")
    serve: bool = param(
        False,
        "Serve a page that follows the run, on this machine; its address is printed.",
        doc="[View](view.md#follow-a-run).",
    )
    export: Any = param(
        None,
        "Send the finished run to `wandb`, `mlflow`, `trackio` or `parquet`, or a list of them; each is an extra.",
        doc="[Integrations](metrics.md#integrations).",
        kind="str or list",
        annotation="str | Sequence[str] | None",
    )
    export_every_s: float | None = param(
        None,
        "Seconds between running figures for the experiment trackers in `export` (null: only the finished run).",
        minimum=0.1,
        below=MAX_SECONDS,
    )
    export_project: str = param("ng_rollouts", "Project or experiment for the run in experiment trackers.")


# Dataclasses collect fields from the last base to the first: in this order, the fields are in the order of SECTIONS.
@dataclass(kw_only=True)
class CollectConfig(
    MetricsAndReports,
    Shards,
    FailuresAndResume,
    RateAndBudget,
    Execution,
    Sampling,
    ModelServers,
    Agents,
    InputAndOutput,
):
    """The parameters of a run.

    Raises:
        ConfigError: a value is missing, out of range, or contradicts another.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        check_combinations(self)
        hedge_threshold(self.hedge_after)
        check_max_failed(self.max_failed_rollouts)
        check_min_mean(self.min_mean)
        check_sampling(self.responses_create_params, "responses_create_params.")
        # One representation for values that mean the same, so that other modules need not know the alternatives.
        self.executor = executor_options(self.executor)
        self.export = integration_names(self.export)
        self.count_as_zero = zero_names(
            self.count_as_zero, self.count_failure_classes_as_zero, missing=self.count_missing_rollouts_as_zero
        )
        self.max_steps = self.max_rollout_turns or self.max_steps
        self.limit = self.limit or None
        self.num_samples_in_parallel = self.num_samples_in_parallel or None
        self.num_repeats = 1 if self.num_repeats is None else self.num_repeats
        check_repeats(self.num_repeats)


SECTIONS = (
    InputAndOutput,
    Agents,
    ModelServers,
    Sampling,
    Execution,
    RateAndBudget,
    FailuresAndResume,
    Shards,
    MetricsAndReports,
)


def names_that_decide_results() -> set[str]:
    """The parameters that a resume must not change."""
    return {each.name for each in fields(CollectConfig) if (spec := spec_of(each)) and spec.decides_results}
