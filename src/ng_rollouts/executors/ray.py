"""Attempts by Ray actors, spread over the nodes of a cluster; plan, journal, order and figures stay here.

An actor is only a caller. What one held when it was killed, or its node removed, is asked again of another.
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
from ng_rollouts.types import Result, Rollout

_BATCH = 64
_TAKE_WAIT_S = 1.0
_SILENT_S = 300.0
"""An actor that has not said anything for so long, not even that nothing has ended, is taken for lost."""

_START_S = 120.0
"""An actor may take so long to be there: a node may have to be, first."""

_KNOCK_S = 5.0
_CLOSE_S = 10.0
_JOIN_S = 15.0
"""Once there is an actor, the others have so long to be there, too: what is allowed a minute is divided among them."""

_LOSSES_OF_A_ROLLOUT = 3
_LOSSES_IN_A_ROW = 10
"""An actor that is lost so often without having answered is not started again."""


class _LostError(Exception):
    """The actor is gone that held an attempt."""


def _knock(address: str | None) -> None:
    """See whether anybody is at an address: Ray itself would try for minutes.

    Raises:
        OSError: nobody is.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=_KNOCK_S):
            pass


async def _ping(actor: _Actor) -> None:
    await actor.handle.ping.remote()


@dataclass(eq=False, slots=True)
class _Actor:
    """An actor, and what it has been asked.

    Attributes:
        losses: how often it was lost without having answered since.
    """

    handle: Any
    pending: dict[int, asyncio.Future[Result]] = field(default_factory=dict)
    outbox: list[AttemptRequest] = field(default_factory=list)
    has_mail: asyncio.Event = field(default_factory=asyncio.Event)
    is_up: bool = False
    losses: int = 0

    def post(self, call: AttemptRequest) -> None:
        self.outbox.append(call)
        self.has_mail.set()


class RayExecutor:
    """Actors of a Ray cluster, the least busy first.

    Args:
        rows: by the name of an agent.

    Raises:
        Unreachable: there is no such cluster, or no actor could be started.
    """

    def __init__(self, config: CollectConfig, rows: Mapping[str, int]) -> None:
        self._config = config
        self._rows = dict(rows)
        self._options = config.executor
        self._actors: list[_Actor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count()
        self._room = asyncio.Event()
        self._why: BaseException | None = None
        self._lost_actors = self._asked_again = 0

    async def __aenter__(self) -> Self:
        wanted = self._connect()
        try:
            self._actors = await self._those_that_come(wanted)
            for actor in self._actors:
                self._spawn(self._look_after(actor))
            async with asyncio.timeout(_START_S):
                await self._all_are_up()
        except TimeoutError as error:
            await self.__aexit__()
            raise Unreachable(f"no Ray actor was ready within {_START_S:g} s: has the cluster free CPUs?") from error
        except BaseException:
            await self.__aexit__()
            raise
        nodes = len([node for node in ray.nodes() if node["Alive"]])
        there = (
            f"{len(self._actors)} actors" if len(self._actors) == wanted else f"{len(self._actors)} of {wanted} actors"
        )
        log(f"Ray: {there} on {nodes} nodes")
        return self

    async def _those_that_come(self, wanted: int) -> list[_Actor]:
        """The actors for which the cluster has room."""
        actors = [_Actor(self._new_handle()) for _ in range(wanted)]
        pings = {asyncio.ensure_future(_ping(actor)): actor for actor in actors}
        async with asyncio.timeout(_START_S):
            await asyncio.wait(pings, return_when=asyncio.FIRST_COMPLETED)
        if len(pings) > 1:
            await asyncio.wait(pings, timeout=_JOIN_S)
        came = [actor for ping, actor in pings.items() if ping.done()]
        for ping, actor in pings.items():
            if not ping.done():
                ping.cancel()
                ray.kill(actor.handle)
        return came

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                closed = [actor.handle.close.remote() for actor in self._actors if actor.is_up]
                await asyncio.gather(*closed, return_exceptions=True)
        for actor in self._actors:
            ray.kill(actor.handle)
        ray.shutdown()

    @property
    def max_concurrency(self) -> int | None:
        """What all actors together have room for."""
        return len(self._actors) * int(self._options["max_in_flight_per_actor"])

    def summary_lines(self) -> Iterator[str]:
        """What was lost."""
        if self._lost_actors:
            yield f"Ray: {self._lost_actors} actors were lost, {self._asked_again} attempts they held were made again"

    async def call(self, rollout: Rollout, attempts: int) -> Result:
        """Make one attempt, as often as it takes for an actor to see its end.

        Raises:
            AttemptFailed: it did not end in a result.
            StoppedEarly: no actor is left.
        """
        for _ in range(_LOSSES_OF_A_ROLLOUT):
            actor = await self._least_busy()
            number = next(self._numbers)
            future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            actor.pending[number] = future
            actor.post(AttemptRequest(number, rollout, attempts))
            try:
                return await future
            except _LostError:
                self._asked_again += 1
            except asyncio.CancelledError:
                actor.post(AttemptRequest(number))
                raise
            finally:
                actor.pending.pop(number, None)
                self._room.set()
        raise AttemptFailed(FailureClass.ACTOR_LOST, f"{_LOSSES_OF_A_ROLLOUT} actors were lost that held it")

    def _connect(self) -> int:
        """Join the cluster, or start one; how many actors there are to be."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            _knock(self._options["address"])
            ray.init(
                address=self._options["address"] or "local",
                runtime_env=dict(self._options["runtime_env"] or {}) or None,
                include_dashboard=False if self._options["address"] is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, TypeError, ValueError, RayError) as error:
            told = f"executor.address={self._options['address']}, executor.runtime_env={self._options['runtime_env']}"
            raise Unreachable(f"Ray cannot be joined by {told}: {error}") from error
        finally:
            signal.signal(signal.SIGTERM, terminated)  # which Ray takes for itself
        there = ray.cluster_resources()
        for name, needed in (self._options["resources"] or {}).items():
            if there.get(name, 0) < needed:
                ray.shutdown()
                raise Unreachable(f"executor.resources.{name}={needed}: the cluster has {there.get(name, 0):g}")
        by_cpus = int(there.get("CPU", 1) // (self._options["num_cpus"] or 1))
        return int(self._options["num_actors"] or max(1, by_cpus))

    def _new_handle(self) -> Any:
        remote = ray.remote(RayWorker).options(
            num_cpus=self._options["num_cpus"],
            resources=dict(self._options["resources"] or {}),
            scheduling_strategy="SPREAD",
            max_concurrency=1000,
        )
        return remote.remote(self._config, self._rows)

    async def _look_after(self, actor: _Actor) -> None:
        """Start an actor, exchange mail with it, and begin again when it is lost."""
        while actor.losses < _LOSSES_IN_A_ROW:
            try:
                await actor.handle.start.remote(len(self._actors))
                actor.is_up = True
                self._room.set()
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._send(actor))
                    both.create_task(self._receive(actor))
            except* Exception as lost:
                self._lose(actor, lost.exceptions[0])
                ray.kill(actor.handle)
                if actor.losses < _LOSSES_IN_A_ROW:
                    actor.handle = self._new_handle()

    def _lose(self, actor: _Actor, why: BaseException) -> None:
        self._why = why
        self._lost_actors += actor.is_up
        actor.is_up = False
        actor.losses += 1
        actor.outbox.clear()
        for future in actor.pending.values():
            if not future.done():
                future.set_exception(_LostError())
        self._room.set()

    async def _send(self, actor: _Actor) -> None:
        while True:
            await actor.has_mail.wait()
            batch, actor.outbox = actor.outbox[:_BATCH], actor.outbox[_BATCH:]
            if not actor.outbox:
                actor.has_mail.clear()
            async with asyncio.timeout(_SILENT_S):
                await actor.handle.submit.remote(batch)

    async def _receive(self, actor: _Actor) -> None:
        while True:
            async with asyncio.timeout(_SILENT_S):
                outcomes: list[AttemptOutcome] = await actor.handle.take.remote(_TAKE_WAIT_S)
            for outcome in outcomes:
                actor.losses = 0
                future = actor.pending.get(outcome.number)
                if future is None or future.done():
                    continue
                if outcome.failure is not None:
                    future.set_exception(failure_from_values(outcome.failure))
                elif outcome.result is not None:
                    future.set_result(outcome.result)

    async def _least_busy(self) -> _Actor:
        room = int(self._options["max_in_flight_per_actor"])
        while True:
            there = [actor for actor in self._actors if actor.is_up and len(actor.pending) < room]
            if there:
                return min(there, key=lambda actor: len(actor.pending))
            self._check_any_left()
            self._room.clear()
            await self._room.wait()

    async def _all_are_up(self) -> None:
        while not all(actor.is_up or actor.losses for actor in self._actors) or not any(
            actor.is_up for actor in self._actors
        ):
            self._check_any_left()
            self._room.clear()
            await self._room.wait()

    def _check_any_left(self) -> None:
        if all(actor.losses >= _LOSSES_IN_A_ROW for actor in self._actors):
            cause = getattr(self._why, "cause", None) or self._why
            if isinstance(cause, (ConfigError, StoppedEarly)):
                raise cause
            told = next(iter(str(cause).strip().splitlines()), "")
            raise StoppedEarly(f"no Ray actor is left: {type(cause).__name__}: {told}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
