"""The interfaces of one stack: made, put on their networks, and taken away again."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._device import PacketDevice, TapDevice
from aioioth._drain import drain
from aioioth._link import Link
from aioioth._linux import netdevice
from aioioth._linux.links import delete_link
from aioioth._preflight import TUN
from aioioth.errors import ClosedError, ConfigurationError, MissingPrivilegeError
from aioioth.events import InterfaceAdded, InterfaceRemoved
from aioioth.interfaces import Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from aioioth._device import Device
    from aioioth._namespace import Namespace
    from aioioth._settings import InterfaceSettings, IPInterface
    from aioioth.abc import Plug
    from aioioth.events import Event
    from aioioth.netlink import Netlink

_log = logging.getLogger("aioioth")


class Wiring:
    """Makes interfaces in a namespace, and keeps their links.

    Args:
        label: Who plugs in, for the networks' own listings.
        space: The stack's namespace; stays the stack's.
        netlink: The stack's netlink; stays the stack's.
        buffer: Shared by the pumps of the loop.
        device: ``tap``, ``packet``, or None for what works.
        notify: Called with each event.

    Attributes:
        device: As given.
        interfaces: What users see, by name.
    """

    def __init__(  # noqa: PLR0917  (one call site, all wiring)
        self,
        label: str,
        space: Namespace,
        netlink: Netlink,
        buffer: memoryview,
        device: str | None,
        notify: Callable[[Event], None],
    ) -> None:
        self.interfaces: dict[str, Interface] = {}
        self._label = label
        self._space = space
        self._netlink = netlink
        self._buffer = buffer
        self.device = device
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, Link] = {}
        self._numbers: dict[str, int] = {}  # the kernel's; users may rename
        self._reserved: set[str] = set()
        # Interfaces that the kernel, or a call that was cancelled, is not done with.
        self._going: dict[str, asyncio.Future[None]] = {}
        self._closed = False

    @property
    def links(self) -> tuple[Link, ...]:
        """The way of each interface to its network."""
        return tuple(self._links.values())

    async def add(self, wanted: InterfaceSettings, plug: Plug) -> None:
        """Make an interface of a new stack; what fails goes with its namespace.

        Args:
            wanted: As it shall be.
            plug: Its network. Taken over.
        """
        with ExitStack() as undo:
            undo.callback(plug.close)
            device = await self._make_device(wanted.name)
            undo.callback(device.close)
            await self._connect(wanted, device, plug, undo)
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
            plug = await wanted.transport.open(self._label)
            undo.callback(plug.close)
            wanted.mtu_on(plug)
            await self.until_free(name)
            device = await self._make_device_or_undo(name)
            undo.callback(self._take_down, name, device.close)
            await self._connect(wanted, device, plug, undo)
            for where, address in addresses:
                await _iproute.change_address(self._netlink, "add", address, where)
            if self._closed:  # by another task, meanwhile
                raise ClosedError(self._label)
            undo.pop_all()
        self._notify(InterfaceAdded(name, wanted.vnl))

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
            netdevice.interface_index(self._netlink.fileno(), name)
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

    async def _connect(
        self, wanted: InterfaceSettings, device: Device, plug: Plug, undo: ExitStack
    ) -> None:
        name = wanted.name
        self._numbers[name] = netdevice.interface_index(self._netlink.fileno(), name)
        link = Link(
            name,
            self._label,
            device,
            wanted.transport,
            plug,
            self._buffer,
            self._notify,
        )
        undo.callback(link.leave)
        self._links[name] = link
        undo.callback(self._forget, name)
        attributes: dict[str, object] = {"mtu": wanted.mtu_on(plug)}
        if wanted.mac is not None:
            attributes["address"] = wanted.mac
        await _iproute.set_link(self._netlink, name, **attributes, state="up")
        if wanted.ipv6:
            await _iproute.add_link_local(self._netlink, name)
        self.interfaces[name] = Interface(name, wanted.vnl, link, self._netlink)

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
        return await PacketDevice.make(self._space, name, self._netlink)

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
            number = number or netdevice.interface_index(self._netlink.fileno(), name)
            sock = self._space.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE
            )
        except OSError as error:  # it was deleted, or there are no descriptors left
            _log.debug("%s: taking %s down: %s", self._label, name, error)
            delete_link(self._netlink.fileno(), number)
            close()
            return
        going = self._loop.run_in_executor(None, _dismantle, sock, number, close)
        self._wait_for(name, going)

    def _wait_for(self, name: str, going: asyncio.Future[None]) -> None:
        def gone(_: object) -> None:
            if self._going.get(name) is going:
                del self._going[name]

        self._going[name] = going
        going.add_done_callback(gone)


def _dismantle(sock: socket.socket, number: int, close: Callable[[], None]) -> None:
    with sock:
        delete_link(sock.fileno(), number)
    close()
