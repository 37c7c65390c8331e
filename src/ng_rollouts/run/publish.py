"""Publishes the files of a finished run: integrations, HTML report, compression, remote copy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log
from ng_rollouts.errors import UploadFailed
from ng_rollouts.integrations.live import LiveTrackers
from ng_rollouts.integrations.runner import limit_s, run_integrations
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.run.budget import WallTime
from ng_rollouts.scheduling.stop import Stop, StopRequested

if TYPE_CHECKING:
    from ng_rollouts.outputs.upload import Upload


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes the files of a run, unless a stop is requested.

    Attributes:
        wall_time: limits the integrations.
    """

    config: CollectConfig
    paths: OutputPaths
    stop: Stop
    trackers: LiveTrackers
    wall_time: WallTime

    @property
    def _wanted(self) -> list[str]:
        return [*self.config.export, *(["report"] if self.config.report else [])]

    async def integrate(self) -> None:
        """Run the integrations and the report over a finished output; errors are warnings."""
        if not (wanted := self._wanted):
            return
        # Optional work: a signal ends it at once, because the output is complete without it.
        try:
            done = await self.stop.unless_requested(self.trackers.finish(self._limit_s))
            others = [name for name in wanted if name not in done]
            integrating = run_integrations(others, self.paths.output, self.config.export_project, self._limit_s)
            await self.stop.unless_requested(integrating)
        except StopRequested:
            log(f"note: stopped before these were finished: {', '.join(wanted)}")

    def _limit_s(self) -> float:
        # An upload follows, and matters more.
        return limit_s(self.wall_time.left_s / (2 if self.config.upload_to else 1))

    async def compress(self, journal: Journal) -> None:
        """Compress the output, if its name ends in .gz or .zst.

        Raises:
            StorageError: the compressed file could not be written; the plain one is complete.
        """
        for backup in await asyncio.to_thread(journal.compress):
            log(f"{backup.with_suffix('')} was another file: renamed to {backup}")

    async def upload(self, upload: Upload, collected: int, *, may_be_stopped: bool) -> None:
        """Copy all files to the remote folder.

        Args:
            collected: number of rollouts in the output.
            may_be_stopped: whether a signal that arrives from now on cancels the copy.

        Raises:
            UploadFailed: not every file was copied.
        """
        # A run that a signal stopped is copied too: with `from_now`, only a new signal cancels the copy.
        log(f"uploading to {upload.folder.url} (Ctrl-C cancels)")
        copying = upload.copy(collected)
        try:
            copied = await (self.stop.unless_requested(copying, from_now=True) if may_be_stopped else copying)
        except StopRequested as error:
            raise UploadFailed(
                f"upload_to {upload.folder.url}: stopped before all files were copied: "
                "+resume_from_cache=true uploads the rest"
            ) from error
        log(f"uploaded {copied} files to {upload.folder.url}")
