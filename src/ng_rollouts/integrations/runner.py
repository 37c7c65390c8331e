"""Run integrations on a finished run: experiment trackers, Parquet and the report page.

Each integration runs in its own process. If it fails, hangs or crashes, the run only logs a warning.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ng_rollouts.config.validation import INTEGRATIONS
from ng_rollouts.console import log
from ng_rollouts.errors import require_extra

PRODUCTS = {"parquet": ".parquet", "report": ".html"}
"""Endings of the files that integrations write next to the output."""

_MAX_S = 900.0
"""How long an integration may take."""

_LEAST_S = 5.0
"""How long it may take even if the time of the command is over."""


def products_of(names: Iterable[str], *, report: bool) -> list[str]:
    """The endings of the files that these integrations, and the report, write next to the output."""
    return [PRODUCTS[name] for name in (*names, *(["report"] if report else [])) if name in PRODUCTS]


def check_integrations(names: Sequence[str]) -> None:
    """Check that the modules that integrations need are installed.

    Raises:
        ConfigError: one is not installed.
    """
    for name in names:
        require_extra(INTEGRATIONS[name], name, f"export={name}")


def limit_s(left_s: float) -> float:
    """The seconds that an integration may take, of those until the command has to end."""
    return min(_MAX_S, max(_LEAST_S, left_s))


def last_line(printed: bytes) -> str:
    """The last line that is not blank: libraries print as they like, before the line that `__main__` writes last."""
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


async def run_integrations(names: Sequence[str], output: Path, project: str, limit_s: Callable[[], float]) -> None:
    """Run integrations one after another, and log the result of each.

    Cancelling ends the process of the current integration.

    Args:
        output: the finished output.
        project: the project or experiment in trackers.
        limit_s: the seconds that an integration may take from now on.
    """
    for name in names:
        # -P: without it, a `random.py` in the working folder would be run in place of Python's own
        arguments = ["-P", "-m", "ng_rollouts.integrations", name, str(output), project]
        label = "report" if name == "report" else f"export={name}"
        seconds = limit_s()
        log(f"{label}: running (at most {seconds:.0f} s; Ctrl-C cancels it)")
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            log(f"warning: {label} failed: its process cannot start: {error.strerror}")
            continue
        try:
            async with asyncio.timeout(seconds):
                printed, _ = await child.communicate()
        except TimeoutError:
            log(f"warning: {label} did not finish within {seconds:.0f} s and was stopped")
        else:
            prefix = "" if child.returncode == 0 else f"warning: {label} failed: "
            log(prefix + (last_line(printed) or f"exit code {child.returncode}"))
        finally:
            # after a timeout or a cancellation
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
