"""Executor that makes attempts in Ray actors, spread over the nodes of a cluster.

Actors only make attempts. The plan, the journal, the order and the metrics stay in this process, the driver. If an
actor is killed or its node is removed, its attempts are repeated on other actors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import ray
from ray.exceptions import RayError

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log
from ng_rollouts.errors import AttemptFailed, ConfigError, FailureClass, StoppedEarly, Unreachable
from ng_rollouts.executors.ray_worker import AttemptOutcome, AttemptRequest, RayWorker, failure_from_values
from ng_rollouts.models.attempt import count_tokens
from ng_rollouts.types import Json, Result, Rollout

_MAX_BATCH = 64
"""Requests in one remote call. A batch shares the cost of the call, and stays small enough to be sent at once."""

_POLL_TIMEOUT_S = 1.0
"""An actor with no outcomes replies after this time. The empty reply shows that it is alive."""

_REPLY_TIMEOUT_S = 300.0
"""An actor that does not reply to a call within this time, not even with an empty list, counts as lost."""

_START_TIMEOUT_S = 120.0
"""Time limit for the first actor to start, and again for its agents. A cluster that scales may first add a node."""

_OTHER_ACTORS_TIMEOUT_S = 15.0
"""Time that the other actors get once the first is up. The rate limits are divided among those that are up by then."""

_CONNECT_TIMEOUT_S = 5.0
"""Time limit for a connection to the cluster's address, before Ray is called: Ray itself retries for minutes."""

_CLOSE_TIMEOUT_S = 10.0
"""Time limit for actors to close their connections. After that they are killed."""

_CANCEL_TIMEOUT_S = 1.0
"""How long an actor may take to report the tokens of an attempt that it was asked to cancel."""

_MAX_LOSSES_PER_ROLLOUT = 3
"""A rollout fails once this many actors were lost while they ran it, because it may itself be what ends them."""

_MAX_CONSECUTIVE_LOSSES = 10
"""An actor that is lost this many times without an outcome in between is not restarted."""


class _ActorLostError(Exception):
    """The actor that ran an attempt was lost."""


def _check_reachable(address: str | None) -> None:
    """Check that a server accepts connections at `host:port`. Other forms of an address are not checked.

    Raises:
        OSError: no server does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S):
            pass


async def _ping(actor: _Actor) -> None:
    await actor.handle.ping.remote()


def _result_of(outcome: AttemptOutcome) -> Result:
    """The result of an attempt, whose tokens are counted.

    Raises:
        AttemptFailed: it has none.
    """
    if outcome.tokens:
        count_tokens(outcome.tokens)
    if outcome.result is None:
        if outcome.failure is None:
            raise AttemptFailed(FailureClass.WORKER_ERROR, "no outcome")
        raise failure_from_values(outcome.failure)
    return outcome.result


async def _count_cancelled(future: asyncio.Future[AttemptOutcome]) -> None:
    """Count the tokens of an attempt that its actor cancels: they are spent."""
    with suppress(TimeoutError, _ActorLostError):
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            if tokens := (await future).tokens:
                count_tokens(tokens)


@dataclass(eq=False, slots=True)
class _Actor:
    """The driver's view of an actor.

    Attributes:
        handle: Ray's handle; a new one after each loss.
        pending: the attempts in flight, by request id.
        outbox: requests that are not sent yet.
        has_requests: set while the outbox is not empty.
        is_up: whether it has agents and takes requests.
        consecutive_losses: how often it was lost since its last outcome.
    """

    handle: Any
    pending: dict[int, asyncio.Future[AttemptOutcome]] = field(default_factory=dict)
    outbox: list[AttemptRequest] = field(default_factory=list)
    has_requests: asyncio.Event = field(default_factory=asyncio.Event)
    is_up: bool = False
    consecutive_losses: int = 0

    def enqueue(self, request: AttemptRequest) -> None:
        self.outbox.append(request)
        self.has_requests.set()


class RayExecutor:
    """Makes attempts in the actors of a Ray cluster. Each attempt goes to the least busy actor.

    Args:
        config: the run's parameters.
        rows: the number of rows for each agent, by name.

    Raises:
        Unreachable: the cluster cannot be reached, or no actor could be started.
    """

    def __init__(self, config: CollectConfig, rows: Mapping[str, int]) -> None:
        self._config = config
        self._rows = dict(rows)
        self._options = config.executor
        self._actors: list[_Actor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._request_ids = count()
        self._state_changed = asyncio.Event()
        self._last_loss: BaseException | None = None
        self._actors_lost = self._attempts_repeated = 0

    async def __aenter__(self) -> Self:
        self._connect()
        requested = self._actors_to_start()
        try:
            self._actors = await self._start_actors(requested)
            for actor in self._actors:
                self._spawn(self._supervise(actor))
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._wait_until_up()
        except TimeoutError as error:
            await self.__aexit__()
            message = f"no Ray actor was ready within {_START_TIMEOUT_S:g} s"
            raise Unreachable(f"{message}: check that the cluster has free CPUs") from error
        except BaseException:
            await self.__aexit__()  # `async with` does not call it if __aenter__ raises
            raise
        nodes = len([node for node in ray.nodes() if node["Alive"]])
        started = len(self._actors)
        actors = f"{started} actors" if started == requested else f"{started} of {requested} actors"
        log(f"Ray: {actors} on {nodes} nodes")
        return self

    async def _start_actors(self, requested: int) -> list[_Actor]:
        """Start actors, and return those for which the cluster has resources."""
        actors = [_Actor(self._new_handle()) for _ in range(requested)]
        pings = {asyncio.ensure_future(_ping(actor)): actor for actor in actors}
        async with asyncio.timeout(_START_TIMEOUT_S):
            await asyncio.wait(pings, return_when=asyncio.FIRST_COMPLETED)
        if len(pings) > 1:
            await asyncio.wait(pings, timeout=_OTHER_ACTORS_TIMEOUT_S)
        started = [actor for ping, actor in pings.items() if ping.done()]
        for ping, actor in pings.items():
            if not ping.done():
                ping.cancel()
                ray.kill(actor.handle)  # or Ray would start it whenever resources become free
        return started

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                closing = [actor.handle.close.remote() for actor in self._actors if actor.is_up]
                await asyncio.gather(*closing, return_exceptions=True)
        for actor in self._actors:
            ray.kill(actor.handle)
        ray.shutdown()

    @property
    def max_concurrency(self) -> int | None:
        """Upper bound of attempts in flight on all actors together."""
        return len(self._actors) * int(self._options["max_in_flight_per_actor"])

    def summary_lines(self) -> Iterator[str]:
        """The numbers of lost actors and repeated attempts, if any."""
        if self._actors_lost:
            repeated = f"{self._attempts_repeated} of their attempts were repeated"
            yield f"Ray: {self._actors_lost} lost actors, {repeated}"

    async def call(self, rollout: Rollout, attempts: int, answer: Json | None = None) -> Result:
        """Make one attempt, and repeat it on another actor if its actor is lost.

        A repetition does not count towards `max_attempts`.

        Raises:
            AttemptFailed: it did not end in a result.
            StoppedEarly: no actor is left.
        """
        for _ in range(_MAX_LOSSES_PER_ROLLOUT):
            actor = await self._least_busy()
            request_id = next(self._request_ids)
            future: asyncio.Future[AttemptOutcome] = asyncio.get_running_loop().create_future()
            actor.pending[request_id] = future
            actor.enqueue(AttemptRequest(request_id, rollout, attempts, answer))
            try:
                return _result_of(await asyncio.shield(future))
            except _ActorLostError:
                self._attempts_repeated += 1
            except asyncio.CancelledError:
                actor.enqueue(AttemptRequest.cancellation(request_id))
                await _count_cancelled(future)
                raise
            finally:
                actor.pending.pop(request_id, None)
                self._state_changed.set()  # another call may be waiting for a free slot
        message = f"{_MAX_LOSSES_PER_ROLLOUT} actors were lost while they ran it"
        raise AttemptFailed(FailureClass.ACTOR_LOST, message)

    def _connect(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises:
            Unreachable: the connection failed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports unless you enable them
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _check_reachable(self._options["address"])
            ray.init(
                address=self._options["address"] or "local",  # None would join any cluster left on this machine
                runtime_env=dict(self._options["runtime_env"] or {}) or None,
                include_dashboard=False if self._options["address"] is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, TypeError, ValueError, RayError) as error:
            options = (
                f"executor.address={self._options['address']}, executor.runtime_env={self._options['runtime_env']}"
            )
            raise Unreachable(f"cannot connect to Ray with {options}: {error}") from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # ray.init installs its own

    def _actors_to_start(self) -> int:
        """The number of actors: as configured, or as many as the CPUs of the cluster allow.

        Raises:
            Unreachable: the cluster lacks the resources of an actor; the connection is closed.
        """
        resources = ray.cluster_resources()
        for name, needed in (self._options["resources"] or {}).items():
            if resources.get(name, 0) < needed:
                ray.shutdown()
                raise Unreachable(f"executor.resources.{name}={needed}: the cluster has {resources.get(name, 0):g}")
        by_cpus = int(resources.get("CPU", 1) // (self._options["num_cpus"] or 1))
        return int(self._options["num_actors"] or max(1, by_cpus))

    def _new_handle(self) -> Any:
        actor_class = ray.remote(RayWorker).options(
            num_cpus=self._options["num_cpus"],
            resources=dict(self._options["resources"] or {}),
            scheduling_strategy="SPREAD",
            max_concurrency=1000,  # calls at once in an async actor; `take` waits while `submit` is served
        )
        return actor_class.remote(self._config, self._rows)

    async def _supervise(self, actor: _Actor) -> None:
        """Create an actor's agents, exchange batches with it, and restart it when it is lost."""
        while actor.consecutive_losses < _MAX_CONSECUTIVE_LOSSES:
            try:
                await actor.handle.start.remote(len(self._actors))
                actor.is_up = True
                self._state_changed.set()
                async with asyncio.TaskGroup() as exchange:
                    exchange.create_task(self._send(actor))
                    exchange.create_task(self._receive(actor))
            except* Exception as errors:
                self._record_loss(actor, errors.exceptions[0])
                ray.kill(actor.handle)  # it may only be slow: an actor must not run attempts that are repeated
                if actor.consecutive_losses < _MAX_CONSECUTIVE_LOSSES:
                    actor.handle = self._new_handle()

    def _record_loss(self, actor: _Actor, error: BaseException) -> None:
        self._last_loss = error
        self._actors_lost += actor.is_up
        actor.is_up = False
        actor.consecutive_losses += 1
        actor.outbox.clear()
        for future in actor.pending.values():
            if not future.done():
                future.set_exception(_ActorLostError())
        self._state_changed.set()

    async def _send(self, actor: _Actor) -> None:
        while True:
            await actor.has_requests.wait()
            batch, actor.outbox = actor.outbox[:_MAX_BATCH], actor.outbox[_MAX_BATCH:]
            if not actor.outbox:
                actor.has_requests.clear()
            async with asyncio.timeout(_REPLY_TIMEOUT_S):
                await actor.handle.submit.remote(batch)

    async def _receive(self, actor: _Actor) -> None:
        while True:
            async with asyncio.timeout(_REPLY_TIMEOUT_S):
                outcomes: list[AttemptOutcome] = await actor.handle.take.remote(_POLL_TIMEOUT_S)
            for outcome in outcomes:
                actor.consecutive_losses = 0
                future = actor.pending.get(outcome.request_id)
                if future is None or future.done():  # cancelled in the meantime
                    continue
                future.set_result(outcome)

    async def _least_busy(self) -> _Actor:
        """The actor with the fewest attempts in flight; wait for one that is up and below its bound.

        Raises:
            StoppedEarly: no actor is left.
        """
        limit = int(self._options["max_in_flight_per_actor"])
        while True:
            available = [actor for actor in self._actors if actor.is_up and len(actor.pending) < limit]
            if available:
                return min(available, key=lambda actor: len(actor.pending))
            self._check_any_left()
            self._state_changed.clear()
            await self._state_changed.wait()

    async def _wait_until_up(self) -> None:
        """Wait until each actor is up or was lost, and at least one is up."""
        while not all(actor.is_up or actor.consecutive_losses for actor in self._actors) or not any(
            actor.is_up for actor in self._actors
        ):
            self._check_any_left()
            self._state_changed.clear()
            await self._state_changed.wait()

    def _check_any_left(self) -> None:
        """Check that an actor is up or is restarted.

        Raises:
            ConfigError, StoppedEarly: none is left; the error of the last one if it is such an error.
        """
        if all(actor.consecutive_losses >= _MAX_CONSECUTIVE_LOSSES for actor in self._actors):
            # Ray wraps an exception of the actor's own code, and keeps the original as `cause`
            cause = getattr(self._last_loss, "cause", None) or self._last_loss
            if isinstance(cause, (ConfigError, StoppedEarly)):
                raise cause
            first_line = next(iter(str(cause).strip().splitlines()), "")
            raise StoppedEarly(f"no Ray actor is left: {type(cause).__name__}: {first_line}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
