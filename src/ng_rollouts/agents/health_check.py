"""Whether servers are there, asked before anything is sent to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from ng_rollouts.console import log
from ng_rollouts.errors import UNREACHABLE, AttemptFailed, FailureClass, Unreachable
from ng_rollouts.http.client import Http, TimeLimits, open_http
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer

_ASK_EVERY_S = 0.5
_LIMITS = TimeLimits(connect_s=5.0, idle_s=0.3)
"""Being there is what counts: an answer is not waited for."""


async def wait_for_servers(load_balancers: Iterable[LoadBalancer], seconds: float, engine: str) -> None:
    """Wait until a server of each pool accepts a request; whatever it answers, it is there.

    The others of a pool are left alone until they are tried again.

    Raises:
        Unreachable: none of a pool is, after so many seconds.
    """
    async with open_http(_LIMITS, engine) as http:
        deadline = time.monotonic() + seconds
        for load_balancer in load_balancers:
            await _wait_for(load_balancer, deadline, http)


async def _wait_for(load_balancer: LoadBalancer, deadline: float, http: Http) -> None:
    told = False
    while len(absent := await _absent(load_balancer, http)) == len(load_balancer.endpoints):
        left = deadline - time.monotonic()
        shown, failure = ", ".join(map(_shown, absent)), next(iter(absent.values()))
        message = f"the server at {shown} cannot be reached ({failure.failure_class}: {failure.message})"
        if failure.failure_class == FailureClass.CERTIFICATE:
            raise Unreachable(f"{message}: name its authority's certificate by SSL_CERT_FILE=FILE in the environment")
        if left <= 0:
            raise Unreachable(f"{message}: start it, or have it waited for with +wait_for_agent_s=SECONDS")
        if not told:
            log(f"waiting up to {left:.0f} s for the server at {shown} ({failure.failure_class})")
            told = True
        await asyncio.sleep(min(_ASK_EVERY_S, left))
    for address, failure in absent.items():
        address.record_failure(failure)
        log(f"warning: the server at {_shown(address)} does not answer: it is tried again now and then")


def _shown(address: Endpoint) -> str:
    return address.display_url.removesuffix("/run")


async def _absent(load_balancer: LoadBalancer, http: Http) -> dict[Endpoint, AttemptFailed]:
    absent = {address: await _absence(address.url.removesuffix("/run"), http) for address in load_balancer.endpoints}
    return {address: failure for address, failure in absent.items() if failure is not None}


async def _absence(url: str, http: Http) -> AttemptFailed | None:
    try:
        await http.get(url)
    except AttemptFailed as failure:
        return failure if failure.failure_class in {*UNREACHABLE, FailureClass.CERTIFICATE} else None
    return None
