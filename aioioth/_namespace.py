"""A network namespace that the program holds, and what the keeper does in it."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth._fd import OwnedFd
from aioioth._fork import forget_in_children
from aioioth._keeper import messages, orders
from aioioth._linux.sockets import sockets_of
from aioioth._spares import SpareSockets
from aioioth.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from aioioth._keeper.client import Channel, Keeper
    from aioioth._keeper.orders import Order

# What fits into a message to the keeper, with room for the largest order.
_ORDERS_BYTES = messages.MAX_MESSAGE // 2

# The longest are lists of ports and names; a page at most.
_SYSCTL_BYTES = 1 << 16


_CONTROL = socket.AF_INET, socket.SOCK_DGRAM, 0


@dataclass(frozen=True)
class Home:
    """A user namespace as one event loop reaches it: where stacks are made.

    Attributes:
        keeper: For sockets.
        channel: For all that may have to wait.
    """

    keeper: Keeper
    channel: Channel

    async def namespace(self, label: str, sysctls: Sequence[str]) -> Namespace:
        """Make a network namespace, with ``lo`` up.

        Args:
            label: Whose it is, for messages.
            sysctls: ``net/...=value``, written in it; with ``?`` in front, one that the
                kernel may lack.

        Raises:
            MissingPrivilegeError: The kernel refused; the message says what to do.
            KeeperError: The keeper cannot be started.
        """
        body = "\n".join(sysctls).encode()
        operation = messages.NETWORK_NAMESPACE
        descriptors = await self.channel.ask(operation, body, (), wanted=1)
        return Namespace(descriptors[0], label, self)


class Namespace:
    """One network namespace; it lives while this or any socket in it is open.

    Sockets may be asked for in any thread while another one closes it; the descriptor
    is closed by whoever is the last to use it, so that its number never means another.

    Args:
        descriptor: The namespace. Taken over.
        label: Whose it is, for messages.
        home: Where it is. Its keeper is held until this is closed.

    Attributes:
        home: As given.
    """

    def __init__(self, descriptor: int, label: str, home: Home) -> None:
        self._fd = OwnedFd(descriptor, label)
        self._label = label
        self.home = home
        self._spares = SpareSockets(home.channel.loop)
        self._lock = threading.Lock()
        self._users = 1  # ourselves, until closed
        self._closed = False
        home.keeper.hold()
        forget_in_children(self)

    def fileno(self) -> int:
        """Return the namespace's descriptor.

        Raises:
            ClosedError: It was closed before.
        """
        if self._closed:
            raise ClosedError(self._label)
        return self._fd.fileno()

    @property
    def user_namespace(self) -> int | None:
        """Descriptor of the user namespace that owns it; None: that is the host's."""
        return self.home.keeper.user_namespace

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """Open a non-blocking socket in the namespace, from any thread.

        Raises:
            OSError: What ``socket()`` raises.
            ClosedError: The namespace was closed before.
        """
        nonblocking = kind | socket.SOCK_NONBLOCK
        wanted = int(family), int(nonblocking), int(protocol)
        namespace = self._enter()
        try:
            descriptor, count = self._spares.take(wanted)
            if descriptor is None:
                body = messages.pack_socket(*wanted, count)
                made = self.home.keeper.ask(
                    messages.SOCKET, body, [namespace], wanted=1
                )
                descriptor = made.pop()
                self._spares.keep(wanted, made)
        finally:
            self._leave()
        # The keeper made it non-blocking; the flag spares us to tell the kernel again.
        return socket.socket(family, nonblocking, protocol, fileno=descriptor)

    @contextmanager
    def control(self) -> Generator[int]:
        """Lend a socket to ask about interfaces through; nothing else may be done.

        It is a spare one before and after, so asking often takes no round trips.

        Raises:
            OSError: It cannot be opened.
            ClosedError: The namespace was closed before.
        """
        sock = self.socket(*_CONTROL)
        try:
            yield sock.fileno()
        finally:
            family, kind, protocol = _CONTROL
            wanted = int(family), int(kind | socket.SOCK_NONBLOCK), protocol
            self._spares.keep(wanted, [sock.detach()])

    async def tap(self, name: str) -> int:
        """Make TAP interface ``name`` and return its descriptor, the caller's to close.

        Raises:
            MissingPrivilegeError: /dev/net/tun cannot be opened.
            OSError: The name is taken.
        """
        body = name.encode()
        with self._in_use() as descriptor:
            made = await self.home.channel.ask(
                messages.TAP, body, [descriptor], wanted=1
            )
        return made[0]

    async def sysctl(self, name: str, value: str | int) -> None:
        """Write a sysctl of the namespace.

        Args:
            name: Path below ``/proc/sys``: ``net/ipv4/ip_forward``.
            value: What to write.

        Raises:
            OSError: There is no such sysctl, or it does not take the value.
        """
        body = f"{name}={value}".encode()
        self._spares.drop()  # a socket keeps some settings of the time it was made
        with self._in_use() as descriptor:
            await self.home.channel.ask(messages.SYSCTL, body, [descriptor], wanted=0)

    async def read_sysctl(self, name: str) -> str:
        """Return the value of a sysctl of the namespace.

        Args:
            name: Path below ``/proc/sys``: ``net/ipv4/ip_forward``.

        Raises:
            OSError: There is no such sysctl, or it cannot be read.
        """
        with self._in_use() as descriptor:
            [file] = await self.home.channel.ask(
                messages.OPEN_SYSCTL, name.encode(), [descriptor], wanted=1
            )
        try:
            return os.read(file, _SYSCTL_BYTES).decode(errors="replace").rstrip("\n")
        except OSError as error:  # a folder, say
            msg = f"sysctl {name}: {error.strerror}"
            raise OSError(error.errno, msg) from None
        finally:
            os.close(file)

    async def carry_out(self, wanted: Sequence[Order], *others: int) -> None:
        """Have the kernel do things in the namespace; see `aioioth._keeper.orders`.

        Args:
            wanted: What to do; namespace 0 is this one.
            *others: Descriptors of further ones, from number 1.

        Raises:
            RefusedError: The kernel refused one; those before it are done.
        """
        with self._in_use() as descriptor:
            for first, body in _parcels(wanted):
                try:
                    await self.home.channel.ask(
                        messages.ORDERS, body, [descriptor, *others], wanted=0
                    )
                except orders.RefusedError as error:
                    error.number += first
                    raise

    def tell(self, wanted: Sequence[Order]) -> None:
        """Have the kernel do things soon, and do not wait for it; never raises."""
        if self._closed or not wanted:
            return
        with self._in_use() as descriptor:
            for _, body in _parcels(wanted):
                self.home.channel.tell(messages.ORDERS, body, [descriptor])

    def hand_over(self, descriptor: int) -> None:
        """Have the keeper close the last copy of a descriptor; never raises.

        For what the kernel takes its time to close: the caller closes his afterwards,
        and does not wait.
        """
        self.home.channel.tell(messages.CLOSE, b"", [descriptor])

    def sockets(self) -> list[int]:
        """Return the descriptors of this process that are sockets in the namespace."""
        with self._in_use() as descriptor:
            found = sockets_of(descriptor)
        spare = self._spares.descriptors()
        return [each for each in found if each not in spare]

    def close(self) -> None:
        """Let go. Sockets that are still open keep the namespace alive. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._spares.close()
        self._leave()

    def forget_in_child(self) -> None:
        """Stay usable in a forked child; the threads that used it are not there."""
        self._spares.forget_in_child()
        self._lock = threading.Lock()
        if self._users:
            self._users = 1
            if self._closed:
                self._leave()

    @contextmanager
    def _in_use(self) -> Generator[int]:
        descriptor = self._enter()
        try:
            yield descriptor
        finally:
            self._leave()

    def _enter(self) -> int:
        with self._lock:
            descriptor = self.fileno()
            self._users += 1
        return descriptor

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._fd.close()
            self.home.keeper.release()


def _parcels(wanted: Sequence[Order]) -> Iterator[tuple[int, bytes]]:
    """Return orders by the message, each with the number of its first one."""
    first, body = 0, b""
    for number, order in enumerate(wanted):
        if len(body) > _ORDERS_BYTES:
            yield first, body
            first, body = number, b""
        body += orders.pack([order])
    yield first, body
