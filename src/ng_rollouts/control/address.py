"""Where the socket of a run is: beside its output, or in a private folder if that does not work."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

MAX_PATH_BYTES = 100
"""Socket addresses hold 104 bytes on macOS and 108 on Linux, with a zero at the end."""

has_unix_sockets = hasattr(socket, "AF_UNIX")


def socket_paths(beside: Path) -> Iterator[Path]:
    """The paths where the socket of a run may be, the preferred one first.

    The first is beside the output. The second is in a private folder of the user, because the first may be too long,
    or on a file system without sockets.

    Args:
        beside: the path of the socket beside the output.
    """
    absolute = Path(os.path.realpath(beside.parent), beside.name)
    if len(os.fsencode(absolute)) <= MAX_PATH_BYTES:
        yield absolute
    name = sha256(os.fsencode(absolute)).hexdigest()[:32]
    yield _private_folder() / f"{name}.sock"


def make_private(folder: Path) -> bool:
    """Make a folder that only its owner can enter; False if another user could have made it, or can enter it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return is_private(folder)


def is_private(folder: Path) -> bool:
    """True for a folder of this user that other users cannot enter, and not for a link to one."""
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return False


def _private_folder() -> Path:
    """The folder of sockets that are not beside their output.

    Its place does not depend on the environment, which a job of a cluster and a shell of the same user do not share.
    """
    return Path("/tmp", f"ng_rollouts-{os.geteuid()}")  # noqa: S108 - used only if it is private
