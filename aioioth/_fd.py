"""Ownership of a bare descriptor."""

from __future__ import annotations

import os

from typing_extensions import override

from aioioth.errors import ClosedError


class OwnedFd:
    """Owns one descriptor and closes it exactly once.

    The number is forgotten before it is closed. A late user then gets an error, never
    an unrelated descriptor that the kernel has given the same number.
    """

    __slots__ = ("_fd", "_label")

    def __init__(self, fd: int, label: str) -> None:
        self._fd = fd
        self._label = label

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            ClosedError: It was closed before.
        """
        if self._fd == -1:
            raise ClosedError(self._label)
        return self._fd

    def close(self) -> None:
        """Close the descriptor; later calls do nothing."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

    @override
    def __repr__(self) -> str:
        state = "closed" if self._fd == -1 else f"fd={self._fd}"
        return f"<OwnedFd {self._label} {state}>"
