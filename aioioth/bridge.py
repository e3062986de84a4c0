"""A network inside the kernel: stacks joined by a Linux bridge in a hidden namespace.

No frame enters the program, so it is as fast as the kernel is. Programs of the same
user that give the same name are on the same bridge; it is made by the first and is gone
with the last.

Source: <linux/if_bridge.h>, <linux/if_link.h>, Linux 6.1; IEEE 802.1Q.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass, replace
from errno import EBUSY, EEXIST, EOPNOTSUPP, EXFULL
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth import _iproute
from aioioth._bridging import BRIDGE, BRIDGE_INDEX, running_bridges
from aioioth._device import SOL_PACKET, PacketDevice, TapDevice
from aioioth._iproute import Request
from aioioth._keeper import orders
from aioioth.errors import (
    BrokenTransportError,
    ConfigurationError,
    MissingPrivilegeError,
    NetlinkError,
)
from aioioth.wire import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Buffer

    from aioioth._bridging import Joined
    from aioioth._device import Device
    from aioioth._manager import Home
    from aioioth.abc import NewInterface

__all__ = ["Bridge", "BridgePlug", "BridgePort"]

# The largest of a veth interface.
_MTU = 65535
# The largest that fits a 64 KiB frame buffer.
_FRAME_MTU = 65517
_MAX_NAME = 200
_LAST_VLAN = 4094
_MAX_PORTS = 1023  # BR_PORT_BITS
_MAX_AGEING = 1_000_000
# So that a request fits into a message to the keeper.
_VLANS_AT_ONCE = 256

# <linux/if_link.h>, <linux/if_bridge.h>, <linux/rtnetlink.h>, Linux 6.1
_AF_BRIDGE = 7
_RTM_SETLINK = 19
_IFLA_BR_AGEING_TIME = 4
_IFLA_BR_VLAN_FILTERING = 7
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_PROTINFO = 12
_IFLA_BRPORT_STATE = 1
_IFLA_BRPORT_ISOLATED = 33
_IFLA_BRIDGE_VLAN_INFO = 2
_BRIDGE_VLAN_INFO = struct.Struct("=HH")
_PVID_UNTAGGED = 0x2 | 0x4
_BR_STATE_DISABLED = b"\0"
_USER_HZ = 100

# <linux/if_packet.h>, Linux 6.1: struct tpacket_auxdata
_PACKET_AUXDATA = 8
_AUXDATA = struct.Struct("=IIIHHHH")
_TOLD_SIZE = socket.CMSG_SPACE(_AUXDATA.size)
_TP_STATUS_VLAN_VALID = 0x10
_TAG = struct.Struct(">HH")

# Ports of several programs have random numbers; the chance that two are the same is
# one in a thousand with a thousand ports.
_ATTEMPTS = 4


@dataclass(frozen=True)
class _Settings:
    """What a port, or the whole bridge, is to be like; None: as it is."""

    ageing: int | None
    isolated: bool
    untagged: int | None
    tagged: tuple[int, ...]

    @property
    def has_vlans(self) -> bool:
        return self.untagged is not None or bool(self.tagged)


class Bridge:
    """A bridge that programs of this user find by name.

    Usable wherever a VNL is: ``Stack(Bridge("lan"), ip="10.0.0.1/24")``. Stacks are
    joined to it inside the kernel; cables and other networks around it get its frames,
    as from any other network. It has no address itself.

    Args:
        name: Any text of up to 200 bytes.
        private: Whether it is for this process alone.
        ageing: Seconds after which it forgets an address that it has not heard, up to
            1,000,000; None for what it has: 300 at first.
        isolated: Whether frames pass only between this port and such that are not
            isolated.
        untagged: The VLAN of frames without a tag at this port, 1 to 4094. Once any
            port has VLANs the bridge keeps them apart, and a port without is in VLAN 1.
        tagged: The VLANs whose frames have tags at this port.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(
        self,
        name: str,
        *,
        private: bool = False,
        ageing: int | None = None,
        isolated: bool = False,
        untagged: int | None = None,
        tagged: Iterable[int] = (),
    ) -> None:
        if len(name.encode(errors="surrogatepass")) > _MAX_NAME or "\0" in name:
            msg = f"bridge {name[:40]!r}: a name has {_MAX_NAME} bytes at most, no NUL"
            raise ConfigurationError(msg)
        if ageing is not None and not 1 <= ageing <= _MAX_AGEING:
            msg = f"ageing={ageing}: expected 1 to {_MAX_AGEING} seconds"
            raise ConfigurationError(msg)
        self._name = name
        self._private = private
        self._settings = _Settings(ageing, isolated, untagged, _in_order(tagged))
        for vlan in (
            *self._settings.tagged,
            *(() if untagged is None else (untagged,)),
        ):
            if not 1 <= vlan <= _LAST_VLAN:
                msg = f"VLAN {vlan}: expected a number from 1 to {_LAST_VLAN}"
                raise ConfigurationError(msg)
        if untagged in self._settings.tagged:
            msg = f"VLAN {untagged}: frames have a tag here, or have none; not both"
            raise ConfigurationError(msg)

    @override
    def __str__(self) -> str:
        return f"bridge://{self._name}" + ("[private]" if self._private else "")

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    async def join(self, label: str) -> BridgePort:  # noqa: ARG002
        """Reach the bridge for an interface; see `aioioth.abc.KernelTransport`.

        Raises:
            BrokenTransportError: The other programs cannot be met.
            MissingPrivilegeError: The kernel refuses; the message says what to do.
        """
        return BridgePort(await self._enter(), str(self), self._settings)

    async def open(self, label: str) -> BridgePlug:  # noqa: ARG002
        """Reach the bridge for frames; see `aioioth.abc.FrameTransport`.

        Raises:
            BrokenTransportError: The other programs cannot be met, or the bridge has no
                room.
            MissingPrivilegeError: The kernel refuses; the message says what to do.
        """
        with ExitStack() as undo:
            seat = await self._enter()
            undo.callback(seat.leave)
            device, name, index = await _make_device(seat.joined)
            plug = BridgePlug(seat, device, index)
            undo.callback(plug.close)
            up = _iproute.set_link(name, mtu=_FRAME_MTU, up=True)
            requests = [
                up,
                _plug_in(name),
                *_port_requests(self._settings, name, index),
            ]
            try:
                await _iproute.carry_out(seat.joined.namespace, requests)
            except NetlinkError as error:
                raise _broken(str(self), error) from error
            undo.pop_all()
        return plug

    async def _enter(self) -> _Seat:
        bridges = await running_bridges()
        name, private = self._name, self._private
        joined = await bridges.enter(name, private=private)
        return _Seat(joined, lambda: bridges.leave(name, private=private))


class _Seat:
    """Somebody's use of a bridge; a forked child has none."""

    def __init__(self, joined: Joined, leave: Callable[[], None]) -> None:
        self.joined = joined
        self._leave: Callable[[], None] | None = leave
        self._process = os.getpid()

    def tell(self, request: Request) -> None:
        """Have the kernel do something there; never waits, never raises."""
        if self._leave is not None and self._process == os.getpid():
            self.joined.tell(request)

    def leave(self) -> None:
        """Use it no more. Idempotent, never waits, never raises."""
        leave, self._leave = self._leave, None
        if leave is not None and self._process == os.getpid():
            leave()


class BridgePort:
    """One interface's place on a bridge: see `aioioth.abc.Junction`.

    Attributes:
        kind: See `aioioth.abc.Junction.kind`.
        mtu: See `aioioth.abc.Junction.mtu`.
        home: Where stacks have to be that are to be joined to it.
    """

    __slots__ = ("_index", "_name", "_seat", "_settings", "_vnl", "home")

    kind = "veth"
    mtu = _MTU

    def __init__(self, seat: _Seat, vnl: str, settings: _Settings) -> None:
        self.home: Home = seat.joined.home
        self._seat = seat
        self._vnl = vnl
        self._settings = settings
        self._name, self._index = "", 0

    async def make(self, wanted: NewInterface, /) -> None:
        """See `aioioth.abc.Junction.make`."""
        namespace = self._seat.joined.namespace
        for attempt in range(_ATTEMPTS):
            self._name, self._index = _random_name()
            try:
                await _iproute.carry_out(
                    namespace, self._requests(wanted), wanted.namespace
                )
            except NetlinkError as error:
                if error.errno in {EBUSY, EEXIST} and attempt < _ATTEMPTS - 1:
                    continue
                if error.errno in _EXPLAINED:
                    raise _broken(self._vnl, error) from error
                raise
            except BaseException:
                # The keeper is making it, perhaps; then it is taken away again.
                self._seat.tell(_delete(self._index))
                raise
            return

    def _requests(self, wanted: NewInterface) -> list[Request]:
        """Return what makes both ends of a cable from the stack to the bridge."""
        index = self._index
        words = f"ip link add {wanted.name} type veth peer name {self._name}"
        near = rtnetlink.link_body(
            index=index, up=True, name=self._name, mtu=_MTU, master=BRIDGE_INDEX
        )
        stack = rtnetlink.link_body(
            index=wanted.index,
            name=wanted.name,
            mtu=wanted.mtu,
            mac=wanted.mac,
            namespace=rtnetlink.descriptor_place(1),
        )
        return [
            Request(words, rtnetlink.veth(near, stack)),
            *_port_requests(self._settings, self._name, index),
            replace(_iproute.set_link(wanted.name, up=True), where=1),
            # For some microseconds frames are thrown away at both ends (noop_qdisc),
            # and a first packet that is lost costs a second.
            Request(words, wanted.name.encode(), orders.UNTIL_RUNNING, where=1),
            Request(words, self._name.encode(), orders.UNTIL_RUNNING),
        ]

    async def set_carrier(self, *, on: bool) -> None:
        """See `aioioth.abc.Junction.set_carrier`."""
        requests = [_iproute.set_link(self._name, up=on)]
        if on:
            words = requests[0].words
            requests.append(Request(words, self._name.encode(), orders.UNTIL_RUNNING))
        try:
            await _iproute.carry_out(self._seat.joined.namespace, requests)
        except BaseException:
            # It may be done or not: have it as it was.
            self._seat.tell(_iproute.set_link(self._name, up=not on))
            raise

    def close(self) -> None:
        """See `aioioth.abc.Junction.close`.

        The kernel needs a while to take the stack's end away. Until then nobody must
        get an answer from a stack that was closed, or another one could not have its
        address.
        """
        index, self._index = self._index, 0
        if index:
            self._seat.tell(_disable(index))
        self._seat.leave()


class BridgePlug:
    """A bridge's frames: see `aioioth.abc.Plug`.

    Attributes:
        mtu: See `aioioth.abc.Plug.mtu`.
    """

    mtu = _FRAME_MTU

    def __init__(self, seat: _Seat, device: Device, index: int) -> None:
        self._seat = seat
        self._device = device
        self._index = index
        self._sock: socket.socket | None = None
        descriptor = device.fileno()
        self.fileno: Callable[[], int] = device.fileno
        self.recv_into: Callable[[memoryview], int | None] = device.recv_into
        self.send: Callable[[Buffer], int | None] = device.write
        if skip := device.skip:
            # What the device itself writes together would need an end of each wake-up.
            before, none = bytearray(skip), bytes(skip)
            self.recv_into = lambda into: os.readv(descriptor, (before, into)) - skip
            self.send = lambda frame: os.writev(descriptor, (none, frame)) - skip
        else:
            self._sock = socket.socket(fileno=os.dup(descriptor))
            self._sock.setsockopt(SOL_PACKET, _PACKET_AUXDATA, 1)
            self.recv_into = partial(_receive_with_tag, self._sock)

    def hangup_fileno(self) -> int:
        """Return -1: the bridge is there as long as we are."""
        return -1

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        index, self._index = self._index, 0
        if index:
            # The interface would stay as long as the bridge does.
            self._seat.tell(_delete(index))
        if self._sock is not None:
            self._sock.close()
        self._device.close()
        self._seat.leave()


def _receive_with_tag(sock: socket.socket, into: memoryview) -> int:
    """Receive a frame from a packet socket, which says beside it what tag it had."""
    size, told, _, _ = sock.recvmsg_into((into,), _TOLD_SIZE)
    for _, _, auxdata in told:
        status, *_, tci, tpid = _AUXDATA.unpack_from(auxdata)
        if status & _TP_STATUS_VLAN_VALID:
            into[16 : size + 4] = into[12:size]
            _TAG.pack_into(into, 12, tpid, tci)
            return size + 4
    return size


async def _make_device(joined: Joined) -> tuple[Device, str, int]:
    """Make an interface beside the bridge whose frames come to us."""
    name, _ = _random_name()
    try:
        device: Device = await TapDevice.make(joined.namespace, name)
    except MissingPrivilegeError:
        device = await PacketDevice.make(joined.namespace, name)
    try:
        words = f"ip link show {name}"
        index = _iproute.find_index(joined.namespace, name, words)
    except BaseException:
        device.close()
        raise
    return device, name, index


def _random_name() -> tuple[str, int]:
    """Return name and number for a port; other programs make some as well."""
    index = secrets.randbits(30) | 1 << 30
    return f"p{index:x}", index


def _plug_in(name: str) -> Request:
    body = rtnetlink.link_body(name=name, master=BRIDGE_INDEX)
    return Request(f"ip link set {name} master {BRIDGE}", rtnetlink.set_link(body))


def _port_requests(settings: _Settings, name: str, index: int) -> list[Request]:
    requests = []
    if settings.ageing is not None:
        value = settings.ageing * _USER_HZ
        requests.append(_set_bridge("ageing_time", _IFLA_BR_AGEING_TIME, value))
    if settings.isolated:
        requests.append(_set_port(name, _IFLA_BRPORT_ISOLATED, b"\1"))
    if settings.has_vlans:
        requests.append(_set_bridge("vlan_filtering", _IFLA_BR_VLAN_FILTERING, b"\1"))
        requests.append(_vlans(index, rtnetlink.RTM_DELLINK, {1: 0}))
        wanted = dict.fromkeys(settings.tagged, 0)
        if settings.untagged is not None:
            wanted[settings.untagged] = _PVID_UNTAGGED
        requests += [
            _vlans(index, _RTM_SETLINK, dict(batch))
            for batch in _in_batches(wanted.items())
        ]
    return requests


def _set_bridge(word: str, attribute: int, value: int | bytes) -> Request:
    info = rtnetlink.link_info("bridge", rtnetlink.attribute(attribute, value))
    body = rtnetlink.link_body(info, index=BRIDGE_INDEX)
    words = f"ip link set {BRIDGE} type bridge {word}"
    return Request(words, rtnetlink.set_link(body))


def _set_port(name: str, attribute: int, value: bytes) -> Request:
    info = rtnetlink.nest(
        rtnetlink.IFLA_LINKINFO,
        rtnetlink.attribute(_IFLA_INFO_SLAVE_KIND, "bridge"),
        rtnetlink.nest(_IFLA_INFO_SLAVE_DATA, rtnetlink.attribute(attribute, value)),
    )
    body = rtnetlink.link_body(info, name=name)
    words = f"ip link set {name} type bridge_slave"
    return Request(words, rtnetlink.set_link(body))


def _disable(index: int) -> Request:
    """Return what has no frames pass a port any more.

    This is bridge(8)'s way. After ip(8)'s (``type bridge_slave state 0``) the kernel
    tells all who want to know that the port has changed, upon which the bridge sees a
    carrier and enables it again.
    """
    state = rtnetlink.attribute(_IFLA_BRPORT_STATE, _BR_STATE_DISABLED)
    info = rtnetlink.nest(_IFLA_PROTINFO, state)
    body = rtnetlink.link_body(info, family=_AF_BRIDGE, index=index)
    message = rtnetlink.request(_RTM_SETLINK, body, rtnetlink.NLM_F_ACK)
    return Request(f"bridge link set port {index} state 0", message)


def _delete(index: int) -> Request:
    message = rtnetlink.del_link(rtnetlink.link_body(index=index))
    return Request(f"ip link delete port {index}", message)


def _vlans(index: int, kind: int, vlans: dict[int, int]) -> Request:
    infos = [
        rtnetlink.attribute(_IFLA_BRIDGE_VLAN_INFO, _BRIDGE_VLAN_INFO.pack(flags, vlan))
        for vlan, flags in vlans.items()
    ]
    spec = rtnetlink.nest(rtnetlink.IFLA_AF_SPEC, *infos)
    body = rtnetlink.link_body(spec, family=_AF_BRIDGE, index=index)
    message = rtnetlink.request(kind, body, rtnetlink.NLM_F_ACK)
    return Request(f"bridge vlan of port {index}", message)


def _in_batches(vlans: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    left = iter(vlans)
    while batch := list(islice(left, _VLANS_AT_ONCE)):
        yield batch


def _in_order(vlans: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(vlans)))


_EXPLAINED = {
    EXFULL: (
        f"a bridge has room for {_MAX_PORTS} interfaces. Use a second one, and join "
        f"the two with a Cable"
    ),
    EOPNOTSUPP: (
        "the kernel's bridge cannot do that; for VLANs it needs "
        "CONFIG_BRIDGE_VLAN_FILTERING. A Switch of aioioth's has VLANs everywhere"
    ),
}


def _broken(vnl: str, error: NetlinkError) -> BrokenTransportError:
    code = error.errno or 0
    return BrokenTransportError(vnl, _EXPLAINED.get(code, str(error)), errno=code)
