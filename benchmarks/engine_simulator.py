"""A discrete-event simulator of an inference engine with continuous batching, in virtual time.

It schedules as vLLM's V1 engine does: one step after the other, in which every running request decodes one token and
prompts are prefilled in chunks within a budget of tokens. A request needs a block of the KV cache for each 16 tokens.
If no block is free, the request that began last is preempted: its blocks are freed, and all its tokens are computed
again when it has returned from the head of the queue. A step of `n` decoding requests, with `k` tokens in the cache and
`p` tokens of prompts, takes `step_s + n * request_s + k * cached_s + p * prefill_s`: reading the weights, overhead,
reading the cache, and computing.

The engines of `ENGINES` have these figures:

- `step_s`: published times per output token of a single request. The H100's 6.5 ms and the A100's 13.3 ms (75 tokens/s)
  are of `vllm bench serve` sweeps of Llama-3.1-8B in bf16. The others are the weights' bytes over 77 % of the bandwidth
  in the data sheet, the share that those sweeps reach.
- `cached_s`: bytes per token of the cache (layers x KV heads x 2 x 128 x 2 bytes), over the same bandwidth.
- `prefill_s`: 2 FLOP per parameter and token, at 50 % of the bf16 peak in the data sheet.
- `blocks`: 90 % of the memory (`--gpu-memory-utilization`) less weights and 2 GB per GPU, over 16 tokens.
- `max_running`, `budget`: vLLM's defaults of `--max-num-seqs` (256) and `--max-num-batched-tokens` (8192, or 2048).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from ng_rollouts.scheduling.concurrency import ConcurrencyLimit, FixedLimit
from ng_rollouts.scheduling.engine_limit import EngineAwareLimit
from ng_rollouts.types import EngineSample

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The figures of an engine, and the lengths of the rollouts that it is used for.

    Attributes:
        step_s, request_s, cached_s, prefill_s: costs of a step in seconds, as in the module's docstring.
        blocks: blocks of the KV cache, of 16 tokens.
        max_running: requests in a batch.
        budget: tokens in a step.
        prompt, output: mean tokens of a prompt and of an output; `spread` is the sigma of their lognormal distribution.
        slower_by, slower_from: factor of all costs from this number of completed rollouts on.
    """

    step_s: float
    cached_s: float
    prefill_s: float
    blocks: int
    request_s: float = 10e-6
    max_running: int = 256
    budget: int = 8192
    prompt: int = 500
    output: int = 1000
    spread: float = 0.8
    slower_by: float = 1.0
    slower_from: int = 0


ENGINES = {
    "RTX 4090, Mistral-7B, outputs of 800 tokens": Engine(
        step_s=18.7e-3, cached_s=169e-9, prefill_s=176e-6, blocks=2_430, budget=2048, prompt=300, output=800
    ),
    "H100, Llama-3.1-8B, outputs of 1,500 tokens": Engine(
        step_s=6.5e-3, cached_s=51e-9, prefill_s=32e-6, blocks=25_700, prompt=800, output=1500
    ),
    "4 x H100, Llama-3.1-70B, outputs of 6,000 tokens": Engine(
        step_s=13.7e-3, cached_s=32e-9, prefill_s=71e-6, blocks=26_700, prompt=1000, output=6000
    ),
    "A100 40 GB, Llama-3.1-8B, half as fast midway": Engine(
        step_s=13.3e-3,
        cached_s=109e-9,
        prefill_s=103e-6,
        blocks=8_600,
        budget=2048,
        prompt=500,
        output=1200,
        slower_by=2.0,
        slower_from=1000,
    ),
}


@dataclass(slots=True, eq=False)
class Request:
    """A rollout of one request.

    Attributes:
        generated: output tokens so far.
        to_prefill: tokens to compute before the next output token.
        phase: `(tokens - steps) % 16` while it decodes: it needs a block when the phase of the step is its own.
    """

    prompt: int
    output: int
    generated: int = 0
    to_prefill: int = 0
    phase: int = 0
    decoding_since: int = -1

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated


@dataclass(slots=True)
class Outcome:
    """The result of a simulation: seconds, tokens of prompts and outputs, and tokens that were computed again."""

    seconds: float = 0.0
    tokens: int = 0
    recomputed: int = 0

    @property
    def preempted_share(self) -> float:
        return self.recomputed / self.tokens


def lengths(mean: int, sigma: float, rng: random.Random) -> int:
    """A lognormal length with this mean, at least one token."""
    return max(1, round(rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)))


def rollouts_of(engine: Engine, number: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    return [
        Request(prompt=lengths(engine.prompt, 0.4, rng), output=lengths(engine.output, engine.spread, rng))
        for _ in range(number)
    ]


class SimulatedEngine:
    """An engine, one step at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = 0.0
        self.completed = self.preemptions = self.recomputed = 0
        self.queue: deque[Request] = deque()
        self.running: dict[Request, None] = {}  # in the order in which they began
        self._prefilling: deque[Request] = deque()
        self._steps = 0
        self._free = engine.blocks
        self._decoding = self._cached = 0
        self._phases = [0] * BLOCK_TOKENS
        self._ends: list[tuple[int, int, Request, int]] = []

    def sample(self) -> EngineSample:
        """The gauges."""
        return EngineSample(
            at=self.now,
            running=len(self.running),
            waiting=len(self.queue),
            cache=1 - self._free / self.engine.blocks,
            preemptions=self.preemptions,
        )

    def step(self) -> int:
        """Compute one step; the number of requests that completed with it."""
        self._steps += 1
        preempted = self._take_blocks()
        if not preempted:
            self._admit()
        decoding = self._decoding
        prefilled = self._prefill()
        self._cached += decoding
        engine = self.engine
        speed = engine.slower_by if self.completed >= engine.slower_from else 1.0
        self.now += speed * (
            engine.step_s + decoding * engine.request_s + self._cached * engine.cached_s + prefilled * engine.prefill_s
        )
        return self._complete()

    def _take_blocks(self) -> bool:
        """A block for each request that begins one; preempts if there are not enough."""
        phase = -self._steps % BLOCK_TOKENS
        preempted = False
        while (wanted := self._phases[phase]) > self._free:
            self._preempt(next(reversed(self.running)))
            preempted = True
        self._free -= wanted
        return preempted

    def _preempt(self, request: Request) -> None:
        del self.running[request]
        if request.decoding_since >= 0:
            self._stop_decoding(request)
            computed = request.tokens
        else:
            self._prefilling.remove(request)
            self._cached -= request.tokens - request.to_prefill
            computed = request.tokens - request.to_prefill
        self._free += blocks_of(request.tokens)
        self.preemptions += 1
        self.recomputed += computed
        self.queue.appendleft(request)

    def _stop_decoding(self, request: Request) -> None:
        # The step that is under way has not decoded its token yet.
        request.generated += self._steps - 1 - request.decoding_since
        request.decoding_since = -1
        self._phases[request.phase] -= 1
        self._decoding -= 1
        self._cached -= request.tokens

    def _admit(self) -> None:
        room = self.engine.budget - self._decoding - sum(each.to_prefill for each in self._prefilling)
        while self.queue and len(self.running) < self.engine.max_running and room > 0:
            needed = blocks_of(self.queue[0].tokens)
            if needed > self._free:
                return
            request = self.queue.popleft()
            self._free -= needed
            request.to_prefill = request.tokens
            room -= request.to_prefill
            self.running[request] = None
            self._prefilling.append(request)

    def _prefill(self) -> int:
        room = max(0, self.engine.budget - self._decoding)
        prefilled = 0
        while self._prefilling and room:
            request = self._prefilling[0]
            chunk = min(room, request.to_prefill)
            request.to_prefill -= chunk
            room, prefilled = room - chunk, prefilled + chunk
            self._cached += chunk
            if request.to_prefill == 0:
                self._prefilling.popleft()
                self._begin_decoding(request)
        return prefilled

    def _begin_decoding(self, request: Request) -> None:
        request.decoding_since = self._steps
        # In step s it has tokens + s - steps tokens, and needs a block when that becomes a multiple of 16, plus one.
        request.phase = (request.tokens - self._steps - 1) % BLOCK_TOKENS
        self._phases[request.phase] += 1
        self._decoding += 1
        end = self._steps + request.output - request.generated
        heapq.heappush(self._ends, (end, id(request), request, request.decoding_since))

    def _complete(self) -> int:
        ended = 0
        while self._ends and self._ends[0][0] <= self._steps:
            _, _, request, since = heapq.heappop(self._ends)
            if request.decoding_since != since:
                continue  # it was preempted
            del self.running[request]
            self._steps += 1  # its token of this step is decoded
            self._stop_decoding(request)
            self._steps -= 1
            self._free += blocks_of(request.tokens)
            ended += 1
        self.completed += ended
        return ended


def blocks_of(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def simulate(
    engine: Engine,
    limit: ConcurrencyLimit,
    rollouts: list[Request],
    observe: Callable[[EngineSample, int], None] = lambda _, __: None,
    every_s: float = 1.0,
) -> Outcome:
    """Collect rollouts in virtual time, as the scheduler does.

    Args:
        observe: receives the gauges and the rollouts in flight every `every_s` seconds.
    """
    simulated, outcome = SimulatedEngine(engine), Outcome(tokens=sum(each.prompt + each.output for each in rollouts))
    remaining = deque(Request(prompt=each.prompt, output=each.output) for each in rollouts)
    in_flight, next_sample = 0, 0.0
    while remaining or in_flight:
        while remaining and in_flight < limit.current:
            simulated.queue.append(remaining.popleft())
            in_flight += 1
        for _ in range(simulated.step()):
            in_flight -= 1
            limit.record_success(simulated.now)
        if simulated.now >= next_sample:
            next_sample = simulated.now + every_s
            observe(simulated.sample(), in_flight)
    outcome.seconds, outcome.recomputed = simulated.now, simulated.recomputed
    return outcome


def collect(engine: Engine, limit: ConcurrencyLimit, number: int, seed: int, *, gauges: bool = False) -> Outcome:
    """Collect rollouts with a limit, which receives the gauges if it can use them."""

    def observe(sample: EngineSample, in_flight: int) -> None:
        if gauges and isinstance(limit, EngineAwareLimit):
            limit.observe("engine", sample, in_flight)

    return simulate(engine, limit, rollouts_of(engine, number, seed), observe)


def best_fixed(engine: Engine, number: int, seed: int = 1) -> int:
    """The fixed number of rollouts in flight with the shortest time, to about 5 %."""
    tried, parallel = {}, 8
    while parallel <= engine.max_running:
        tried[parallel] = collect(engine, FixedLimit(parallel), number, seed).seconds
        parallel = max(parallel + 1, round(parallel * 1.05))
    return min(tried, key=lambda each: tried[each])


def comparison_row(name: str, engine: Engine, number: int, seeds: Sequence[int]) -> str:
    """A row of a Markdown table: times relative to that of the best fixed number, and preempted tokens."""
    best = best_fixed(engine, number)
    ways: dict[str, Callable[[int], Outcome]] = {
        "best": lambda seed: collect(engine, FixedLimit(best), number, seed),
        "32": lambda seed: collect(engine, FixedLimit(32), number, seed),
        "unlimited": lambda seed: collect(engine, FixedLimit(number), number, seed),
        "gauges": lambda seed: collect(engine, EngineAwareLimit(number), number, seed, gauges=True),
        "throughput": lambda seed: collect(engine, EngineAwareLimit(number), number, seed),
    }
    outcomes = {way: [run(seed) for seed in seeds] for way, run in ways.items()}
    seconds = mean(each.seconds for each in outcomes["best"])
    cells = [name, f"{best} in flight: {seconds:,.0f} s, {_preempted(outcomes['best'])}"]
    for way in ("32", "unlimited", "throughput", "gauges"):
        speed = mean(best.seconds / own.seconds for best, own in zip(outcomes["best"], outcomes[way], strict=True))
        cells.append(f"{speed:.1%}, {_preempted(outcomes[way])}")
    return f"| {' | '.join(cells)} |"


def _preempted(outcomes: Sequence[Outcome]) -> str:
    return f"{mean(each.preempted_share for each in outcomes):.1%}"
