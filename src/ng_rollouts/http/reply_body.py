"""The body of a reply: decompressed while it arrives, and cut at a maximum size.

A small reply may decompress to gigabytes, and a server may never end one. Neither must fill the memory.
"""

from __future__ import annotations

import zlib

from ng_rollouts.errors import AttemptFailed, FailureClass

ACCEPT_ENCODING = "gzip, deflate"
"""The content codings that `ReplyBody` decompresses: zlib can limit the size of its output."""

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Arguments of zlib by content coding. `deflate` is the zlib format (RFC 9110, 8.4.1.2)."""


class ReplyBody:
    """Collects a body chunk by chunk.

    Args:
        max_bytes: the maximum size, both as received and decompressed.
        status: the status of the reply, for failures.
        length: its `Content-Length`.
        coding: its `Content-Encoding`, unless the engine decompresses. A body with an unknown coding is kept as it is.

    Raises:
        AttemptFailed: `reply_too_large`, because of the length.
    """

    __slots__ = ("_chunks", "_decoder", "_left", "_max_bytes", "_received", "_status")

    def __init__(self, max_bytes: int, status: int, length: str | None, coding: str | None = None) -> None:
        self._max_bytes = max_bytes
        self._status = status
        self._chunks: list[bytes] = []
        self._left = max_bytes
        self._received = 0
        window_bits = _WINDOW_BITS.get(coding.strip().lower()) if coding else None
        self._decoder = None if window_bits is None else zlib.decompressobj(window_bits)
        # the length may be anything: the engines check it
        if length is not None and length.isdecimal() and (len(length) > 20 or int(length) > max_bytes):
            raise self._too_large()

    def add(self, chunk: bytes) -> None:
        """Add a chunk as it was received.

        Raises:
            AttemptFailed: `reply_too_large`, or `malformed_reply` because the chunk cannot be decompressed.
        """
        if self._decoder is not None:
            # counted as well, because a compressed stream without content has no end either
            self._received += len(chunk)
            chunk = self._decompressed(self._decoder, chunk)
        self._left -= len(chunk)
        if self._left < 0 or self._received > self._max_bytes:
            raise self._too_large()
        self._chunks.append(chunk)

    def whole(self) -> bytes:
        """The body, when all chunks were added.

        Raises:
            AttemptFailed: `truncated`, because the compressed body is incomplete.
        """
        if self._decoder is not None and self._received and not self._decoder.eof:
            raise AttemptFailed(FailureClass.TRUNCATED, "the compressed reply is incomplete", status=self._status)
        return b"".join(self._chunks)

    def _decompressed(self, decoder: zlib._Decompress, chunk: bytes) -> bytes:
        if decoder.eof:  # bytes behind the end are ignored
            return b""
        try:
            return decoder.decompress(chunk, self._left + 1)
        except zlib.error as error:
            message = f"the compressed reply is damaged: {error}"
            raise AttemptFailed(FailureClass.MALFORMED_REPLY, message, status=self._status) from error

    def _too_large(self) -> AttemptFailed:
        message = f"the reply is larger than {self._max_bytes / 1_000_000:g} MB"
        return AttemptFailed(FailureClass.REPLY_TOO_LARGE, message, status=self._status)
