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
from aioioth._said import link_name
from aioioth.errors import ConfigurationError, NetlinkError
from aioioth.hashes import eui64_address
from aioioth.iproute import Address, Neighbour, Route, Rule
from aioioth.wire import rtnetlink, rtroute
from aioioth.wire.ethernet import packed_mac

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping

    from aioioth.abc import Space

# The kernel's number has a sign.
LARGEST_MTU = 0x7FFFFFFF

_LINK_LOCAL = ipaddress.IPv6Network("fe80::/64")

Thing = Address | Neighbour | Route | Rule

# What ``ip`` calls them.
NOUNS = {Address: "address", Neighbour: "neighbour", Route: "route", Rule: "rule"}


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
    """Return ``ip link set NAME ...``; see `aioioth._linkmaking` for more."""
    words = [f"ip link set {name}"]
    if mtu is not None:
        words.append(f"mtu {mtu}")
    if mac is not None:
        words.append(f"address {mac}")
    if up is not None:
        words.append("up" if up else "down")
    body = rtnetlink.link_body(name=name, mtu=mtu, mac=mac, up=up)
    return Request(" ".join(words), rtnetlink.set_link(body))


def until_running(name: str, where: int = 0) -> Request:
    """Return what waits until frames can go out of an interface.

    Args:
        name: Its name.
        where: Of its namespace; see `Request`.
    """
    message = rtnetlink.get_link(rtnetlink.link_body(name=name))
    return Request(f"ip link show {name}", message, orders.UNTIL_RUNNING, where)


def change(
    command: str,
    thing: Thing,
    index_of: Callable[[str], int],
    *,
    is_up: bool = True,
) -> list[Request]:
    """Return ``ip address COMMAND ...``, or the same for what else there is.

    Args:
        command: ``add``, ``replace`` or ``del``.
        thing: What.
        index_of: The number of an interface.
        is_up: Whether its interface is up; an address on one that is not cannot be
            waited for.

    Raises:
        ConfigurationError: The kernel cannot do that.
    """
    words = _words(command, thing)
    if isinstance(thing, Address):
        return _change_address(command, thing, index_of(thing.dev), words, is_up=is_up)
    if isinstance(thing, Route):
        message = _change_route(command, thing, index_of)
    elif isinstance(thing, Neighbour):
        message = rtroute.change_neighbour(
            command,
            index_of(thing.dev),
            thing.address,
            None if thing.mac is None else packed_mac(thing.mac),
            state=_number(rtroute.NEIGHBOUR_STATES, thing.state),
            flags=(rtroute.NTF_PROXY if thing.proxy else 0)
            | (rtroute.NTF_ROUTER if thing.router else 0),
        )
    else:
        if command == "replace":
            msg = f"rule {thing}: rules have no names; use ensure, or remove and add"
            raise ConfigurationError(msg)
        if thing.partial:
            msg = f"rule {thing}: not all of it is known; use stack.netlink.rule()"
            raise ConfigurationError(msg)
        versions = (4, 6) if thing.version is None else (thing.version,)
        return [
            Request(words, _change_rule(command, thing, version))
            for version in versions
        ]
    return [Request(words, message)]


async def change_in(
    space: Space,
    command: str,
    *things: Thing,
    own: Collection[str] = (),
) -> None:
    """Do ``ip address COMMAND ...``, or the same for what else there is.

    An address without ``nodad`` is looked for on the network, which new stacks have
    switched off.

    Args:
        space: The stack's.
        command: ``add``, ``replace``, ``append`` or ``del``.
        *things: What; the first one that is refused is the last.
        own: Interfaces that have no link-local address before any other one of IPv6.

    Raises:
        NetlinkError: The kernel refused, or an interface is not there.
        ConfigurationError: The kernel cannot do that.
    """
    if not things:
        return
    requests: list[Request] = []
    at = 0
    try:
        with control_socket(space) as control:
            for at, thing in enumerate(things):  # noqa: B007  (read below)
                requests += _requests(control, command, thing, own)
    except OSError as error:
        words = _words(command, things[at])
        raise NetlinkError(error.errno or 0, words) from error
    if command != "del":
        for thing in things:
            if isinstance(thing, Address):
                await _let_be_looked_for(space, thing)
    await carry_out(space, requests)


def _words(command: str, thing: object) -> str:
    """Return what ``ip`` would be told.

    Raises:
        ConfigurationError: It is nothing that can be added.
    """
    for kind, noun in NOUNS.items():
        if isinstance(thing, kind):
            return f"ip {noun} {command} {thing}"
    known = ", ".join(kind.__name__ for kind in NOUNS)
    msg = f"{thing!r}: must be one of {known}, from aioioth.iproute"
    raise ConfigurationError(msg)


def _requests(
    control: int, command: str, thing: Thing, own: Collection[str]
) -> list[Request]:
    """Return what does it, with the numbers of links as they are now."""
    is_up = True
    requests: list[Request] = []
    if isinstance(thing, Address):
        dev = thing.dev
        is_up = netdevice.interface_is_up(control, dev)
        if thing.address.version == 6 and command != "del" and dev in own:
            index = netdevice.interface_index(control, dev)
            mac = netdevice.interface_mac(control, dev)
            requests += add_link_local(dev, index, mac, is_up=is_up)
    requests += change(
        command,
        thing,
        lambda dev: netdevice.interface_index(control, dev),
        is_up=is_up,
    )
    return requests


async def _let_be_looked_for(space: Space, wanted: Address) -> None:
    """Have the kernel ask who has an address, if that is wanted."""
    is_looked_for = wanted.address.version == 6 and not wanted.nodad
    if is_looked_for and isinstance(space, Namespace):
        await space.sysctl(f"net/ipv6/conf/{wanted.dev}/accept_dad", 1)


def _change_address(
    command: str, wanted: Address, index: int, words: str, *, is_up: bool
) -> list[Request]:
    address, network = wanted.address.ip, wanted.address.network
    broadcast = None
    if network.version == 4 and network.prefixlen < 31 and wanted.peer is None:
        broadcast = network.broadcast_address
    flags = rtroute.IFA_F_NOPREFIXROUTE if wanted.noprefixroute else 0
    if wanted.nodad and address.version == 6:
        flags |= rtroute.IFA_F_NODAD
    message = rtroute.change_address(
        command,
        index,
        address,
        network.prefixlen,
        broadcast,
        peer=wanted.peer,
        flags=flags,
        scope=_scope_of(wanted),
        valid=wanted.valid,
        preferred=wanted.preferred,
    )
    requests = [Request(words, message)]
    if address.version == 6 and wanted.nodad and command != "del" and is_up:
        # A worker thread of the kernel's makes the route to itself, some time after
        # the request was answered. What comes before is thrown away, and a neighbour's
        # answer that is lost is asked for a second later.
        message = rtroute.get_route(address, index)
        requests.append(Request(words, message, orders.UNTIL_LOCAL))
    return requests


def _scope_of(wanted: Address) -> int:
    if wanted.scope is not None:
        return _number(rtroute.SCOPES, wanted.scope)
    is_own = wanted.address.version == 4 and wanted.address.ip.is_loopback
    return rtroute.SCOPES["host" if is_own else "global"]


def _change_route(command: str, wanted: Route, index_of: Callable[[str], int]) -> bytes:
    def number(dev: str | None) -> int | None:
        return None if dev is None else index_of(dev)

    return rtroute.change_route(
        command,
        wanted.destination,
        wanted.via,
        number(wanted.dev),
        hops=[(hop.via, number(hop.dev), hop.weight) for hop in wanted.nexthops],
        metric=wanted.metric,
        table=wanted.table,
        kind=wanted.kind,
        scope=None if wanted.scope is None else _number(rtroute.SCOPES, wanted.scope),
        protocol=_number(rtroute.ROUTE_PROTOCOLS, wanted.protocol),
        source=wanted.source,
        mtu=wanted.mtu,
        lifetime=wanted.lifetime,
        onlink=wanted.onlink,
    )


def _change_rule(command: str, wanted: Rule, version: int) -> bytes:
    return rtroute.change_rule(
        command,
        rtnetlink.AF_INET if version == 4 else rtnetlink.AF_INET6,
        wanted.action,
        table=wanted.table,
        source=wanted.source,
        destination=wanted.destination,
        iif=wanted.iif,
        oif=wanted.oif,
        fwmark=wanted.fwmark,
        fwmask=wanted.fwmask,
        priority=wanted.priority,
    )


def _number(words: Mapping[str, int], word: str) -> int:
    return words[word] if word in words else int(word)


def add_link_local(
    dev: str, index: int, mac: str, *, is_up: bool = True
) -> list[Request]:
    """Return what gives an interface the IPv6 address that its MAC address makes.

    The kernel would do that itself (addr_gen_mode), but a moment later, and the address
    cannot be bound to before. Arguments are as `change` has them.
    """
    address = eui64_address(mac, _LINK_LOCAL)
    wanted = Address(ipaddress.IPv6Interface((address, 64)), dev)
    return change("replace", wanted, lambda _: index, is_up=is_up)


def random_mac() -> str:
    """Return a MAC address as the kernel makes them up: local, and one station's."""
    first, *rest = secrets.token_bytes(6)
    return bytes([first & 0xFE | 0x02, *rest]).hex(":")


def find_index(space: Space, name: str, words: str) -> int:
    """Return the number of an interface.

    Raises:
        NetlinkError: There is none of that name; ``words`` could not be done.
        ConfigurationError: There can be none.
    """
    link_name(name)
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
    if isinstance(space, Namespace):
        with space.control() as control:
            yield control
    else:
        with space.socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
            yield sock.fileno()


def _netlink_socket(space: Space) -> socket.socket:
    return space.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
