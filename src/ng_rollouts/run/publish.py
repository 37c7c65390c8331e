"""Where a run's files go once it has ended: to exporters, into a page, to where `upload_to` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import UploadFailed
from ng_rollouts.integrations.runner import PRODUCTS, export
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.upload import Upload
from ng_rollouts.scheduling.stop import Stop


@dataclass(frozen=True, slots=True)
class Publisher:
    """What is done with the files of a run, unless that is stopped."""

    config: CollectConfig
    paths: OutputPaths
    stop: Stop
    log: Callable[[str], None]

    @property
    def _wanted(self) -> list[str]:
        return [*self.config.export, *(["report"] if self.config.report else [])]

    async def run_integrations(self) -> None:
        """Hand a finished run on; what fails is told."""
        wanted = self._wanted
        if wanted and not await self.stop.unless_asked(
            export(wanted, self.paths.output, self.config.export_project, self.log)
        ):
            self.log(f"note: left before all was handed on: {', '.join(wanted)}")

    async def upload(self, upload: Upload, *, may_be_left: bool) -> None:
        """Copy the files.

        Args:
            may_be_left: whether a signal that comes from now on ends it.

        Raises:
            UploadFailed: not all are there.
        """
        made = [self.paths.beside(PRODUCTS[name]) for name in self._wanted if name in PRODUCTS]
        self.log(f"uploading to {upload.folder.url} (Ctrl-C leaves it)")
        copying = upload.copy(made)
        copied = await (self.stop.unless_asked(copying, again=True) if may_be_left else copying)
        if copied is None:
            raise UploadFailed(
                f"upload_to {upload.folder.url}: left before all was there; +resume_from_cache=true tries again"
            )
        self.log(f"uploaded {copied} files to {upload.folder.url}")
