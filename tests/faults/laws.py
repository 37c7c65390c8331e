"""The laws that hold after a command with a fault, and after the same command once more without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.commands import KILLED, KILLS, Ended, Fault
from tests.faults.files import Files, content_of, files_of, key_of, older_rows, rows_of, unmarked
from tests.faults.scenarios import BYSTANDERS, LEFTOVER, Scenario

_DOCUMENTED_CODES = (0, 1, 2, 3)

_END_OF_PAGE = b"</body>\n</html>\n"


@dataclass(frozen=True, slots=True)
class Laws:
    """The laws of a scenario. The methods yield messages about those that are broken.

    Attributes:
        before: the files before the first command.
        expected: the files after a run without faults.
    """

    scenario: Scenario
    before: Files
    expected: Files

    def after_fault(self, folder: Path, ended: Ended, fault: Fault) -> Iterator[str]:
        """The command ended as documented, and no file that existed before is damaged."""
        codes = (*_DOCUMENTED_CODES, KILLED) if fault.kind in KILLS else _DOCUMENTED_CODES
        if ended.code is None:
            yield "the command hangs"
        elif ended.code not in codes or "Traceback" in ended.stderr:
            yield f"the command ended with exit code {ended.code}: {ended.stderr}"
        yield from self._at_any_time(files_of(folder))
        if ended.code == 0:
            yield from (f"the exit code is 0, but {broken}" for broken in self._complete(files_of(folder)))

    def after_resume(self, folder: Path, ended: Ended) -> Iterator[str]:
        """The second command completed the work, and left no other files than a run without faults."""
        if ended.code != 0 or "Traceback" in ended.stderr:
            yield f"the second command ended with exit code {ended.code}: {ended.stderr}"
        files = files_of(folder)
        yield from self._at_any_time(files)
        yield from self._complete(files)
        # Side files that a kill kept from being renamed belong to the second command.
        wanted = (name for name in self.expected if not name.rpartition(".")[2].isdigit())
        yield from (f"{name} is missing" for name in wanted if name not in files)
        yield from (f"{name} is left" for name in files if not self._is_expected(name))

    def _at_any_time(self, files: Files) -> Iterator[str]:
        for name, content in self.before.items():
            if (name in BYSTANDERS or name.startswith(self.scenario.inputs)) and files.get(name) != content:
                yield f"{name} has changed"
        if self.scenario.keeps_older and (lost := older_rows(self.before) - older_rows(files)):
            yield f"{len(lost)} rows of the older output are gone"
        for name in self.scenario.replaced:
            replaced = content_of(files, name)
            if replaced and not self._is_whole(name, replaced):
                yield f"{name} is neither the old file nor the new one"

    def _is_whole(self, name: str, content: bytes) -> bool:
        # A page has times.
        if name.endswith(".html"):
            return content.endswith(_END_OF_PAGE)
        return content in (content_of(self.before, name), content_of(self.expected, name))

    def _complete(self, files: Files) -> Iterator[str]:
        """The rows are those of a run without faults, and the remote copy is the local output."""
        for output in self.scenario.outputs:
            for name in (
                output,
                *(output.replace(".jsonl", ending) for ending in ("_incomplete.jsonl", "_failures.jsonl")),
            ):
                # Failures have times.
                simplified = key_of if name.endswith("_failures.jsonl") else unmarked
                rows, expected = ([simplified(row) for row in rows_of(each, name)] for each in (files, self.expected))
                if rows != expected:
                    yield f"{name} has other rows: {[key_of(row) for row in rows_of(files, name)]}"
        for name in self.expected:
            local = name.removeprefix("remote/")
            # An upload that fails is in the local summary only.
            is_copy = local != name and local in self.expected and name not in BYSTANDERS and "_summary" not in name
            if is_copy and files.get(name) != files.get(local):
                yield f"{name} is not a copy of {local}"

    def _is_expected(self, name: str) -> bool:
        """Whether a file is one of a run without faults, or a backup."""
        plain, _, number = name.rpartition(".")
        known = {name for name in (*self.expected, *self.before) if LEFTOVER not in name}
        return name in known or (number.isdigit() and plain in known)
