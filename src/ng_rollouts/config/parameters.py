"""Every parameter of the command, documented once, under its field.

The classes are the sections of `--help`, in order; a field's docstring is its line there. Values are checked
when a `CollectConfig` is made, so that a wrong one is met before anything else happens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.config.validation import check_repeats, check_sampling, executor_options, integration_names
from ng_rollouts.errors import ConfigError

RESPONSES_PARAMETERS = frozenset(
    "background include input instructions max_output_tokens max_tool_calls metadata model parallel_tool_calls "
    "previous_response_id prompt reasoning seed service_tier store stream temperature text tool_choice tools "
    "top_logprobs top_p truncation user".split()
)
"""The fields of an OpenAI Responses request that NeMo Gym's agents accept, and `seed`."""

MAX_SECONDS = 1e8
"""Three years: nobody means to wait longer, and timers do not count further."""

POLICY_APIS = ("auto", "responses", "chat_completions")

ENTRY_KEYS = (
    "policy_base_url",
    "policy_api_key",
    "policy_model_name",
    "policy_api",
    "responses_create_params",
    "verifier",
    "resources_base_url",
    "tools",
    "max_steps",
)
"""What an entry under `agents` may say of a model server; what it does not say, the parameter of that name does."""

HTTP_ENGINES = ("auto", "pyreqwest", "httpx")


@dataclass(kw_only=True)
class HeadServer:
    host: str = "127.0.0.1"
    """Host of the head server."""

    port: int = 11000
    """Port of the head server."""


@dataclass(kw_only=True)
class InputAndOutput:
    """Input and output"""

    input_jsonl_fpath: str = ""
    """Tasks, one JSON object a line. Required."""

    output_jsonl_fpath: str = ""
    """Where the rollouts go; its folder is made. Compressed at the end if named .jsonl.zst or .jsonl.gz. Required."""

    limit: int | None = None
    """Only the first N rows of the input (null or 0: all)."""

    num_repeats: Any = field(default=1, metadata={"type": "int or {agent: int}"})
    """Rollouts per task; per agent as {agent: n, _default: n}."""

    prompt_config: str | None = None
    """YAML file with a `user` (and a `system`) template that makes each row's input from its fields."""

    training_view: bool = True
    """Add `prompt_id`, `input` and `output` (chat messages) to each rollout and write bools as numbers."""

    materialized_inputs: bool = False
    """Also write `<stem>_materialized_inputs.jsonl`, a row for each planned rollout, as NeMo Gym's commands want it."""

    overwrite: bool = False
    """Replace an existing output instead of moving it aside."""

    upload_to: str | None = None
    """Folder, at a URL such as s3://bucket/run, that gets copies of all files when the run ends, however it does."""


@dataclass(kw_only=True)
class Agents:
    """Agents"""

    agent_name: str | None = None
    """Agent for the rows that name none in `agent_ref`."""

    agent_url: Any = field(default=None, metadata={"type": "str or list"})
    """Address of that agent, or several, used least busy first; without agent_name it serves every row."""

    agents: dict[str, Any] = field(default_factory=dict)
    """Agents by name: {url: address or list}, {policy_base_url: ...}, or {_target_: module.function}; see `agent=`."""

    head_server: HeadServer = field(default_factory=HeadServer)
    """Where other names are looked up: a NeMo Gym head server."""


@dataclass(kw_only=True)
class ModelServers:
    """Straight to a model server"""

    policy_base_url: Any = field(default=None, metadata={"type": "str or list"})
    """OpenAI-compatible endpoint up to /v1, or several; an agent in this process asks it and verifies."""

    policy_api_key: str | None = None
    """Its key, best as '${oc.env:OPENAI_API_KEY}'."""

    policy_model_name: str | None = None
    """The model to ask for; null where the endpoint has only one."""

    policy_api: str = "auto"
    """`responses`, `chat_completions`, or `auto`: /responses, unless it is not there."""

    verifier: dict[str, Any] = field(default_factory=dict)
    """What scores answers; see `verifier=`. +verifier.answer_field=FIELD names the expected answer."""

    resources_base_url: str | None = None
    """A NeMo Gym resources server: its tools are called, its /verify scores."""

    tools: str | None = None
    """Python module or file whose functions are the tools."""

    max_steps: int = 32
    """Calls of the model within one rollout, tools in between."""


@dataclass(kw_only=True)
class Prices:
    input: float | None = None
    """Price of a million input tokens; with the other, the cost is shown."""

    output: float | None = None
    """Price of a million output tokens."""


@dataclass(kw_only=True)
class Pacing:
    """Pace and budget"""

    adaptive_parallelism: bool = False
    """Find out how many rollouts the servers take at once, up to num_samples_in_parallel."""

    max_requests_per_minute: float | None = None
    """Send no more than this many requests a minute, evenly."""

    max_tokens_per_minute: float | None = None
    """Send no more than what takes this many tokens a minute, by the usage of replies."""

    max_total_tokens: int | None = None
    """Take up no new rollouts once those of this command have taken so many tokens."""

    price_per_million: Prices = field(default_factory=Prices)
    """Prices, for the cost in progress and summary."""


@dataclass(kw_only=True)
class Sampling:
    """Sampling"""

    responses_create_params: dict[str, Any] = field(default_factory=dict)
    """Overrides of each row's own: .temperature=0.7 .top_p=0.9 .max_output_tokens=512 .seed=42 ..."""

    num_repeats_add_seed: bool = False
    """Give every rollout a seed of its own: its rollout index, counted from a given seed."""


@dataclass(kw_only=True)
class Running:
    """Running"""

    num_samples_in_parallel: int | None = None
    """Rollouts in flight at once (null or 0: as many as open files allow)."""

    executor: dict[str, Any] = field(default_factory=dict)
    """Where attempts are made; see `executor=`. +executor=ray has actors of a Ray cluster make them."""

    dry_run: bool = False
    """Send no rollouts: check everything, and show the plan and the first request."""

    canary: int = 0
    """Send so many rollouts first, and the rest only if none of them failed."""

    http_engine: str = "auto"
    """What sends: `pyreqwest`, `httpx`, or `auto`, which is pyreqwest where it is installed."""

    connect_timeout_s: float | None = 10.0
    """Seconds to wait for a connection (null: no bound)."""

    idle_timeout_s: float | None = 1800.0
    """Seconds that a server may send nothing while it owes a reply (null: no bound)."""

    rollout_timeout_s: float | None = 3600.0
    """Seconds that one attempt at a rollout may take, from sending (null: no bound)."""

    wait_for_agent_s: float = 10.0
    """Seconds to wait for an agent server that is not there yet, before anything is sent."""

    drain_s: float = 10.0
    """Seconds that rollouts in flight may take to finish after Ctrl-C or SIGTERM."""


@dataclass(kw_only=True)
class Failing:
    """Failures and resuming"""

    resume_from_cache: bool = False
    """Go on with the output that is there: keep what is collected, collect what is owed."""

    retry_failed: bool = True
    """On a resume, try rollouts again that failed, unless the agent called that pointless."""

    max_attempts: int = 3
    """Attempts at a rollout before it counts as failed."""

    retry_budget_s: float | None = 3600.0
    """No attempt begins later than this many seconds after the rollout's first (null: no bound)."""

    max_failed_rollouts: Any = field(default=0, metadata={"type": "int or fraction"})
    """More failures than this, a count or a fraction such as 0.01 of all planned, end with exit code 1."""

    incomplete_groups: str = "set_aside"
    """Rollouts of tasks some of whose repeats failed: `set_aside` beside the output, or `keep` in it."""


@dataclass(kw_only=True)
class Shards:
    """Shards"""

    shard_index: int | None = None
    """Collect only every num_shards-th task, from this one on, into an output of its own."""

    num_shards: int | None = None
    """How many commands share the input."""

    shard_from: str | None = None
    """`slurm`: both are taken from the job array's variables, or from those of srun."""


@dataclass(kw_only=True)
class Figures:
    """Figures"""

    disable_aggregation: bool = False
    """Write no aggregate metrics."""

    answer_key: str | None = None
    """Field whose majority counts for majority@k (null: extracted_answer)."""

    agent_side_metrics: str = "auto"
    """`auto`: agents that the head server lists are asked for their own metrics after a run; `never`."""

    metrics_by: str | None = None
    """`agent`: print the averages of each agent, too."""

    min_mean: dict[str, float] = field(default_factory=dict)
    """Least means, such as .reward=0.6; a lower one ends with exit code 5."""

    min_coverage: float = 0.0
    """Least share of the planned rollouts in the finished file; a lower one ends with exit code 5."""

    status_file: str | None = None
    """Where other programs can watch a run (null: beside the output); gone at its end."""

    quiet: bool = False
    """No histogram at the end."""

    report: bool = False
    """Make a page to read the run by, as ng_view_rollouts does."""

    export: Any = field(default=None, metadata={"type": "str or list"})
    """Hand the finished run on: `wandb`, `mlflow`, `trackio`, `parquet`, or a list of them; each is an extra."""

    export_project: str = "ng_rollouts"
    """Project or experiment that trackers file the run under."""


@dataclass(kw_only=True)
class CollectConfig(Figures, Shards, Failing, Pacing, Running, Sampling, ModelServers, Agents, InputAndOutput):
    """What `ng_collect_rollouts` is told.

    Raises:
        ConfigError: a value is missing, out of range, or at odds with another.
    """

    def __post_init__(self) -> None:
        for key in ("input_jsonl_fpath", "output_jsonl_fpath"):
            if not getattr(self, key):
                raise ConfigError(f"{key} is missing: add +{key}=FILE.jsonl")
        for key in (
            "agent_name",
            "agent_url",
            "prompt_config",
            "policy_base_url",
            "policy_model_name",
            "tools",
            "upload_to",
        ):
            if getattr(self, key) in ("", []):
                raise ConfigError(f"{key} is empty: leave it out, or give it a value")
        if not 0 < self.head_server.port < 65536:
            raise ConfigError(f"head_server.port must be from 1 to 65535, got {self.head_server.port}")
        _check_counts(self)
        _check_model_server(self)
        _check_failing(self)
        _check_figures(self)
        _check_shards(self)
        self.executor = executor_options(self.executor)
        _check_seconds(self)
        check_sampling(self.responses_create_params, "responses_create_params.")
        self.export = integration_names(self.export)
        self.limit = self.limit or None
        self.num_samples_in_parallel = self.num_samples_in_parallel or None
        self.num_repeats = 1 if self.num_repeats is None else self.num_repeats
        check_repeats(self.num_repeats)


SECTIONS = (InputAndOutput, Agents, ModelServers, Sampling, Running, Pacing, Failing, Shards, Figures)


def _check_model_server(config: CollectConfig) -> None:
    if config.policy_api not in POLICY_APIS:
        raise ConfigError(f"policy_api must be one of {', '.join(POLICY_APIS)}, got {config.policy_api!r}")
    if config.policy_api == "responses" and config.num_repeats_add_seed:
        raise ConfigError("/responses takes no seed, which num_repeats_add_seed gives: use policy_api=chat_completions")
    if config.policy_base_url is not None and config.agent_url is not None:
        raise ConfigError("agent_url is for an agent server, policy_base_url for a model server: give one of them")
    if config.resources_base_url and config.tools:
        raise ConfigError("resources_base_url and tools both bring tools: give one of them")
    if config.policy_base_url is None and not any(
        "policy_base_url" in (entry or ()) for entry in config.agents.values()
    ):
        for key in ("verifier", "resources_base_url", "tools"):
            if getattr(config, key) and not any(isinstance(entry, dict) for entry in config.agents.values()):
                raise ConfigError(f"{key} is for a model server: add +policy_base_url=http://127.0.0.1:8000/v1")


def _check_counts(config: CollectConfig) -> None:
    for key in ("limit", "num_samples_in_parallel"):
        value = getattr(config, key)
        if value is not None and value < 0:
            raise ConfigError(f"{key} must be >= 0 (null or 0: no limit), got {value}")
    for key in ("max_attempts", "max_steps"):
        if getattr(config, key) < 1:
            raise ConfigError(f"{key} must be >= 1, got {getattr(config, key)}")
    if config.canary < 0:
        raise ConfigError(f"canary must be >= 0, got {config.canary}")
    for key in ("max_requests_per_minute", "max_tokens_per_minute", "max_total_tokens"):
        value = getattr(config, key)
        if value is not None and not value > 0:
            raise ConfigError(f"{key} must be more than 0 (null: no bound), got {value:g}")
    for key in ("input", "output"):
        price = getattr(config.price_per_million, key)
        if price is not None and not price >= 0:
            raise ConfigError(f"price_per_million.{key} must be >= 0, got {price:g}")


def _check_seconds(config: CollectConfig) -> None:
    for key in ("connect_timeout_s", "idle_timeout_s", "rollout_timeout_s", "retry_budget_s"):
        value = getattr(config, key)
        if value is not None and not 0 < value < MAX_SECONDS:
            raise ConfigError(
                f"{key} must be more than 0 and less than {MAX_SECONDS:g} seconds (null: no bound), got {value:g}"
            )
    for key in ("wait_for_agent_s", "drain_s"):
        if not 0 <= getattr(config, key) < MAX_SECONDS:
            raise ConfigError(f"{key} must be from 0 to {MAX_SECONDS:g} seconds, got {getattr(config, key):g}")


def _check_failing(config: CollectConfig) -> None:
    if config.http_engine not in HTTP_ENGINES:
        raise ConfigError(f"http_engine must be one of {', '.join(HTTP_ENGINES)}, got {config.http_engine!r}")
    allowed = config.max_failed_rollouts
    if isinstance(allowed, bool) or not isinstance(allowed, (int, float)) or not allowed >= 0:
        raise ConfigError(f"max_failed_rollouts must be a count or a fraction such as 0.01, got {allowed!r}")
    if isinstance(allowed, float) and allowed > 1:
        raise ConfigError(f"max_failed_rollouts must be a whole count or a fraction up to 1.0, got {allowed!r}")
    if config.incomplete_groups not in ("set_aside", "keep"):
        raise ConfigError(f"incomplete_groups must be set_aside or keep, got {config.incomplete_groups!r}")
    if config.resume_from_cache and config.overwrite:
        raise ConfigError("resume_from_cache=true goes on with the output, overwrite=true replaces it: choose one")


def _check_figures(config: CollectConfig) -> None:
    if config.metrics_by not in (None, "agent"):
        raise ConfigError(f"metrics_by must be agent or null, got {config.metrics_by!r}")
    if config.agent_side_metrics not in ("auto", "never"):
        raise ConfigError(f"agent_side_metrics must be auto or never, got {config.agent_side_metrics!r}")
    if not 0 <= config.min_coverage <= 1:
        raise ConfigError(f"min_coverage must be from 0 to 1, got {config.min_coverage:g}")
    for name, least in config.min_mean.items():
        if isinstance(least, bool) or not isinstance(least, (int, float)):
            raise ConfigError(f"min_mean.{name} must be a number, got {least!r}")


def _check_shards(config: CollectConfig) -> None:
    index, count = config.shard_index, config.num_shards
    if config.shard_from not in (None, "slurm"):
        raise ConfigError(f"shard_from must be slurm or null, got {config.shard_from!r}")
    if count is not None and count < 1:
        raise ConfigError(f"num_shards must be >= 1, got {count}")
    if config.shard_from is not None:
        if index is not None:
            raise ConfigError("shard_from=slurm and shard_index both say which shard this is: give one of them")
        return
    if (index is None) != (count is None):
        raise ConfigError("shard_index and num_shards go together: +shard_index=0 +num_shards=4")
    if index is not None and count is not None and not 0 <= index < count:
        raise ConfigError(f"shard_index must be from 0 to num_shards - 1 = {count - 1}, got {index}")
