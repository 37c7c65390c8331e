"""A run's files copied to where `upload_to` says: claimed at the start, kept alike at the end, fetched for a resume."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ng_rollouts.errors import ConfigError, OutputError, UploadFailed
from ng_rollouts.jsonlines import loads
from ng_rollouts.manifest import Manifest, differences, manifest_from
from ng_rollouts.outputs import OutputPaths
from ng_rollouts.remote import Folder, folder

T = TypeVar("T")

LONGEST_IDLE_S = 600.0
"""An upload that has not moved for so long is given up: at 50 MB a piece, that is less than 100 kB a second."""


@dataclass(slots=True)
class Upload:
    """Where copies of a run's files go."""

    folder: Folder
    paths: OutputPaths
    _moved_at: float = field(default_factory=time.monotonic)

    async def reach(self) -> None:
        """See that the place is there.

        Raises:
            OutputError: it cannot be looked at.
        """
        try:
            await self._in_thread(lambda: self.folder.has(self.paths.manifest.name))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be reached: {error.strerror}") from error

    async def claim(self, manifest: Manifest, *, collected: int | None, overwrite: bool) -> str | None:
        """See that the place is there and can be written, before anything is sent.

        Args:
            manifest: of this run.
            collected: rollouts that there are to go on with; None for a new run.
            overwrite: whether what is there may be replaced.

        Returns:
            Where an output that was there has gone, if it was moved aside.

        Raises:
            OutputError: it cannot be written, or has the files of something else, or more of this run than is here.
        """
        try:
            return await self._in_thread(lambda: self._claim(manifest, collected, overwrite=overwrite))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be written: {error.strerror}") from error

    async def copy(self, besides: Iterable[Path]) -> int:
        """Have the same files there as here; how many.

        Args:
            besides: what else the run has made, if it is there.

        Raises:
            UploadFailed: it could not be done.
        """
        try:
            return await self._in_thread(lambda: self._copy(besides))
        except OSError as error:
            raise UploadFailed(
                f"upload_to {self.folder.url} failed: {error.strerror}: all files are in {self.paths.output.parent}, "
                "and +resume_from_cache=true tries again"
            ) from error

    def fetch(self) -> bool:
        """If there is no output here, have what an earlier command left there; whether it left anything.

        Raises:
            OutputError: it cannot be read.
        """
        try:
            return self._fetch()
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be read: {error.strerror}") from error

    def _claim(self, manifest: Manifest, collected: int | None, *, overwrite: bool) -> str | None:
        moved = None
        if collected is not None:
            self._check_same_run(manifest)
            self._check_behind(collected)
        elif not overwrite:
            moved = self._moved_aside()
        self._put(self.paths.manifest)
        return moved

    def _check_same_run(self, now: Manifest) -> None:
        name = self.paths.manifest.name
        if not self.folder.has(name):
            return
        try:
            then = manifest_from(loads(self.folder.read(name)))
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"upload_to {self.folder.url}: its {name} is no manifest: name another place") from error
        digest = now.rows_digest if then.input_rows == now.input_rows else then.rows_digest
        if found := list(differences(then, now, digest)):
            raise OutputError(
                f"upload_to {self.folder.url} has what was collected for something else: {'; '.join(found)}: "
                "name another place"
            )

    def _check_behind(self, collected: int) -> None:
        name = self.paths.summary.name
        there = loads(self.folder.read(name)).get("collected", 0) if self.folder.has(name) else 0
        if there > collected:
            raise OutputError(
                f"upload_to {self.folder.url} has {there} rollouts of this run, and here are {collected}: "
                f"remove {self.paths.output} to go on with what is there, or name another place"
            )

    def _moved_aside(self) -> str | None:
        there = [path.name for path in self.paths.all if self.folder.has(path.name)]
        if not there:
            return None
        number = next(
            number
            for number in itertools.count(1)
            if not any(self.folder.has(f"{path.name}.{number}") for path in self.paths.all)
        )
        for name in there:
            self.folder.rename(name, f"{name}.{number}")
            self._moved()
        return f"{there[0]}.{number}"

    def _copy(self, besides: Iterable[Path]) -> int:
        """The summary last: where it is, all is."""
        there = [path for path in (*self.paths.all, *besides) if path.exists()]
        there.sort(key=lambda path: path == self.paths.summary)
        for path in there:
            self._put(path)
        for path in self.paths.all:
            if path not in there and self.folder.has(path.name):
                self.folder.remove(path.name)
        return len(there)

    def _put(self, path: Path) -> None:
        self.folder.put(path, self._moved)
        self._moved()

    def _fetch(self) -> bool:
        """The output last: where it is, all is."""
        names = [path for path in self.paths.all if self.folder.has(path.name)]
        if any(path.exists() for path in (self.paths.output, self.paths.finished)) or not names:
            return False
        self.paths.output.parent.mkdir(parents=True, exist_ok=True)
        fetched = {path: path.with_name(path.name + ".fetching") for path in reversed(names)}
        try:
            for path, temporary in fetched.items():
                self.folder.get(path.name, temporary)
            for path, temporary in fetched.items():
                temporary.replace(path)
        finally:
            for temporary in fetched.values():
                temporary.unlink(missing_ok=True)
        return True

    def _moved(self) -> None:
        self._moved_at = time.monotonic()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What some work comes to, which nobody waits for any longer once it does not move.

        Raises:
            OSError: it failed, or does not move.
        """
        loop, outcome = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def work_out() -> None:
            try:
                result, failure = work(), None
            except Exception as error:
                result, failure = None, error
            with suppress(RuntimeError):  # nobody waits any longer
                loop.call_soon_threadsafe(settle, result, failure)

        def settle(result: T | None, failure: Exception | None) -> None:
            if not outcome.done():
                outcome.set_exception(failure) if failure else outcome.set_result(result)

        self._moved()
        threading.Thread(target=work_out, daemon=True, name="ng_rollouts upload").start()
        while not outcome.done():
            await asyncio.wait([outcome], timeout=1.0)
            if time.monotonic() - self._moved_at > LONGEST_IDLE_S:
                raise TimeoutError(0, f"nothing has moved for {LONGEST_IDLE_S:g} s")
        done: T = outcome.result()
        return done


def upload_of(upload_to: str, paths: OutputPaths) -> Upload:
    """Where copies go.

    Raises:
        ConfigError: nothing here knows such URLs, or it is no folder of its own.
    """
    if upload_to.rstrip("/").endswith((".jsonl", ".jsonl.zst", ".jsonl.gz")):
        raise ConfigError(f"upload_to {upload_to} is to be a folder: its files get the names that they have here")
    there = folder("upload_to", upload_to)
    if there.is_here(paths.output.parent):
        raise ConfigError(f"upload_to {upload_to} is the folder that the output is in: name another")
    return Upload(there, paths)
