"""What a finished run is handed on to: trackers of experiments, and Parquet.

Each exporter runs in a process of its own, so that one that fails, hangs, prints or crashes is a warning, and no more.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ng_rollouts.config.validation import INTEGRATIONS
from ng_rollouts.console import log
from ng_rollouts.errors import require_extra
from ng_rollouts.redaction import redact

PRODUCTS = {"parquet": ".parquet", "report": ".html"}
"""How the names of files end that exporters make beside the output."""

_LONGEST_S = 900.0


def check_integrations(names: Sequence[str]) -> None:
    """Check that what these need is installed.

    Raises:
        ConfigError: it is not.
    """
    for name in names:
        require_extra(INTEGRATIONS[name], name, f"export={name}")


async def run_integrations(names: Sequence[str], output: Path, project: str) -> None:
    """Hand a finished run on to each of these, and tell what became of it; true at the end of all."""
    for name in names:
        arguments = ["-m", "ng_rollouts.integrations", name, str(output), project]
        shown = "report" if name == "report" else f"export={name}"
        log(f"{shown}: at work (at most {_LONGEST_S:g} s; Ctrl-C leaves it)")
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_LONGEST_S):
                printed, _ = await child.communicate()
        except TimeoutError:
            log(f"warning: {shown} took longer than {_LONGEST_S:g} s and was ended")
        else:
            said = next((line for line in reversed(printed.decode(errors="replace").splitlines()) if line.strip()), "")
            failed = "" if child.returncode == 0 else f"warning: {shown} failed: "
            log(failed + (redact(said.strip()) or f"exit code {child.returncode}"))
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
