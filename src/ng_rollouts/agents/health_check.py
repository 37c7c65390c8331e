"""Wait until servers accept requests, before any rollout is sent to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from ng_rollouts.console import log
from ng_rollouts.errors import UNREACHABLE, AttemptFailed, FailureClass, Unreachable
from ng_rollouts.http.client import POLL_EVERY_S, Http, TimeLimits, open_http
from ng_rollouts.http.load_balancer import Endpoint, LoadBalancer

_LIMITS = TimeLimits(connect_s=5.0, idle_s=0.3, total_s=6.0)
"""A server counts as reachable when it accepts the connection, so a slow or endless reply is not waited for."""

_MAX_REPLY_BYTES = 1_000_000
"""More of a reply is not read. It does not matter: the server is reachable."""


async def wait_for_servers(load_balancers: Iterable[LoadBalancer], seconds: float, engine: str) -> None:
    """Wait until at least one endpoint of each load balancer is reachable.

    An endpoint is reachable if it accepts a connection, even if it replies with an error. The other endpoints start
    in cooldown, with a warning.

    Args:
        seconds: the time to wait in all; 0 checks once.

    Raises:
        Unreachable: no endpoint of a load balancer was reachable in time, or a TLS certificate is not trusted.
    """
    async with open_http(_LIMITS, engine, max_reply_bytes=_MAX_REPLY_BYTES) as http:
        deadline = time.monotonic() + seconds
        for load_balancer in load_balancers:
            await _wait_for(load_balancer, deadline, http)


async def _wait_for(load_balancer: LoadBalancer, deadline: float, http: Http) -> None:
    announced = False
    while len(failures := await _failures(load_balancer, http)) == len(load_balancer.endpoints):
        left = deadline - time.monotonic()
        urls, failure = ", ".join(map(_display_url, failures)), next(iter(failures.values()))
        message = f"the server at {urls} cannot be reached ({failure.failure_class}: {failure.message})"
        # waiting does not make a certificate trusted
        if failure.failure_class == FailureClass.CERTIFICATE:
            raise Unreachable(
                f"{message}: set SSL_CERT_FILE=FILE in the environment to the certificate of its authority"
            )
        if left <= 0:
            raise Unreachable(f"{message}: start it, or wait for it with +wait_for_agent_s=SECONDS")
        if not announced:
            log(f"waiting up to {max(1, round(left))} s for the server at {urls} ({failure.failure_class})")
            announced = True
        await asyncio.sleep(min(POLL_EVERY_S, left))
    for endpoint, failure in failures.items():
        endpoint.record_failure(failure)
        log(f"warning: the server at {_display_url(endpoint)} does not answer: it is retried during the run")


def _display_url(endpoint: Endpoint) -> str:
    return endpoint.display_url.removesuffix("/run")


async def _failures(load_balancer: LoadBalancer, http: Http) -> dict[Endpoint, AttemptFailed]:
    """The endpoints that are not reachable, with the reason for each."""
    failures = {endpoint: await _check(endpoint.url.removesuffix("/run"), http) for endpoint in load_balancer.endpoints}
    return {endpoint: failure for endpoint, failure in failures.items() if failure is not None}


async def _check(url: str, http: Http) -> AttemptFailed | None:
    """The reason that a server is not reachable; None if it is reachable."""
    try:
        await http.get(url)
    except AttemptFailed as failure:
        # other failures, such as a timeout of the reply, happen only after the server accepted the connection
        return failure if failure.failure_class in {*UNREACHABLE, FailureClass.CERTIFICATE} else None
    return None
