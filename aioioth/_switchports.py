"""The ports of a switch: where frames come into it, and leave it.

Source: IEEE 802.1Q (VLANs); <linux/virtio_net.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._forwarding import HEAD, SHORTEST_TAGGED, TRUNK, Fabric, Member, Vlans
from aioioth.errors import BrokenTransportError, ConfigurationError
from aioioth.plugs import Inbox
from aioioth.wire.offload import EMPTY_HEADER, HEADER_SIZE, complete, is_of_tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Buffer

_HEADERS = 18  # with a VLAN tag
# Of a frame that is still to be cut.
_LONGEST_JOINED = 65535 + _HEADERS
# Where a decision depends on it, behind a virtio header; and all that one may look at.
_HEAD = slice(HEADER_SIZE, HEADER_SIZE + HEAD)
_BEGINNING = slice(HEADER_SIZE, HEADER_SIZE + SHORTEST_TAGGED)
# Where a frame's virtio header says from where on it is to be summed up, the number's
# lower byte, and the ethertype's upper one; and what that is without a tunnel.
_PARTIAL = 6 if sys.byteorder == "little" else 7
_ETHERTYPE = HEADER_SIZE + 12
_USUAL = {0x08: 34, 0x86: 54}
_SHORTEST = 14

_LAST_VLAN = 4094


@dataclass(frozen=True)
class PortCounters:
    """What went one way through a port of a switch.

    Attributes:
        frames: Frames that got through.
        bytes: Their length together, Ethernet headers included.
        drops: Frames lost, by cause.
    """

    frames: int
    bytes: int
    drops: Mapping[str, int]


@dataclass(frozen=True)
class PortStats:
    """What went through a port of a switch.

    Attributes:
        received: What came into the switch there.
        sent: What left the switch there.
    """

    received: PortCounters
    sent: PortCounters


class Port(ABC):
    """One port of a switch.

    Args:
        fabric: The switch's.
        label: Who is plugged in.
        out: Takes a frame that goes out here.
        longest: Bytes in the longest frame.

    Attributes:
        label: Who is plugged in.
        drops: Frames lost on their way out of this port, by cause; they show in the
            `stats` of the stack that is plugged in.
    """

    _local = True
    # Bytes in front of each frame here.
    _header = 0

    def __init__(
        self,
        fabric: Fabric[Port],
        label: str,
        out: Callable[[bytes], object],
        longest: int,
    ) -> None:
        self.label = label
        self.drops: Counter[str] = Counter()
        self._fabric = fabric
        self._member = Member[Port](
            self, out, self._refuse, self._lose_out, self._local
        )
        self._decisions = self._member.decisions
        # -1 once it is closed: one comparison for each frame.
        self._longest = longest
        self._lost: Counter[str] = Counter()
        self._frames_in = self._bytes_in = 0
        self._frames_out = self._bytes_out = 0
        fabric.join(self._member)

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label!r}>"

    def send(self, frame: Buffer, /) -> int:
        """Pass a frame into the switch; see `aioioth.abc.Plug.send`.

        Never full: the port where it goes out drops instead.
        """
        data = bytes(frame)  # it has to wait, and the sender's buffer does not
        length = len(data)
        if not SHORTEST_TAGGED <= length <= self._longest:
            return self._send_unusual(data, length)
        fabric = self._fabric
        if fabric.watchers:
            for (watcher,) in fabric.watchers:
                watcher(data)
        now = time.monotonic()
        with fabric.lock:
            if now >= fabric.fresh_until or (
                (exits := self._decisions.get(data[:HEAD])) is None
            ):
                exits = fabric.decide(self._member, data, now)
            for put in exits:
                put(data)
        self._frames_in += 1
        self._bytes_in += length
        return length

    def _send_unusual(self, data: bytes, length: int) -> int:
        if length > self._longest:
            return self._send_impossible(length)
        if length < _SHORTEST:
            self._lost["too short"] += 1
            return length
        for (watcher,) in self._fabric.watchers:
            watcher(data)
        with self._fabric.lock:
            for put in self._fabric.decide(self._member, data, time.monotonic()):
                put(data)
        self._frames_in += 1
        self._bytes_in += length
        return length

    @abstractmethod
    def _send_impossible(self, length: int) -> int:
        """Meet a frame that is too long, or a port that is closed."""

    def _refuse(self, frame: bytes) -> None:
        self._lost["not in this VLAN"] += 1
        # `send` will count it.
        self._frames_in -= 1
        self._bytes_in -= len(frame) - self._header

    def _lose_out(self, cause: str) -> None:
        self.drops[cause] += 1

    @property
    def stats(self) -> PortStats:
        """What went through it so far."""
        return PortStats(
            PortCounters(self._frames_in, self._bytes_in, dict(self._lost)),
            PortCounters(self._frames_out, self._bytes_out, dict(self.drops)),
        )

    @property
    def untagged(self) -> int | None:
        """The VLAN whose frames have no tag here; None if there is none."""
        return self._member.vlans.untagged

    @property
    def tagged(self) -> tuple[int, ...]:
        """The VLANs whose frames have tags here, in order; see `set_vlans`."""
        return tuple(sorted(self._member.vlans.tagged or ()))

    def set_vlans(
        self, untagged: int | None = None, tagged: Iterable[int] = ()
    ) -> None:
        """Put the port into VLANs, 1 to 4094; frames of others do not pass.

        Without any, as at first, it is a trunk: all frames pass as they are, those with
        a tag within their VLAN and those without among themselves.

        Args:
            untagged: The VLAN of frames that have no tag here.
            tagged: The VLANs of frames that have a tag here.

        Raises:
            ConfigurationError: That is no number of a VLAN, or it is in both.
        """
        wanted = frozenset(tagged)
        for vlan in wanted if untagged is None else wanted | {untagged}:
            if not 1 <= vlan <= _LAST_VLAN:
                msg = f"VLAN {vlan}: expected a number from 1 to {_LAST_VLAN}"
                raise ConfigurationError(msg)
        if untagged in wanted:
            msg = f"VLAN {untagged}: frames have a tag here, or have none; not both"
            raise ConfigurationError(msg)
        vlans = TRUNK if untagged is None and not wanted else Vlans(untagged, wanted)
        self._fabric.set_vlans(self._member, vlans)

    @abstractmethod
    def disconnect(self) -> None:
        """Pull the plug out; from any thread. Idempotent."""


class SwitchPort(Port):
    """A port inside the program, for who is plugged in: a `aioioth.abc.Plug`.

    Attributes:
        mtu: See `aioioth.abc.Plug.mtu`.
    """

    def __init__(
        self, switch: object, fabric: Fabric[Port], label: str, *, mtu: int
    ) -> None:
        self.mtu = mtu
        self._switch = switch  # it is there while somebody is plugged in
        self._why = "the port is closed"
        self._inbox = Inbox()
        self._take = self._inbox.recv_into
        self._deliver: Callable[[Buffer], bool] = _never
        super().__init__(fabric, label, self._inbox.put, mtu + _HEADERS)
        self.drops: Counter[str] = self._inbox.drops

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return self._inbox.fileno()

    def hangup_fileno(self) -> int:
        """Return -1: `recv_into` and `send` raise."""
        return -1

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        length = self._take(buffer)
        self._frames_out += 1
        self._bytes_out += length - self._header
        return length

    def carry_offloads(self, deliver: Callable[[Buffer], bool], /) -> bool:
        """See `aioioth.abc.CarriesOffloads.carry_offloads`."""
        if not self._fabric.passes_offloads:
            return False
        self._header = HEADER_SIZE
        self._single, self._longest = self._longest, _LONGEST_JOINED
        self._deliver = deliver
        vars(self)["send"] = self._send_whole  # a call less for each frame
        home = asyncio.get_running_loop()
        with self._fabric.lock:
            # There has been a port for some time: frames may wait.
            self._inbox.put_in_front(EMPTY_HEADER)
            self._fabric.carry_offloads(self._member, home, self._pass_on)
        return True

    def _send_whole(self, frame: Buffer, /) -> int:
        """Pass a frame with a virtio header into the switch; see `Port.send`."""
        data = memoryview(frame)
        size = len(data)
        length = size - HEADER_SIZE
        if not SHORTEST_TAGGED <= length <= self._longest or (
            length > self._single and not data[1]
        ):
            return self._send_unusual_whole(data, length)
        start = data[_PARTIAL]
        if start and start != _USUAL.get(data[_ETHERTYPE]) and is_of_tunnel(data):
            return self._send_tunnelled(data)
        fabric = self._fabric
        if fabric.watchers:
            self._show(data)
        now = time.monotonic()
        with fabric.lock:
            if now >= fabric.fresh_until or (
                (exits := self._decisions.get(bytes(data[_HEAD]))) is None
            ):
                exits = fabric.decide(self._member, bytes(data[_BEGINNING]), now)
            for put in exits:
                put(data)
        self._frames_in += 1
        self._bytes_in += length
        return size

    def _send_unusual_whole(self, data: memoryview, length: int) -> int:
        if length > min(self._longest, self._single):
            return self._send_impossible(length)
        if length < _SHORTEST:
            self._lost["too short"] += 1
            return len(data)
        self._show(data)
        with self._fabric.lock:
            frame, now = bytes(data[HEADER_SIZE:]), time.monotonic()
            for put in self._fabric.decide(self._member, frame, now):
                put(data)
        self._frames_in += 1
        self._bytes_in += length
        return len(data)

    def _send_tunnelled(self, data: memoryview) -> int:
        """Complete a frame whose inside would reach a program as it is."""
        try:
            (frame,) = complete(data)
        except ValueError:
            self._lost["malformed"] += 1
            return len(data)
        return self._send_whole(EMPTY_HEADER + frame)

    def _show(self, data: memoryview) -> None:
        try:
            frames = complete(data)
        except ValueError:
            return  # it gets nowhere where it has to be complete
        for (watcher,) in self._fabric.watchers:
            for frame in frames:
                watcher(frame)

    def _pass_on(self, frame: memoryview) -> None:
        """Take a frame that goes out here, on our own loop."""
        if self._inbox.is_empty and self._deliver(frame):
            self._frames_out += 1
            self._bytes_out += len(frame) - HEADER_SIZE
        else:
            self._inbox.put(bytes(frame))

    @override
    def disconnect(self) -> None:
        """Pull the plug out: who is plugged in loses the network, and may come back.

        From any thread. Idempotent.
        """
        if self._longest != -1:
            self._why = "disconnected by the switch"
            self._longest = -1
            self._fabric.leave(self._member)
            self._inbox.fail(self._end)

    def close(self) -> None:
        """Unplug; see `aioioth.abc.Plug.close`."""
        self._longest = -1
        self._fabric.leave(self._member)
        self._inbox.close()

    @override
    def _send_impossible(self, length: int) -> int:
        if self._longest == -1:
            raise self._end()
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))

    def _end(self) -> BrokenTransportError:
        return BrokenTransportError(str(self._switch), self._why)


def _never(_: Buffer, /) -> bool:
    return False
