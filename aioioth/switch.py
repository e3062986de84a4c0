"""A learning Ethernet switch inside the process, which VDE programs can join.

Frames go from port to port as Python objects; no other program is needed. Ports may be
used from different threads, one thread for each port. A switch with a path is a VDE
node as well: vde_plug, vdens, QEMU and whatever speaks VDE plugs in there.

Source: IEEE 802.1D section 7 (learning, filtering, ageing); IEEE 802.1Q (VLANs).
"""

from __future__ import annotations

import errno
import grp
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from typing_extensions import override

from aioioth._forwarding import POLICIES, Fabric, Member
from aioioth._switchports import Port, PortCounters, PortStats, SwitchPort
from aioioth.errors import BrokenTransportError, BusyError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

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

Forwarding = Literal["switch", "hub", "multi", "bonding"]


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
