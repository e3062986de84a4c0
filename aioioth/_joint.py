"""Two networks joined: an attachment to each, and a pump from each to the other."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from aioioth._attachment import Attachment
from aioioth._drain import drain
from aioioth._fork import forget_in_children
from aioioth._linux.sockets import unsent
from aioioth._pump import PLUG_DROPS, Counters, Pump
from aioioth.abc import SignalsRoom
from aioioth.events import CarrierDown, CarrierUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._manager import Manager
    from aioioth._pump import End
    from aioioth.abc import FrameTransport, Plug
    from aioioth.events import Event

# The longest header of a frame: Ethernet's, and a VLAN tag.
_HEADER = 18

_NO_CARRIER = {errno.ENOTCONN: "no carrier"}


class Joint:
    """The parts of an open cable.

    Frames for a side that is away are read and dropped: a network that is not read
    would keep frames of long ago for its return, or hold up who sends them.

    Args:
        label: Who plugs in, for the networks' own listings.
        transports: The way to side a, and to side b.
        manager: Owner of the cable.
        notify: Called with each event.

    Attributes:
        manager: As given.
        inherited: Whether this is a forked child's copy, which does nothing.
    """

    def __init__(
        self,
        label: str,
        transports: tuple[FrameTransport, FrameTransport],
        manager: Manager,
        notify: Callable[[Event], None],
    ) -> None:
        self.manager = manager
        self.inherited = False
        one, other = transports
        self._a = _Side("a", label, one, manager.buffer, notify)
        self._b = _Side("b", label, other, manager.buffer, notify)
        self._a.other, self._b.other = self._b, self._a
        forget_in_children(self)

    @classmethod
    async def open(
        cls,
        label: str,
        transports: tuple[FrameTransport, FrameTransport],
        manager: Manager,
        notify: Callable[[Event], None],
    ) -> Joint:
        """Plug into both networks; see `Cable.open`."""
        with ExitStack() as undo:
            plugs = []
            for transport in transports:
                plug = await transport.open(label)
                undo.callback(plug.close)
                plugs.append(plug)
            joint = cls(label, transports, manager, notify)
            undo.callback(joint.close)
            for side, plug in zip((joint._a, joint._b), plugs, strict=True):
                side.attachment.attach(plug)
            undo.pop_all()
        return joint

    @property
    def attached(self) -> bool:
        """Whether both sides are on their networks."""
        return self._a.plug is not None and self._b.plug is not None

    def stats(self) -> tuple[Counters, Counters]:
        """Return what went from a to b, and from b to a."""
        return self._a.stats(), self._b.stats()

    async def drain(self) -> None:
        """Let the last frames go."""
        if not self.inherited:
            await drain((self._a, self._b))

    def close(self) -> None:
        """Leave both networks. Idempotent, never waits, never raises."""
        self._a.attachment.close()
        self._b.attachment.close()

    def forget_in_child(self) -> None:
        """Close our copies after a fork; the loop's epoll set is the parent's too."""
        self.inherited = True
        for side in self._a, self._b:
            side.forget_in_child()


class _Side:
    """One end, and the way of its frames to the other end."""

    other: _Side

    def __init__(
        self,
        name: str,
        label: str,
        transport: FrameTransport,
        buffer: memoryview,
        notify: Callable[[Event], None],
    ) -> None:
        self.attachment = Attachment(f"side {name}", label, transport, self)
        self._name = name
        self._buffer = buffer
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._counters: Counters = Counters()
        self._pump: Pump | None = None

    @property
    def plug(self) -> Plug | None:
        return self.attachment.plug

    def stats(self) -> Counters:
        """Return what came in here and went out there."""
        drops = self.attachment.drops()
        drops.update(self._counters.drops)
        return replace(self._counters, drops=dict(drops))

    def flush(self) -> None:
        """See `aioioth._drain.Draining`."""
        if self._pump is not None:
            self._pump.flush()

    def unsent(self) -> int:
        """See `aioioth._drain.Draining`."""
        return 0 if self.plug is None else unsent(self.plug.fileno())

    def plugged(self, _: Plug) -> None:
        """See `aioioth._attachment.Owner`."""
        self.connect()
        self.other.connect()

    def unplugged(self, _: Plug) -> None:
        """See `aioioth._attachment.Owner`."""
        self.connect()
        self.other.connect()

    def lost(self, cause: str) -> None:
        """See `aioioth._attachment.Owner`."""
        self._notify(CarrierDown(self._name, cause))

    def regained(self, attempts: int) -> None:
        """See `aioioth._attachment.Owner`."""
        self._notify(CarrierUp(self._name, attempts))

    def forget_in_child(self) -> None:
        if self._pump is not None:
            self._pump.forget()
            self._pump = None
        self.attachment.forget_in_child()

    def connect(self) -> None:
        """Pump from what is plugged in here to what is plugged in there."""
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        source, sink = self.plug, self.other.plug
        if source is None:
            return
        self._pump = Pump(
            self._loop,
            source,
            _Nowhere() if sink is None else _as_wide_as(source, sink),
            _NO_CARRIER if sink is None else PLUG_DROPS,
            self._counters,
            self._buffer,
            self._on_broken,
        )
        self._pump.start()

    def _on_broken(self, end: End, error: OSError) -> None:
        broken = self if end is self.plug else self.other
        broken.attachment.lose(str(error))


class _Nowhere:
    """In place of a plug that is away."""

    def fileno(self) -> int:
        return -1

    def recv_into(self, _: memoryview, /) -> None: ...

    def send(self, _: memoryview, /) -> int:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


def _as_wide_as(source: Plug, sink: Plug) -> End:
    """Return the sink, made to refuse frames of the source that it cannot carry.

    A network may cut off what is too long for it instead of refusing it.
    """
    return sink if source.mtu <= sink.mtu else _Narrow(sink)


class _Narrow:
    """A plug of a network that carries less than the one at the other end."""

    def __init__(self, plug: Plug) -> None:
        self._send = plug.send
        self._longest = plug.mtu + _HEADER
        self.fileno = plug.fileno
        self.recv_into = plug.recv_into
        self.room_fileno = (
            plug.room_fileno if isinstance(plug, SignalsRoom) else plug.fileno
        )

    def send(self, frame: memoryview, /) -> int | None:
        if len(frame) > self._longest:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return self._send(frame)
