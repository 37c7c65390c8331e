"""Copy a run's files to the remote folder of `upload_to`: claim it at the start, copy at the end, fetch for a resume.

A remote folder is also where an interrupted run continues on another machine. So a run only claims a folder whose files
belong to it, and never replaces a copy that has more rollouts than the local output.
"""

from __future__ import annotations

import asyncio
import filecmp
import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ng_rollouts.console import counted
from ng_rollouts.errors import ConfigError, OutputError, UploadFailed
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.manifest import Manifest, manifest_from
from ng_rollouts.outputs.paths import OutputPaths, back_up_output, has_content
from ng_rollouts.storage.atomic import discard, new_temporary
from ng_rollouts.storage.compression import open_decompressed
from ng_rollouts.storage.remote import Folder, folder
from ng_rollouts.threads import run_in_thread
from ng_rollouts.types import RolloutKey, key_of

T = TypeVar("T")

DescribeDifference = Callable[[Manifest], str]
"""Maps the manifest of another run to the reasons why this run cannot resume it; to an empty text if it can."""

MAX_IDLE_S = 600.0
"""Seconds without progress after which an upload fails. With parts of 50 MB, that is less than 100 kB per second."""


@dataclass(slots=True)
class Upload:
    """The remote folder with the copy of a run's files.

    Attributes:
        folder: the remote folder.
        paths: the local files.
    """

    folder: Folder
    paths: OutputPaths
    _claimed: bytes = b""
    _progress_at: float = field(default_factory=time.monotonic)

    @property
    def is_claimed(self) -> bool:
        """Whether the folder has this run's manifest, so that the run may replace files in it."""
        return bool(self._claimed)

    @property
    def _claim_name(self) -> str:
        """The remote file that says which run writes the folder, until its upload is complete."""
        return self.paths.side_file("_claim").name

    async def check_reachable(self) -> None:
        """Check that the remote folder can be written, before any local file is changed.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            await self._in_thread(lambda: self.folder.probe(self.paths.side_file("_upload_probe").name))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be written: {error.strerror}") from error

    async def check(self, describe_difference: DescribeDifference, collected: int) -> None:
        """Check that a resumed run can replace the copy: the copy is of this run, and has no more rollouts.

        Args:
            describe_difference: describes how this run differs from the one of a manifest.
            collected: number of rollouts in the local output.

        Raises:
            OutputError: the copy is of a different run, or has more rollouts, or cannot be read.
        """
        try:
            await self._in_thread(lambda: self._check(describe_difference, collected))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be read: {error.strerror}") from error

    async def claim(self, *, is_resumed: bool, overwrite: bool) -> str | None:
        """Claim the remote folder before the first request: write this run's manifest, back up the files of another.

        Args:
            is_resumed: whether the existing copy is of this run, so that it stays.
            overwrite: whether an existing copy of another run is removed instead of renamed.

        Returns:
            The new name of an existing output, if it was renamed.

        Raises:
            OutputError: the remote folder cannot be written.
        """
        try:
            return await self._in_thread(lambda: self._claim(is_resumed=is_resumed, overwrite=overwrite))
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be written: {error.strerror}") from error

    async def copy(self, collected: int) -> int:
        """Copy all files of the run, and remove remote side files that no longer exist locally.

        Args:
            collected: number of rollouts in the local output.

        Returns:
            The number of copied files.

        Raises:
            UploadFailed: not every file was copied.
        """
        try:
            return await self._in_thread(lambda: self._copy(collected))
        except OutputError as error:
            raise UploadFailed(str(error)) from error
        except OSError as error:
            raise UploadFailed(
                f"upload_to {self.folder.url} failed: {error.strerror}: all files are in {self.paths.output.parent}, "
                "and +resume_from_cache=true repeats the upload"
            ) from error

    def fetch(self) -> bool:
        """Download the copy if the local output does not exist; whether anything was downloaded.

        Raises:
            OutputError: the copy cannot be read.
        """
        try:
            return self._fetch()
        except OSError as error:
            raise OutputError(f"upload_to {self.folder.url} cannot be read: {error.strerror}") from error

    def _existing(self) -> list[str]:
        """Names of the output and its side files that exist in the remote folder."""
        return [path.name for path in self.paths.all if self.folder.has(path.name)]

    def _claim(self, *, is_resumed: bool, overwrite: bool) -> str | None:
        existing = [] if is_resumed else self._existing()
        claim = self._write_claim()
        backup = self._back_up(existing) if existing and not overwrite else None
        if overwrite:
            for name in existing:
                self.folder.remove(name)
        # If this run is killed, a resume elsewhere finds no rows of another run, and this run's manifest.
        self._put(self.paths.manifest)
        if self._read_claim() != claim:
            raise self._refusal("is being claimed by another run at this moment")
        self._claimed = claim
        return backup

    def _write_claim(self) -> bytes:
        """Write the claim, and return it.

        A claim that exists is replaced: its run may have been killed, and a live one notices before its upload.

        Raises:
            OutputError: another run has created its claim at the same moment.
        """
        # Manifests of two runs with the same parameters are equal, so a claim has a random number.
        claim = secrets.token_hex(8).encode()
        if self._read_claim() is not None:
            self.folder.write(self._claim_name, claim)
        elif not self.folder.create(self._claim_name, claim):
            raise self._refusal("is being claimed by another run at this moment")
        return claim

    def _read_claim(self) -> bytes | None:
        return self.folder.read(self._claim_name) if self.folder.has(self._claim_name) else None

    def _check(self, describe_difference: DescribeDifference, collected: int) -> None:
        existing = self._existing()
        self._check_same_run(existing, describe_difference)
        self._check_not_ahead(existing, collected)

    def _check_same_run(self, existing: list[str], describe_difference: DescribeDifference) -> None:
        """Check that the remote manifest is of this run.

        Raises:
            OutputError: the copy is of a different run, or has no valid manifest.
        """
        name = self.paths.manifest.name
        if name not in existing:
            if existing:
                raise self._refusal(f"has {existing[0]} without {name}, so its run is not known")
            return
        then = self._read_json(name)
        try:
            different = describe_difference(manifest_from(then))
        except (KeyError, TypeError) as error:
            raise self._refusal(f"has a {name} that is not a valid manifest") from error
        if different:
            raise self._refusal(f"has the output of a different run: {different}")

    def _check_not_ahead(self, existing: list[str], collected: int) -> None:
        """Check that the copy has no more rollouts than the local output.

        Raises:
            OutputError: it has more, so that an upload would lose some.
        """
        outputs = [path for path in self.paths.names if path.name in existing]
        if not outputs:
            return
        summary = self._read_json(self.paths.summary.name) if self.paths.summary.name in existing else None
        remote = summary.get("collected") if isinstance(summary, dict) else None
        if not isinstance(remote, int):
            # The upload was cut off before the summary, which is copied last.
            remote = max(self._rows_of(path) for path in outputs)
        if remote > collected:
            has = f"has {counted(remote, 'rollout')} of this run, but the local output has {collected}"
            fix = f"move {self.paths.finished} away to resume from the copy, or choose another folder"
            raise self._refusal(has, fix)

    def _rows_of(self, path: Path) -> int:
        """The number of rollouts in a remote output, which is downloaded for that."""
        with tempfile.TemporaryDirectory(prefix="ng_rollouts_copy_") as temporary:
            copy = Path(temporary) / path.name
            self.folder.get(path.name, copy)
            self._mark_progress()
            with open_decompressed(copy) as lines:
                return len({key for line in lines if (key := _key_of(line))})

    def _read_json(self, name: str) -> Any:
        """The content of a remote file; None if it is not JSON."""
        try:
            return loads(self.folder.read(name))
        except ValueError:
            return None

    def _refusal(self, reason: str, fix: str = "choose another folder") -> OutputError:
        return OutputError(f"upload_to {self.folder.url} {reason}: {fix}")

    def _back_up(self, existing: list[str]) -> str:
        """Rename remote files to the first number that is free for all of them; the new name of the first."""
        number = next(
            number
            for number in itertools.count(1)
            if not any(self.folder.has(f"{path.name}.{number}") for path in self.paths.all)
        )
        for name in existing:
            self.folder.rename(name, f"{name}.{number}")
            self._mark_progress()
        return f"{existing[0]}.{number}"

    def _check_still_own(self) -> None:
        """Check that no other run has claimed the folder since.

        Raises:
            OutputError: another run has claimed it.
        """
        claim = self._read_claim()
        # A run that has completed its upload since has removed its claim, but not its manifest.
        if claim != self._claimed and (claim or self.folder.has(self.paths.manifest.name)):
            raise self._refusal("has been claimed by another run since", f"all files are in {self.paths.output.parent}")

    def _copy(self, collected: int) -> int:
        self._check_still_own()
        self._check_not_ahead(self._existing(), collected)
        local = self.paths.existing
        # The summary last: where it has counts, the copy is complete. That of an earlier copy is emptied first, and not
        # removed, because a bucket may allow writing but not deleting.
        local.sort(key=lambda path: path == self.paths.summary)
        if self.folder.has(self.paths.summary.name):
            self.folder.write(self.paths.summary.name, b"{}\n")
        for path in local:
            self._check_still_own()
            self._put(path)
        self._check_still_own()
        # Removed after the copies: a failures file, for example, of rollouts that this run has collected.
        for path in self.paths.all:
            if path not in local and self.folder.has(path.name):
                self.folder.remove(path.name)
        with suppress(OSError):  # a bucket may allow writing but not deleting
            self.folder.remove(self._claim_name)
        return len(local)

    def _put(self, path: Path) -> None:
        self.folder.put(path, self._mark_progress)
        self._mark_progress()

    def _fetch(self) -> bool:
        if any(path.exists() for path in self.paths.names) or not (names := self._existing()):
            return False
        self.paths.output.parent.mkdir(parents=True, exist_ok=True)
        outdated = self._outdated_outputs(names)
        remote = [path for path in self.paths.all if path.name in names and path not in outdated]
        # Every file is downloaded before the first gets its name, and the output gets its name last. It is first in
        # `paths.all`. While it does not exist, a later command repeats the download.
        downloads: dict[Path, Path] = {}
        try:
            for path in reversed(remote):
                downloads[path] = new_temporary(path)
            for path, temporary in downloads.items():
                self.folder.get(path.name, temporary)
            # Side files without their output would be replaced. Those that a download left, which was cut off, may be.
            if any(has_content(path) and not _is_equal(path, downloads.get(path)) for path in self.paths.all):
                back_up_output(self.paths)
            for path, temporary in downloads.items():
                temporary.replace(path)
        finally:
            for temporary in downloads.values():
                discard(temporary)
        return True

    def _outdated_outputs(self, names: Collection[str]) -> list[Path]:
        """The remote outputs except the one with the most rollouts.

        An upload that was cut off may have left a plain output of an earlier command beside the compressed one.
        """
        outputs = [path for path in self.paths.names if path.name in names]
        if len(outputs) < 2:
            return []
        newest = max(outputs, key=self._rows_of)
        return [path for path in outputs if path != newest]

    def _mark_progress(self) -> None:
        self._progress_at = time.monotonic()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run a function in a thread, and stop waiting for it when it makes no progress.

        The thread cannot be stopped, so it continues in the background; it does not keep the process alive.

        Raises:
            OSError: the function raised one, or made no progress for `MAX_IDLE_S`.
        """
        self._mark_progress()
        outcome = run_in_thread(work)
        while not outcome.done():
            await asyncio.wait([outcome], timeout=1.0)
            if time.monotonic() - self._progress_at > MAX_IDLE_S:
                raise TimeoutError(0, f"no progress for {MAX_IDLE_S:g} s")
        return outcome.result()


def _is_equal(path: Path, other: Path | None) -> bool:
    return other is not None and filecmp.cmp(path, other, shallow=False)


def _key_of(line: bytes) -> RolloutKey | None:
    try:
        row = loads(line)
    except ValueError:
        return None
    return key_of(row) if isinstance(row, dict) else None


def upload_of(upload_to: str, paths: OutputPaths, source: str) -> Upload:
    """The upload to the folder that `upload_to` names; nothing is sent yet.

    Args:
        source: path or URL of the input.

    Raises:
        ConfigError: the URL is not supported, is not a folder, or is the folder of the output or the input.
    """
    if upload_to.rstrip("/").endswith((".jsonl", ".jsonl.zst", ".jsonl.gz")):
        raise ConfigError(f"upload_to {upload_to} must be a folder: its files get the names of the local ones")
    remote = folder("upload_to", upload_to)
    if remote.is_local(paths.output.parent):
        raise ConfigError(f"upload_to {upload_to} is the folder of the output: choose another folder")
    if Path(source).name in {path.name for path in paths.all} and remote.holds(source):
        raise ConfigError(f"upload_to {upload_to} has the input, and a copy would replace it: choose another folder")
    return Upload(remote, paths)
