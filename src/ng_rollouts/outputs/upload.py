"""A run's files copied to where `upload_to` says: claimed at the start, kept alike at the end, fetched for a resume."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ng_rollouts.errors import ConfigError, OutputError, UploadFailed
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.manifest import Manifest, manifest_from
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.storage.atomic import temporary_name
from ng_rollouts.storage.remote import Folder, folder
from ng_rollouts.threads import run_in_thread

T = TypeVar("T")

DescribeDifference = Callable[[Manifest], str]

MAX_IDLE_S = 600.0
"""An upload that has not moved for so long is given up: at 50 MB a piece, that is less than 100 kB a second."""


@dataclass(slots=True)
class Upload:
    """Where copies of a run's files go."""

    folder: Folder
    paths: OutputPaths
    _moved_at: float = field(default_factory=time.monotonic)

    async def check_reachable(self) -> None:
        """See that the place is there and can be written, before anything is touched here.

        Raises:
            OutputError: it cannot.
        """
        try:
            await self._in_thread(lambda: self.folder.probe(self.paths.side_file("_upload_probe").name))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be written: {error.strerror}") from error

    async def check(self, difference: DescribeDifference, collected: int) -> None:
        """See that a run may go on there: that what is there is of it, and no more than is here.

        Args:
            difference: what keeps this run from going on with another, told by that one's manifest; empty if nothing.
            collected: rollouts that there are to go on with.

        Raises:
            OutputError: it may not.
        """
        try:
            await self._in_thread(lambda: self._check(difference, collected))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be read: {error.strerror}") from error

    async def claim(self, *, is_resumed: bool, overwrite: bool) -> str | None:
        """Make the place this run's, before anything is sent: what is there from now on is of it.

        Args:
            goes_on: whether what is there is of this run already.
            overwrite: whether what is there may go.

        Returns:
            Where an output that was there has gone, if it was moved aside.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            return await self._in_thread(lambda: self._claim(is_resumed=is_resumed, overwrite=overwrite))
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

    def _there(self) -> list[str]:
        return [path.name for path in self.paths.all if self.folder.has(path.name)]

    def _claim(self, *, is_resumed: bool, overwrite: bool) -> str | None:
        there = [] if is_resumed else self._there()
        moved = self._moved_aside(there) if there and not overwrite else None
        if overwrite:
            for name in there:
                self.folder.remove(name)
        self._put(self.paths.manifest)
        return moved

    def _check(self, difference: DescribeDifference, collected: int) -> None:
        there = self._there()
        self._check_same_run(there, difference)
        self._check_behind(there, collected)

    def _check_same_run(self, there: list[str], difference: DescribeDifference) -> None:
        """Raises: OutputError: what is there was collected for something else, or does not say what for."""
        name = self.paths.manifest.name
        if name not in there:
            if there:
                raise self._refused(f"has {there[0]} without {name}, so nobody knows what it was collected for")
            return
        then = self._json(name)
        try:
            told = difference(manifest_from(then))
        except (KeyError, TypeError) as error:
            raise self._refused(f"has a {name} that is no manifest") from error
        if told:
            raise self._refused(f"has what was collected for something else: {told}")

    def _check_behind(self, there: list[str], collected: int) -> None:
        """Raises: OutputError: there is more of this run than here."""
        outputs = [path for path in self.paths.names if path.name in there]
        if not outputs:
            return
        summary = self._json(self.paths.summary.name) if self.paths.summary.name in there else None
        known = summary.get("collected") if isinstance(summary, dict) else None
        if isinstance(known, int):
            more = known > collected
        else:  # a copy that was cut off before its end
            more = any(not path.exists() or self.folder.size(path.name) > path.stat().st_size for path in outputs)
        if more:
            what = f"{known} rollouts of this run, and here are {collected}" if known else "more of this run than here"
            raise self._refused(f"has {what}: remove {self.paths.output} to go on with what is there")

    def _json(self, name: str) -> Any:
        """What a file there says; None if it is no JSON."""
        try:
            return loads(self.folder.read(name))
        except ValueError:
            return None

    def _refused(self, what: str) -> OutputError:
        return OutputError(f"upload_to {self.folder.url} {what}: name another place")

    def _moved_aside(self, there: list[str]) -> str:
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
        there = [*self.paths.existing, *(path for path in besides if path.exists())]
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
        if any(path.exists() for path in self.paths.names) or not (names := self._there()):
            return False
        self.paths.output.parent.mkdir(parents=True, exist_ok=True)
        wanted = [path for path in self.paths.all if path.name in names]
        fetched = {path: temporary_name(path) for path in reversed(wanted)}
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
        self._moved()
        outcome = run_in_thread(work)
        while not outcome.done():
            await asyncio.wait([outcome], timeout=1.0)
            if time.monotonic() - self._moved_at > MAX_IDLE_S:
                raise TimeoutError(0, f"nothing has moved for {MAX_IDLE_S:g} s")
        return outcome.result()


def upload_of(upload_to: str, paths: OutputPaths, source: str) -> Upload:
    """Where copies go.

    Args:
        source: the input, by its path or URL.

    Raises:
        ConfigError: nothing here knows such URLs, or it is no folder of its own.
    """
    if upload_to.rstrip("/").endswith((".jsonl", ".jsonl.zst", ".jsonl.gz")):
        raise ConfigError(f"upload_to {upload_to} is to be a folder: its files get the names that they have here")
    there = folder("upload_to", upload_to)
    if there.is_local(paths.output.parent):
        raise ConfigError(f"upload_to {upload_to} is the folder that the output is in: name another")
    if Path(source).name in {path.name for path in paths.all} and there.holds(source):
        raise ConfigError(f"upload_to {upload_to} has the input, and would replace it: name another")
    return Upload(there, paths)
