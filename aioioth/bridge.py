"""A network inside the kernel: stacks joined by a Linux bridge in a hidden namespace.

No frame enters the program, so it is as fast as the kernel is. Programs of the same
user that give the same name are on the same bridge; it is made by the first and is gone
with the last.

Source: <linux/if_bridge.h>, <linux/if_link.h>, Linux 6.1; IEEE 802.1Q.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from errno import EBUSY, EEXIST, EOPNOTSUPP, EXFULL
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth import _iproute
from aioioth._bridgeplug import FRAME_MTU, BridgePlug, make_device
from aioioth._bridgerequests import (
    PortSettings,
    configure_port,
    delete,
    disable,
    plug_in,
    random_name,
)
from aioioth._bridging import BRIDGE_INDEX, running_bridges
from aioioth._iproute import Request
from aioioth.errors import (
    BrokenTransportError,
    ConfigurationError,
    NetlinkError,
)
from aioioth.wire import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioioth._bridging import Seat
    from aioioth._namespace import Home
    from aioioth.abc import NewInterface

__all__ = ["Bridge", "BridgePlug", "BridgePort"]

# The largest of a veth interface.
_MTU = 65535
_MAX_NAME = 200
_LAST_VLAN = 4094
_MAX_PORTS = 1023  # BR_PORT_BITS
_MAX_AGEING = 1_000_000
# Ports of several programs have random numbers; the chance that two are the same is
# one in a thousand with a thousand ports.
_ATTEMPTS = 4


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
        self._settings = PortSettings(ageing, isolated, untagged, _in_order(tagged))
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
            device, name, index = await make_device(seat.joined)
            plug = BridgePlug(seat, device, index)
            undo.callback(plug.close)
            up = _iproute.set_link(name, mtu=FRAME_MTU, up=True)
            requests = [
                up,
                plug_in(name),
                *configure_port(self._settings, name, index),
            ]
            try:
                await _iproute.carry_out(seat.joined.namespace, requests)
            except NetlinkError as error:
                raise _broken(str(self), error) from error
            undo.pop_all()
        return plug

    async def _enter(self) -> Seat:
        bridges = await running_bridges()
        return await bridges.enter(self._name, private=self._private)


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

    def __init__(self, seat: Seat, vnl: str, settings: PortSettings) -> None:
        self.home: Home = seat.joined.home
        self._seat = seat
        self._vnl = vnl
        self._settings = settings
        self._name, self._index = "", 0

    async def make(self, wanted: NewInterface, /) -> None:
        """See `aioioth.abc.Junction.make`."""
        namespace = self._seat.joined.namespace
        for attempt in range(_ATTEMPTS):
            self._name, self._index = random_name()
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
                self._seat.tell(delete(self._index))
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
            *configure_port(self._settings, self._name, index),
            replace(_iproute.set_link(wanted.name, up=True), where=1),
            # For some microseconds frames are thrown away at both ends (noop_qdisc),
            # and a first packet that is lost costs a second.
            _iproute.until_running(wanted.name, where=1),
            _iproute.until_running(self._name),
        ]

    async def set_carrier(self, *, on: bool) -> None:
        """See `aioioth.abc.Junction.set_carrier`."""
        requests = [_iproute.set_link(self._name, up=on)]
        if on:
            requests.append(_iproute.until_running(self._name))
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
            self._seat.tell(disable(index))
        self._seat.leave()


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
