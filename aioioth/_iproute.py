"""Links, addresses and routes, asked for and complained about in iproute2's words."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth._keeper import orders
from aioioth._linux import netdevice
from aioioth._namespace import Namespace
from aioioth.errors import ConfigurationError, NetlinkError
from aioioth.wire import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from aioioth._settings import IPInterface
    from aioioth.abc import Space


@dataclass(frozen=True)
class Request:
    """Something that the kernel is asked to do, or is waited for.

    Attributes:
        words: In iproute2's words: ``ip link set vde0 up``.
        payload: What `aioioth._keeper.orders` says for ``what``.
        what: One of the orders there.
        where: 0 for the stack, or the number of another namespace that is sent along.
    """

    words: str
    payload: bytes
    what: int = orders.REQUEST
    where: int = 0


async def carry_out(space: Space, requests: Iterable[Request], *others: int) -> None:
    """Have the kernel do things in a stack, one after the other.

    Args:
        space: The stack's.
        requests: What to do; the first one that is refused is the last.
        *others: Descriptors of other namespaces, from number 1.

    Raises:
        NetlinkError: The kernel refused one.
    """
    wanted = list(requests)
    if not wanted:
        return
    told = [(each.where, each.what, each.payload) for each in wanted]
    try:
        if isinstance(space, Namespace):
            await space.carry_out(told, *others)
        else:
            await asyncio.to_thread(
                orders.perform, told, lambda _: _netlink_socket(space), ()
            )
    except orders.RefusedError as error:
        words = wanted[error.number].words
        raise NetlinkError(error.errno or 0, words, error.text) from None


def set_link(
    name: str, *, mtu: int | None = None, mac: str | None = None, up: bool | None = None
) -> Request:
    """Return ``ip link set NAME ...``."""
    words = [f"ip link set {name}"]
    if mtu is not None:
        words.append(f"mtu {mtu}")
    if mac is not None:
        words.append(f"address {mac}")
    if up is not None:
        words.append("up" if up else "down")
    body = rtnetlink.link_body(name=name, mtu=mtu, mac=mac, up=up)
    return Request(" ".join(words), rtnetlink.set_link(body))


def change_address(
    command: str, address: IPInterface, dev: str, index: int, *, is_up: bool = True
) -> list[Request]:
    """Return ``ip address COMMAND ADDRESS dev DEV``.

    Args:
        command: ``add``, ``replace`` or ``del``.
        address: With its prefix length.
        dev: The interface.
        index: Its number.
        is_up: Whether it is up; an address on one that is not cannot be waited for.
    """
    words = f"ip address {command} {address} dev {dev}"
    bits = address.network.prefixlen
    broadcast = None
    if isinstance(address, ipaddress.IPv4Interface) and bits < 31:
        broadcast = address.network.broadcast_address
    message = rtnetlink.change_address(command, index, address.ip, bits, broadcast)
    requests = [Request(words, message)]
    if address.version == 6 and command != "del" and is_up:
        # A worker thread of the kernel's makes the route to itself, some time after
        # the request was answered. What comes before is thrown away, and a neighbour's
        # answer that is lost is asked for a second later.
        message = rtnetlink.get_route(address.ip, index)
        requests.append(Request(words, message, orders.UNTIL_LOCAL))
    return requests


def add_link_local(
    dev: str, index: int, mac: str, *, is_up: bool = True
) -> list[Request]:
    """Return what gives an interface the IPv6 address that its MAC address makes.

    The kernel would do that itself (addr_gen_mode), but a moment later, and the address
    cannot be bound to before. Arguments are as `change_address` has them.

    Source:
        RFC 4291 appendix A (modified EUI-64).
    """
    packed = bytes.fromhex(mac.replace(":", ""))
    host = bytes([packed[0] ^ 2]) + packed[1:3] + b"\xff\xfe" + packed[3:]
    prefix = bytes.fromhex("fe80") + bytes(6)
    address = ipaddress.IPv6Interface((prefix + host, 64))
    return change_address("replace", address, dev, index, is_up=is_up)


def change_route(
    command: str, destination: str, via: str | None, dev: str | None, index: int | None
) -> Request:
    """Return ``ip route COMMAND DESTINATION via VIA dev DEV``.

    Args:
        command: ``add``, ``replace`` or ``del``.
        destination: A network.
        via: A router's address.
        dev: The interface.
        index: Its number.

    Raises:
        ConfigurationError: The destination is no network, or the router no address.
    """
    try:
        network = ipaddress.ip_network(destination)
    except ValueError as error:
        msg = f"destination {destination!r} is no network: {error}"
        raise ConfigurationError(msg) from None
    try:
        gateway = None if via is None else ipaddress.ip_address(via)
    except ValueError as error:
        msg = f"route to {destination} via {via!r}: {error}"
        raise ConfigurationError(msg) from None
    if gateway is not None and gateway.version != network.version:
        msg = f"route to {destination} via {via}: one is IPv4, the other IPv6"
        raise ConfigurationError(msg)
    words = f"ip route {command} {network}"
    words += "" if via is None else f" via {via}"
    words += "" if dev is None else f" dev {dev}"
    return Request(words, rtnetlink.change_route(command, network, gateway, index))


def random_mac() -> str:
    """Return a MAC address as the kernel makes them up: local, and one station's."""
    first, *rest = secrets.token_bytes(6)
    return bytes([first & 0xFE | 0x02, *rest]).hex(":")


def find_index(space: Space, name: str, words: str) -> int:
    """Return the number of an interface.

    Raises:
        NetlinkError: There is none of that name; ``words`` could not be done.
    """
    try:
        with control_socket(space) as sock:
            return netdevice.interface_index(sock, name)
    except OSError as error:
        raise NetlinkError(error.errno or 0, words) from error


@contextmanager
def control_socket(space: Space) -> Generator[int]:
    """Open a socket of a stack for a moment, to ask about interfaces.

    Raises:
        OSError: It cannot be opened.
    """
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
        yield sock.fileno()


def _netlink_socket(space: Space) -> socket.socket:
    return space.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
