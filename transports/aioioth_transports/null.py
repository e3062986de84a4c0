"""``null://``: a network with nobody on it. What is sent is gone, nothing comes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class NullTransport:
    """See `aioioth.abc.FrameTransport`; the address is ignored."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def open(self, label: str) -> NullPlug:
        """Return a plug that leads nowhere."""
        return NullPlug()


class NullPlug:
    """See `aioioth.abc.Plug`."""

    mtu = 65517

    def __init__(self) -> None:
        self._never = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return a descriptor that is never readable."""
        return self._never

    def hangup_fileno(self) -> int:
        """Return -1: nobody can go away."""
        return -1

    def recv_into(self, buffer: memoryview, /) -> int:
        """Raise BlockingIOError: nothing ever comes."""
        raise BlockingIOError

    def send(self, frame: Buffer, /) -> int:
        """Forget the frame."""
        return memoryview(frame).nbytes

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        never, self._never = self._never, -1
        if never != -1:
            os.close(never)
