"""A learning Ethernet switch inside the process, which VDE programs can join.

Frames go from port to port as Python objects; no other program is needed. Ports may be
used from different threads, one thread for each port. A switch with a path is a VDE
node as well: vde_plug, vdens, QEMU and whatever speaks VDE plugs in there.

Source: IEEE 802.1D section 7 (learning, filtering, ageing); IEEE 802.1Q (VLANs).
"""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from typing_extensions import override

from aioioth._forwarding import (
    HEAD,
    POLICIES,
    SHORTEST_TAGGED,
    TRUNK,
    Fabric,
    Member,
    Vlans,
)
from aioioth.errors import BrokenTransportError, BusyError, ConfigurationError
from aioioth.plugs import Inbox
from aioioth.wire.offload import HEADER_SIZE, complete, is_of_tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from typing_extensions import Buffer

    from aioioth._vdeserver import VdeServer

__all__ = ["MacEntry", "Port", "PortCounters", "PortStats", "Switch", "SwitchPort"]

# IEEE 802.1D section 7.9: 300 s is the recommended ageing time.
_AGEING_SECONDS = 300.0
# A table that a flood of forged addresses cannot blow up; real ones have 1 to 16 Ki.
_TABLE_ENTRIES = 8192
# Jumbo frames and more: the largest IP packet that fits a 64 KiB frame buffer.
_MTU = 65517
# The largest that VDE programs take.
_VDE_MTU = 9216
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

Forwarding = Literal["switch", "hub", "multi", "bonding"]


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


class Switch:
    """Forwards each frame to the port where its destination was last heard.

    Usable wherever a VNL is: ``Stack(switch, ip="10.0.0.1/24")``. Without a path it has
    no resources of its own and need not be closed; a port is closed by whoever opened
    it. With a path it is also a VDE node, as long as the block lasts::

        async with aioioth.Switch("/tmp/sw") as switch:
            ...

    Args:
        path: Directory for VDE programs to join, made if it is not there; None if none
            shall.
        name: Shown in messages.
        forwarding: ``switch`` learns. ``hub`` repeats each frame to everybody but its
            sender. ``multi`` takes frames of this program to all VDE programs and
            theirs to this program only; ``bonding`` does so too, but takes each frame
            of this program to one VDE program, by turns.
        mode: Permissions of the sockets in the directory.
        dirmode: Permissions of the directory if it is made; None to let those in that
            ``mode`` lets.
        group: Group of the directory if it is made, and of the sockets in it; name or
            number.
        ageing: Seconds after which an address is forgotten that was not heard.
        capacity: Most addresses known at a time.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(  # noqa: PLR0913  (settings, by keyword)
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        forwarding: Forwarding = "switch",
        mode: int = 0o600,
        dirmode: int | None = None,
        group: str | int | None = None,
        ageing: float = _AGEING_SECONDS,
        capacity: int = _TABLE_ENTRIES,
    ) -> None:
        if forwarding not in POLICIES:
            known = ", ".join(map(repr, POLICIES))
            msg = f"forwarding={forwarding!r}: expected one of {known}"
            raise ConfigurationError(msg)
        if ageing <= 0 or capacity < 1:
            msg = f"ageing={ageing}, capacity={capacity}: expected more than 0"
            raise ConfigurationError(msg)
        self._path = None if path is None else _node_path(os.fsdecode(path))
        self._access = (mode, dirmode, _find_group(group))
        if name is None:
            name = "switch" if self._path is None else f"{forwarding}://{self._path}"
        self._name = name
        self._fabric: Fabric[Port] = Fabric(
            POLICIES[forwarding], ageing=ageing, capacity=capacity
        )
        self._server: VdeServer | None = None

    @override
    def __str__(self) -> str:
        return self._name

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._name

    @property
    def path(self) -> Path | None:
        """The directory where VDE programs join; None if there is none."""
        return self._path

    @property
    def is_running(self) -> bool:
        """Whether VDE programs can join."""
        return self._server is not None and not self._server.is_closed

    async def start(self) -> None:
        """Let VDE programs in, from the running event loop; nothing without a path.

        Raises:
            BrokenTransportError: The directory cannot be made or used, or a switch is
                running there already.
            BusyError: It has been started already.
        """
        if self._path is None:
            return
        if self.is_running:
            msg = f"{self} is running already"
            raise BusyError(msg)
        self.close()  # what is left if its event loop has ended
        # Not before it is needed: a switch inside the process has nothing to do with
        # event loops.
        from aioioth._vdeplace import Access
        from aioioth._vdeserver import VdeServer

        self._server = VdeServer(
            self._name, self._path, Access(*self._access), self._fabric
        )

    def close(self) -> None:
        """Send VDE programs away and remove what is in the directory of ours.

        Idempotent, never waits, never raises. Ports inside the program stay.
        """
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def aclose(self) -> None:
        """See `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self, label: str) -> SwitchPort:
        """Plug into the switch; see `aioioth.abc.FrameTransport`.

        Raises:
            BrokenTransportError: It has a path and is not started.
        """
        if self._path is not None and not self.is_running:
            reason = "it is not running: use 'async with', or await start()"
            raise BrokenTransportError(self._name, reason, errno=errno.ENOTCONN)
        mtu = _MTU if self._path is None else _VDE_MTU
        return SwitchPort(self, self._fabric, label, mtu=mtu)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The open ports, oldest first."""
        return tuple(member.owner for member in self._fabric.members)

    @property
    def mac_table(self) -> tuple[MacEntry, ...]:
        """Where addresses were heard lately."""
        return tuple(
            MacEntry(
                key[:6].hex(":"), int.from_bytes(key[6:], "big"), member.owner, age
            )
            for key, member, age in self._fabric.entries(time.monotonic())
        )

    def watch(self, watcher: Callable[[bytes], object]) -> Callable[[], None]:
        """Call ``watcher`` with each frame that enters the switch.

        It is called in the middle of forwarding: it must be quick and must not raise.

        Returns:
            A function that ends the watching; calling it again does nothing.
        """
        return self._fabric.watch(watcher)

    def mirror(self, port: Port, *, to: Port) -> Callable[[], None]:
        """Copy all that goes in and out of a port to another.

        What the other port gets anyway it gets once. It ends with either port.

        Returns:
            A function that ends it; calling it again does nothing.

        Raises:
            ConfigurationError: They are not two ports of this switch.
        """
        if port is to:
            msg = f"{port.label}: a port cannot be mirrored to itself"
            raise ConfigurationError(msg)
        return self._fabric.mirror(self._find(port), self._find(to))

    def disconnect(self, port: Port) -> None:
        """Pull the plug out of a port; see `Port.disconnect`.

        Raises:
            ConfigurationError: It is no port of this switch.
        """
        self._find(port)
        port.disconnect()

    def _find(self, port: Port) -> Member[Port]:
        for member in self._fabric.members:
            if member.owner is port:
                return member
        msg = f"{port.label}: no port of {self}"
        raise ConfigurationError(msg)


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
        self, switch: Switch, fabric: Fabric[Port], label: str, *, mtu: int
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
        return self._send_whole(bytes(HEADER_SIZE) + frame)

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


@dataclass(frozen=True)
class MacEntry:
    """An address that a switch has heard.

    Attributes:
        mac: The address, like ``02:00:00:00:00:01``.
        vlan: The VLAN it was heard in; 0 for frames without a tag between trunks.
        port: Where it was heard last.
        age: How long ago, in seconds; up to one more than it is.
    """

    mac: str
    vlan: int
    port: Port
    age: float


def _node_path(text: str) -> Path:
    if not text or "\0" in text:
        msg = f"{text!r}: expected the path of a directory"
        raise ConfigurationError(msg)
    path = os.path.abspath(text)  # noqa: PTH100  (Path.absolute keeps "..")
    # What bind() takes is 107 bytes, and the longest name in there is a data socket's.
    room = 107 - len("/fd1234567")
    if len(os.fsencode(path)) > room:
        msg = f"{path}: too long, sockets in it have paths of 107 bytes; at most {room}"
        raise ConfigurationError(msg)
    return Path(path)


def _find_group(group: str | int | None) -> int | None:
    if group is None or isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        msg = f"this system has no group {group!r}"
        raise ConfigurationError(msg) from None
