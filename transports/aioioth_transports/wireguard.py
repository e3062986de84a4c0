"""``wireguard://PATH``: a WireGuard network, by the kernel's engine.

PATH is a file as wg-quick takes it. ``Address`` gives the stack addresses, and what the
peers have (``AllowedIPs``) is routed to them unless ``Table = off``; ``ip=`` and
`Stack.add_route` add to that. ``DNS`` and commands (``PostUp``, ...) are passed over,
with a warning. The file is read when the stack opens; it holds a private key, so it is
refused if others than its owner may use it, as ``seal://`` does.

The UDP socket is the host's: ``ListenPort`` is a port there, ``Endpoint`` is looked up
and reached from there, and ``FwMark`` counts in its routing rules. What the peers send
ends in the stack, and nowhere else.

This is IP without an Ethernet: no MAC addresses (``mac=`` does not count), no frames,
so nothing for a `Cable`. The MTU is 1420 unless the file says otherwise.

It takes root (CAP_NET_ADMIN) and a kernel with WireGuard.

Source: wg-quick(8), wg(8); <linux/wireguard.h>, drivers/net/wireguard, Linux 6.1.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import override

from aioioth.errors import BrokenTransportError, ConfigurationError, NetlinkError
from aioioth.vnl import parse_bracket
from aioioth.wire.rtnetlink import (
    link_body,
    link_info,
    new_link,
    set_link,
)
from aioioth.wire.rtroute import change_address, change_route
from aioioth.wire.wireguard import (
    Device,
    Endpoint,
    Peer,
    configure,
    family_number,
    get_family,
)
from aioioth_transports import _wgquick
from aioioth_transports._hostlink import (
    HostLinkJunction,
    Recipe,
    ask,
    deleted_on_error,
    make_link,
    require_privilege,
    stack_socket,
)
from aioioth_transports._keyfile import read_regular
from aioioth_transports._udp import look_up

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from aioioth.abc import NewInterface, Plug
    from aioioth_transports._wgquick import Configuration, Place

_log = logging.getLogger("aioioth")

# What is left of 1500 bytes with the longest headers, which are IPv6's; the kernel's
# own default.
_MTU = 1420

_LARGEST_FILE = 1 << 20

# <linux/netlink.h>, Linux 6.1
_NETLINK_GENERIC = 16


class WireguardTransport:
    """See `aioioth.abc.KernelTransport`.

    Args:
        address: Path of a configuration file; a ``~`` in front is the user's home.

    Raises:
        VnlError: There is no path.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address)
        if not parsed.base:
            parsed.refuse("", "expected a configuration file: wireguard://PATH")
        self._file = Path(parsed.base)
        self._vnl = f"wireguard://{address}"

    async def join(self, label: str, /) -> WireguardJunction:
        """Read the file and look the peers up; see `aioioth.abc.KernelTransport.join`.

        Raises:
            MissingPrivilegeError: Links of the host may not be made.
            BrokenTransportError: The file cannot be read or makes no sense, or a peer's
                host is not known.
        """
        require_privilege(
            "making a wireguard link",
            "Without, seal:// around udp:// or vxvde:// protects frames.",
        )
        found = self._read()
        peers = [
            Peer(
                public_key=peer.public_key,
                preshared_key=peer.preshared_key,
                endpoint=await self._look_up(peer.place) if peer.place else None,
                keepalive=peer.keepalive,
                networks=tuple(peer.networks),
            )
            for peer in found.peers
        ]
        device = Device(found.private_key, found.port, found.mark, tuple(peers))
        if found.ignored:
            _log.warning(
                "%s: not done: %s; a stack has dns=, and runs no commands",
                self._file,
                ", ".join(found.ignored),
            )
        return WireguardJunction(device, found)

    async def open(self, label: str) -> Plug:
        """Refuse; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: Always.
        """
        reason = (
            "WireGuard carries IP packets, not frames: it can be the network of a "
            "stack, not of a cable or a switch"
        )
        raise BrokenTransportError(self._vnl, reason, errno=errno.EOPNOTSUPP)

    def _read(self) -> Configuration:
        """Read the file.

        Raises:
            BrokenTransportError: It cannot be read or makes no sense.
        """
        try:
            text, mode = read_regular(self._file.expanduser(), _LARGEST_FILE + 1)
            if text is None:
                raise OSError(errno.EINVAL, "it is no regular file")  # noqa: TRY301
            if len(text) > _LARGEST_FILE:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))  # noqa: TRY301
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no such user
            code = error.errno if isinstance(error, OSError) else None
            told = error.strerror if isinstance(error, OSError) else error
            self._refuse(f"cannot be read: {told}", code)
        if mode & 0o077:
            self._refuse(
                f"holds a private key, and others may use it: chmod go= {self._file}",
                errno.EACCES,
            )
        try:
            return _wgquick.parse(text.decode())
        except UnicodeDecodeError:
            self._refuse("is no text", errno.EINVAL)
        except ConfigurationError as error:
            self._refuse(str(error), errno.EINVAL)

    def _refuse(self, reason: str, code: int | None) -> NoReturn:
        raise BrokenTransportError(self._vnl, f"{self._file}: {reason}", errno=code)

    async def _look_up(self, place: Place) -> Endpoint:
        found = await look_up(self._vnl, place.host, place.port)
        address = ipaddress.ip_address(found[0].partition("%")[0])
        return Endpoint(address, found[1], found[3] if len(found) == 4 else 0)


class WireguardJunction(HostLinkJunction):
    """See `aioioth.abc.Junction`.

    Args:
        device: What the link is told.
        configuration: Whose addresses the stack gets, and what is routed where.
    """

    def __init__(self, device: Device, configuration: Configuration) -> None:
        recipe = Recipe(
            kind="wireguard",
            words="type wireguard",
            make=_new_wireguard,
            mtu=_MTU if configuration.mtu is None else configuration.mtu,
            has_mac=False,
            reasons={
                errno.EADDRINUSE: (
                    f"ListenPort {device.port}: the UDP port is taken on this host: "
                    f"'ss -uanp' may tell by whom"
                )
            },
            passing={errno.EADDRINUSE},
        )
        super().__init__(recipe)
        self._device = device
        self._configuration = configuration

    @override
    def _make(self, wanted: NewInterface) -> None:
        with (
            stack_socket(wanted, socket.NETLINK_ROUTE) as routes,
            stack_socket(wanted, _NETLINK_GENERIC) as generic,
        ):
            make_link(self._recipe, wanted, up=False)
            with deleted_on_error(routes, wanted.index):
                with _told_as(f"wg setconf {wanted.name}"):
                    family = family_number(ask(generic, get_family()))
                    ask(generic, *configure(family, wanted.index, self._device))
                ask(routes, set_link(link_body(index=wanted.index, up=True)))
                for words, request in self._ways(wanted):
                    with _told_as(words):
                        ask(routes, request)

    def _ways(self, wanted: NewInterface) -> Iterator[tuple[str, bytes]]:
        """Return what gives the stack its addresses, and what the peers have.

        In iproute2's words, and in the kernel's.
        """
        found, index, name = self._configuration, wanted.index, wanted.name
        for address in found.addresses:
            yield (
                f"ip address add {address} dev {name}",
                change_address("add", index, address.ip, address.network.prefixlen),
            )
        if not found.has_routes:
            return
        # What is on the link by an address is routed there already.
        known = {address.network for address in found.addresses}
        networks = [network for peer in found.peers for network in peer.networks]
        for network in dict.fromkeys(networks):
            if network not in known:
                yield (
                    f"ip route add {network} dev {name}",
                    change_route("add", network, None, index),
                )


def _new_wireguard(body: bytes) -> bytes:
    return new_link(body + link_info("wireguard"))


@contextmanager
def _told_as(words: str) -> Generator[None]:
    """Say of an error what was asked for.

    Raises:
        NetlinkError: The kernel refused it.
    """
    try:
        yield
    except OSError as error:
        detail = "" if error.strerror is None else error.strerror
        raise NetlinkError(error.errno or 0, words, detail) from error
