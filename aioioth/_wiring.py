"""The interfaces of one stack: made, put on their networks, and taken away again."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import TypeIs

from aioioth import _iproute
from aioioth._device import PacketDevice, TapDevice
from aioioth._drain import drain
from aioioth._iproute import Request, control_socket, random_mac
from aioioth._kernellink import KernelLink
from aioioth._link import Link
from aioioth._linux import netdevice
from aioioth._linux.links import delete_link
from aioioth._preflight import TUN
from aioioth.abc import KernelTransport, NewInterface
from aioioth.errors import ClosedError, ConfigurationError, MissingPrivilegeError
from aioioth.events import InterfaceAdded, InterfaceRemoved
from aioioth.interfaces import Interface
from aioioth.iproute import Address, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from aioioth._device import Device
    from aioioth._ip import IPInterface
    from aioioth._namespace import Home, Namespace
    from aioioth._netstate import Monitor
    from aioioth._settings import Gateway, InterfaceSettings
    from aioioth.abc import FrameTransport, Junction, Plug
    from aioioth.events import Event

_T = TypeVar("_T")

_log = logging.getLogger("aioioth")

# The number of the first interface that we give numbers to: above what the kernel makes
# by itself in a new namespace (tunnels, where their modules are loaded), and far from
# what it counts up for others.
_FIRST_INDEX = 1000
# The kernel's for ``lo``, everywhere.
_LOOPBACK = 1


class Wiring:
    """Makes interfaces in a namespace, and keeps their links.

    Args:
        label: Who plugs in, for the networks' own listings.
        space: The stack's namespace; stays the stack's.
        buffer: Shared by the pumps of the loop.
        device: ``tap``, ``packet``, or None for what works.
        monitor: Follows what the kernel has in the stack.
        notify: Called with each event.

    Attributes:
        device: As given.
        interfaces: What users see, by name.
    """

    def __init__(
        self,
        label: str,
        space: Namespace,
        buffer: memoryview,
        device: str | None,
        *,
        monitor: Monitor,
        notify: Callable[[Event], None],
    ) -> None:
        self.interfaces: dict[str, Interface] = {}
        self._label = label
        self._space = space
        self._buffer = buffer
        self.device = device
        self._monitor = monitor
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, Link | KernelLink] = {}
        self._numbers: dict[str, int] = {}  # the kernel's; users may rename
        self._free_number = _FIRST_INDEX
        self._reserved: set[str] = set()
        # Interfaces that the kernel, or a call that was cancelled, is not done with.
        self._going: dict[str, asyncio.Future[None]] = {}
        self._closed = False

    @property
    def links(self) -> tuple[Link | KernelLink, ...]:
        """The way of each interface to its network."""
        return tuple(self._links.values())

    async def add(self, wanted: InterfaceSettings, way: Plug | Junction) -> None:
        """Make an interface of a new stack; what fails goes with its namespace.

        Args:
            wanted: As it shall be.
            way: Its network. Taken over.
        """
        with ExitStack() as undo:
            undo.callback(way.close)
            if _is_junction(way):
                await self._join(wanted, way, undo)
            else:
                device = await self._make_device(wanted.name)
                undo.callback(device.close)
                await self._connect(wanted, device, way, undo)
            undo.pop_all()

    async def add_to_running(
        self, wanted: InterfaceSettings, addresses: Iterable[tuple[str, IPInterface]]
    ) -> None:
        """Make an interface of a running stack; see `Stack.add_interface`.

        Args:
            wanted: As it shall be; the name is reserved.
            addresses: Interface name and address.
        """
        name = wanted.name
        with ExitStack() as undo:
            # The network first: what is wrong there is found before anything is made.
            way = await self._reach(wanted)
            undo.callback(way.close)
            wanted.mtu_on(way)
            await self.until_free(name)
            if _is_junction(way):
                undo.callback(self._take_down, name, way.close)
                await self._join(wanted, way, undo)
            else:
                device = await self._make_device_or_undo(name)
                undo.callback(self._take_down, name, device.close)
                await self._connect(wanted, device, way, undo)
            await _iproute.carry_out(self._space, self.addresses(addresses))
            if self._closed:  # by another task, meanwhile
                raise ClosedError(self._label)
            undo.pop_all()
        self._notify(InterfaceAdded(name, wanted.vnl))

    def addresses(self, addresses: Iterable[tuple[str, IPInterface]]) -> list[Request]:
        """Return what gives interfaces their addresses.

        Args:
            addresses: Interface name and address.
        """
        return [
            request
            for name, address in addresses
            for request in _iproute.change("add", Address(address, name), self._number)
        ]

    def default_routes(self, gateways: Iterable[Gateway]) -> list[Request]:
        """Return what makes the routes to everywhere else."""
        return [
            request
            for gateway in gateways
            for request in _iproute.change(
                "add",
                Route("default", via=gateway.address, dev=gateway.interface),
                self._number,
            )
        ]

    def _number(self, name: str) -> int:
        return self._numbers.get(name, _LOOPBACK)

    async def remove(self, name: str) -> None:
        """Take an interface away; see `Stack.remove_interface`.

        Raises:
            ConfigurationError: There is none of that name.
        """
        link = self._links.get(name)
        if link is None:
            known = ", ".join(self._links) or "none"
            msg = f"no interface is named {name!r}; there are: {known}"
            raise ConfigurationError(msg)
        try:
            await drain((link,))
        finally:
            if self._links.get(name) is link:  # not by another task, meanwhile
                self._forget(name)
                link.leave()
                self._take_down(name, link.close)
                self._notify(InterfaceRemoved(name))
        await self.until_free(name)

    def rename(self, old: str, new: str) -> None:
        """Know an interface by its new name; its place among them stays."""
        _rename(self._links, old, new)
        _rename(self._numbers, old, new)
        _rename(self.interfaces, old, new)
        self._links[new].name = new
        self.interfaces[new].name = new

    @contextmanager
    def reserved(self, name: str) -> Generator[None]:
        """Have `is_taken` say so while the block lasts."""
        self._reserved.add(name)
        try:
            yield
        finally:
            self._reserved.discard(name)

    def is_taken(self, name: str) -> bool:
        """Whether the stack has, or is getting, an interface of that name."""
        if name in self._reserved or name in self._links:
            return True
        if name in self._going:
            return False
        try:
            with control_socket(self._space) as control:
                netdevice.interface_index(control, name)
        except OSError:
            return False
        return True

    async def until_free(self, name: str) -> None:
        """Wait until an interface that was taken away is gone."""
        while going := self._going.get(name):
            await asyncio.wait([going])

    def close(self) -> None:
        """Leave the networks; the interfaces go with their namespace. Idempotent."""
        self._closed = True
        for link in self._links.values():
            link.close()

    async def _reach(self, wanted: InterfaceSettings) -> Plug | Junction:
        way = await reach(wanted.transport, self._label)
        if not is_at(way, self._space.home):
            # The bridge is another program's, and so is the user namespace that it is
            # in; the kernel lets nobody join the two. Frames may pass.
            way.close()
            return await wanted.transport.open(self._label)
        return way

    async def _join(
        self, wanted: InterfaceSettings, junction: Junction, undo: ExitStack
    ) -> None:
        name, mtu, mac = wanted.name, wanted.mtu_on(junction), _mac_for(wanted)
        self._numbers[name] = index = self._next_index()
        link = KernelLink(name, self._label, self._space, junction, self._notify)
        self._keep(wanted, link, undo)
        namespace, open_socket = self._space.fileno(), self._space.socket
        await junction.make(NewInterface(name, index, mtu, mac, namespace, open_socket))
        await _iproute.carry_out(self._space, _link_local(wanted, index, mac))

    async def _connect(
        self, wanted: InterfaceSettings, device: Device, plug: Plug, undo: ExitStack
    ) -> None:
        name, mtu, mac = wanted.name, wanted.mtu_on(plug), _mac_for(wanted)
        with control_socket(self._space) as control:
            self._numbers[name] = index = netdevice.interface_index(control, name)
        # Before the first frame comes.
        up = _iproute.set_link(name, mtu=mtu, mac=mac, up=True)
        requests = [up, *_link_local(wanted, index, mac)]
        await _iproute.carry_out(self._space, requests)
        link = Link(
            name,
            self._label,
            device,
            wanted.transport,
            plug,
            self._buffer,
            self._notify,
        )
        self._keep(wanted, link, undo)

    def _keep(
        self, wanted: InterfaceSettings, link: Link | KernelLink, undo: ExitStack
    ) -> None:
        name = wanted.name
        undo.callback(link.leave)
        self._links[name] = link
        undo.callback(self._forget, name)
        self.interfaces[name] = Interface(
            name, wanted.vnl, link, self._space, self._monitor
        )

    def _next_index(self) -> int:
        index, self._free_number = self._free_number, self._free_number + 1
        return index

    def _forget(self, name: str) -> None:
        self._links.pop(name, None)
        self.interfaces.pop(name, None)

    async def _make_device(self, name: str) -> Device:
        if self.device != "packet":
            try:
                return await TapDevice.make(self._space, name)
            except MissingPrivilegeError as error:
                if self.device == "tap" or error.action != TUN:
                    raise
                _log.info(
                    "%s: a packet socket serves instead of a TAP: %s", name, error
                )
        return await PacketDevice.make(self._space, name)

    async def _make_device_or_undo(self, name: str) -> Device:
        """Make a device that is taken down, soon, if we are cancelled meanwhile.

        The keeper, or the kernel, is making it then already.
        """
        making = self._loop.create_task(
            self._make_device(name), name=f"aioioth: make {name} of {self._label}"
        )
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            what = f"aioioth: abandon {name} of {self._label}"
            abandoning = self._loop.create_task(self._abandon(name, making), name=what)
            self._wait_for(name, abandoning)
            raise

    async def _abandon(self, name: str, making: asyncio.Task[Device]) -> None:
        try:
            device = await making
        except (OSError, ClosedError):
            return  # it was not made
        self._take_down(name, device.close)

    def _take_down(self, name: str, close: Callable[[], None]) -> None:
        """Have the kernel delete an interface; `until_free` waits for it.

        In a thread: the kernel takes 13 to 45 ms for it, measured.

        Args:
            name: Its name when it was made.
            close: Closes its device.
        """
        number = self._numbers.pop(name, 0)
        if self._closed or self._loop.is_closed():
            close()  # the interface goes with its namespace
            return
        try:
            sock = self._space.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE
            )
        except OSError as error:  # there are no descriptors left
            _log.debug("%s: taking %s down: %s", self._label, name, error)
            close()
            return
        going = self._loop.run_in_executor(None, _dismantle, sock, name, number, close)
        self._wait_for(name, going)

    def _wait_for(self, name: str, going: asyncio.Future[None]) -> None:
        def gone(_: object) -> None:
            if self._going.get(name) is going:
                del self._going[name]

        self._going[name] = going
        going.add_done_callback(gone)


async def reach(transport: FrameTransport, label: str) -> Plug | Junction:
    """Reach a network, inside the kernel if that can be.

    Raises:
        BrokenTransportError: It cannot be reached.
    """
    if isinstance(transport, KernelTransport):
        return await transport.join(label)
    return await transport.open(label)


def home_of(way: Plug | Junction) -> Home | None:
    """Return where stacks have to be that a network is to reach; None: anywhere."""
    home: Home | None = getattr(way, "home", None)
    return home


def is_at(way: Plug | Junction, home: Home) -> bool:
    """Whether the kernel can lead to a network from stacks that are at a home."""
    return home_of(way) in {None, home}


def _rename(known: dict[str, _T], old: str, new: str) -> None:
    items = [(new if name == old else name, it) for name, it in known.items()]
    known.clear()
    known.update(items)


def _is_junction(way: Plug | Junction) -> TypeIs[Junction]:
    return hasattr(way, "make")


def _mac_for(wanted: InterfaceSettings) -> str | None:
    """Return the MAC address to set; an IPv6 address is made of it."""
    return random_mac() if wanted.mac is None and wanted.ipv6 else wanted.mac


def _link_local(
    wanted: InterfaceSettings, index: int, mac: str | None
) -> list[Request]:
    if mac is None or not wanted.ipv6:
        return []
    return _iproute.add_link_local(wanted.name, index, mac)


def _dismantle(
    sock: socket.socket, name: str, number: int, close: Callable[[], None]
) -> None:
    with sock:
        try:
            number = number or netdevice.interface_index(sock.fileno(), name)
        except OSError:
            pass  # it is gone already
        else:
            delete_link(sock.fileno(), number)
    close()
