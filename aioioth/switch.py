"""A learning Ethernet switch inside the process.

Frames go from port to port as Python objects; no file and no other program is needed.
Ports may be used from different threads, one thread for each port.

Source: IEEE 802.1D section 7 (learning, filtering, ageing).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._fork import forget_in_children
from aioioth.errors import BrokenTransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["Switch", "SwitchPort"]

# A port whose stack does not keep up loses frames beyond this, like any switch's. Four
# wake-ups' worth of a pump, from each of eight senders.
_QUEUE_FRAMES = 2048
# IEEE 802.1D section 7.9: 300 s is the recommended ageing time.
_AGEING_SECONDS = 300.0
# A table that a flood of forged addresses cannot blow up; real ones have 1 to 16 Ki.
_TABLE_ENTRIES = 8192
# Jumbo frames and more: the largest IP packet that fits a 64 KiB frame buffer.
_MTU = 65517


class Switch:
    """Forwards each frame to the port where its destination was last heard.

    Usable wherever a VNL is: ``Stack(switch, ip="10.0.0.1/24")``. It has no resources
    of its own, so it need not be closed; a port is closed by whoever opened it.

    Args:
        name: Shown in messages.
    """

    def __init__(self, name: str = "switch") -> None:
        self.name = name
        self._ports: tuple[SwitchPort, ...] = ()
        self._learned: dict[bytes, tuple[SwitchPort, float]] = {}
        self._watchers: tuple[tuple[Callable[[bytes], object]], ...] = ()
        self._full_until = 0.0
        # Ports may belong to different threads. Held for a few microseconds.
        self._lock = threading.Lock()
        forget_in_children(self)

    @override
    def __str__(self) -> str:
        return self.name

    def forget_in_child(self) -> None:
        """Be usable after a fork, whoever was forwarding just then."""
        self._lock = threading.Lock()

    @property
    def ports(self) -> tuple[SwitchPort, ...]:
        """The open ports, oldest first."""
        return self._ports

    async def open(self, label: str) -> SwitchPort:
        """Plug into the switch; see `aioioth.abc.FrameTransport`."""
        port = SwitchPort(self, label)
        with self._lock:
            self._ports = (*self._ports, port)
        return port

    def watch(self, watcher: Callable[[bytes], object]) -> Callable[[], None]:
        """Call ``watcher`` with each frame that enters the switch.

        It is called in the middle of forwarding: it must be quick and must not raise.

        Returns:
            A function that ends the watching; calling it again does nothing.
        """
        registration = (watcher,)
        self._watchers = (*self._watchers, registration)

        def unwatch() -> None:
            self._watchers = tuple(w for w in self._watchers if w is not registration)

        return unwatch

    def forward(self, source_port: SwitchPort, frame: bytes) -> None:
        """Pass on a frame that came in at a port; called by the port."""
        for (watcher,) in self._watchers:
            watcher(frame)
        now = time.monotonic()
        with self._lock:
            if not frame[6] & 1:
                self._learn(frame[6:12], source_port, now)
            port, heard = self._learned.get(frame[:6], (None, 0.0))
            if port is not None and now - heard < _AGEING_SECONDS:
                if port is not source_port:
                    port.deliver(frame)
                return
            for port in self._ports:
                if port is not source_port:
                    port.deliver(frame)

    def _learn(self, source: bytes, port: SwitchPort, now: float) -> None:
        if source not in self._learned and len(self._learned) >= _TABLE_ENTRIES:
            if now < self._full_until:
                return
            self._learned = {
                mac: entry
                for mac, entry in self._learned.items()
                if now - entry[1] < _AGEING_SECONDS
            }
            # If they are all fresh, there is no point in looking for each frame.
            self._full_until = now + 1.0
            if len(self._learned) >= _TABLE_ENTRIES:
                return
        self._learned[source] = port, now

    def unplug(self, gone: SwitchPort) -> None:
        """Forget a port; called by the port."""
        with self._lock:
            self._ports = tuple(port for port in self._ports if port is not gone)
            self._learned = {
                mac: entry
                for mac, entry in self._learned.items()
                if entry[0] is not gone
            }


class SwitchPort:
    """One port, as the side that is plugged in sees it: a `aioioth.abc.Plug`.

    Attributes:
        label: Who is plugged in.
        drops: Frames lost on their way out of this port, by cause; they show in the
            `stats` of the stack that is plugged in.
    """

    mtu = _MTU

    def __init__(self, switch: Switch, label: str) -> None:
        self.label = label
        self.drops: Counter[str] = Counter()
        self._switch = switch
        self._queue: deque[bytes] = deque()
        # Readable while frames wait. An eventfd, so that another thread may wake us.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return self._wake

    def hangup_fileno(self) -> int:
        """Return -1: a switch inside the process does not go away."""
        return -1

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        if not self._queue:
            # First the flag, then another look: a frame that came in between has either
            # seen the flag down and wakes us again, or is seen here.
            if self._wake == -1:
                raise BrokenTransportError(self._switch.name, "the port is closed")
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            self._woken = False
            if not self._queue:
                raise BlockingIOError
        frame = self._queue.popleft()
        length = len(frame)
        buffer[:length] = frame
        return length

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`. Never full: the receiving port drops instead."""
        if self._wake == -1:
            raise BrokenTransportError(self._switch.name, "the port is closed")
        data = bytes(frame)  # it has to wait, and the sender's buffer does not
        length = len(data)
        if length > _MTU + 18:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if length >= 14:
            self._switch.forward(self, data)
        return length

    def deliver(self, frame: bytes) -> None:
        """Queue a frame for whoever is plugged in; called by the switch, locked."""
        if len(self._queue) >= _QUEUE_FRAMES:
            self.drops["queue full"] += 1
            return
        self._queue.append(frame)
        if not self._woken and self._wake != -1:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Unplug; see `aioioth.abc.Plug.close`."""
        wake, self._wake = self._wake, -1
        if wake != -1:
            self._switch.unplug(self)
            self._queue.clear()
            os.close(wake)
