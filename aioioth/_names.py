"""The part of `socket.getaddrinfo` that asks nobody: literals, services, flags.

glibc does it, told to take the host as a number; that is how its order of checks, its
errors and its spellings of addresses (``127.1``) come out to the letter. Only what it
would ask the *host* about is done here: names, and the indexes of interfaces.

Source: RFC 3493 section 6; getaddrinfo(3), glibc 2.36.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioioth._ip import IPAddress

AddressInfo = tuple[
    socket.AddressFamily,
    socket.SocketKind,
    int,
    str,
    tuple[str, int] | tuple[str, int, int, int],
]

# The functions as they are now: later, a patch may make these names lead here.
_getaddrinfo: Callable[..., Any] = socket.getaddrinfo
_getnameinfo = socket.getnameinfo

# RFC 6761 section 6.3; the other two are Debian's names for it.
LOOPBACKS = (ipaddress.ip_address("::1"), ipaddress.ip_address("127.0.0.1"))
_IP6_LOCALHOST = {"ip6-localhost", "ip6-loopback"}

# A backslash has a meaning in DNS's way to write names; the rest nobody can type.
_NAME = re.compile(r"[!-\[\]-~]+")


@dataclass(frozen=True)
class Found:
    """What there is to know about a name.

    Attributes:
        canonical: The name that it stands for, in the end.
        addresses: At least one.
    """

    canonical: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True)
class Request:
    """A host that is no literal address, all else checked and looked up.

    Attributes:
        name: ASCII, as it was given, IDNA done.
        family: What the caller accepts; 0 for both.
        flags: The caller's ``AI_*``.
        services: Socket type, protocol and port, in the order of the answer.
    """

    name: str
    family: int
    flags: int
    services: tuple[tuple[socket.SocketKind, int, int], ...]

    def families(
        self, configured: Callable[[], Iterable[int]] | None = None
    ) -> list[int]:
        """Return the families to look for.

        Args:
            configured: Returns those of which the stack has an address; asked when
                ``AI_ADDRCONFIG`` is wanted. None: no matter.

        Raises:
            socket.gaierror: None is left.
        """
        both: list[int] = [socket.AF_INET6, socket.AF_INET]
        wanted = [family for family in both if self.family in {0, family}]
        if configured is not None and self.flags & socket.AI_ADDRCONFIG:
            usable = set(configured())
            wanted = [family for family in wanted if family in usable]
            if not wanted:
                reason = (
                    "is of no use: AI_ADDRCONFIG, and the stack has no such address"
                )
                raise unknown_name(self.name, reason)
        mapped = self.family == socket.AF_INET6 and self.flags & socket.AI_V4MAPPED
        return both if mapped else wanted

    def infos(
        self, found: Found, interface_index: Callable[[str], int]
    ) -> list[AddressInfo]:
        """Return the answer: each address with each service.

        Args:
            found: Addresses that are accepted, in order.
            interface_index: Finds an interface's index in the stack.
        """
        infos: list[AddressInfo] = []
        canonical = found.canonical if self.flags & socket.AI_CANONNAME else ""
        for address in self._mapped(found.addresses):
            for kind, proto, port in self.services:
                sockaddr = socket_address(address, port, interface_index)
                infos.append((family_of(address), kind, proto, canonical, sockaddr))
                canonical = ""  # the first one has it, as with glibc
        return infos

    def _mapped(self, addresses: Iterable[IPAddress]) -> list[IPAddress]:
        if self.family != socket.AF_INET6:
            return list(addresses)
        native: list[IPAddress] = [each for each in addresses if each.version == 6]
        if native and not self.flags & socket.AI_ALL:
            return native
        others = [each for each in addresses if each.version == 4]
        return native + [ipaddress.IPv6Address(f"::ffff:{each}") for each in others]


def parse(
    host: str | bytes | None,
    port: str | bytes | int | None,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002  (as socket.getaddrinfo)
    proto: int = 0,
    flags: int = 0,
    interface_index: Callable[[str], int],
) -> list[AddressInfo] | Request:
    """Do what `socket.getaddrinfo` does before it asks anybody.

    Args:
        host: As for `socket.getaddrinfo`.
        port: As for `socket.getaddrinfo`.
        family: As for `socket.getaddrinfo`.
        type: As for `socket.getaddrinfo`.
        proto: As for `socket.getaddrinfo`.
        flags: As for `socket.getaddrinfo`.
        interface_index: Finds an interface's index in the stack.

    Returns:
        The answer if the host is a literal address or None, otherwise what to ask.

    Raises:
        socket.gaierror: As `socket.getaddrinfo` raises it.
    """
    wanted = (port, family, type, proto)
    # Whether the *host* has addresses of a family says nothing about the stack.
    own_flags = flags & ~int(socket.AI_ADDRCONFIG)
    if host is None:
        everywhere: list[AddressInfo] = _getaddrinfo(None, *wanted, own_flags)
        return everywhere
    text = _ascii(host)
    own_flags |= socket.AI_NUMERICHOST
    # With an address that is one for sure, glibc checks all the other arguments.
    some = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    samples = _getaddrinfo(some, *wanted, own_flags & ~int(socket.AI_CANONNAME))
    infos = _literal(text, wanted, own_flags, interface_index)
    if infos is not None:
        return infos
    if flags & socket.AI_NUMERICHOST:
        raise unknown_name(
            text, "is no literal address, and AI_NUMERICHOST asks for one"
        )
    if not _NAME.fullmatch(text):
        raise unknown_name(text, "cannot be the name of a host")
    services = tuple((info[1], info[2], info[4][1]) for info in samples)
    return Request(text, family, flags, services)


def _ascii(host: object) -> str:
    if isinstance(host, str):
        host = host.encode("idna")
    if not isinstance(host, (bytes, bytearray)):
        msg = "getaddrinfo() argument 1 must be string or None"
        raise TypeError(msg)
    return host.decode("ascii", "replace")


def _literal(
    text: str,
    wanted: tuple[object, ...],
    flags: int,
    interface_index: Callable[[str], int],
) -> list[AddressInfo] | None:
    bare, percent, scope = text.partition("%")
    if "\0" in text or (percent and ":" not in bare):
        return None
    try:
        infos: list[AddressInfo] = _getaddrinfo(bare.encode(), *wanted, flags)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            return None
        raise
    if not percent:
        return infos
    index = scope_index(bare, scope, interface_index)
    return [_with_scope(info, index, text) for info in infos]


def scope_index(address: str, scope: str, interface_index: Callable[[str], int]) -> int:
    """Return the number of an address's scope, which is written after the ``%``.

    Raises:
        socket.gaierror: The stack has no such interface, or the address no scope.
    """
    if scope.isdecimal() and int(scope) < 1 << 32:
        return int(scope)
    if not _is_link_local(ipaddress.IPv6Address(address)):
        reason = f"is not on one link only, so '%{scope}' has no meaning"
        raise unknown_name(address, reason)
    try:
        return interface_index(scope)
    except OSError as error:
        reason = f"the stack has no interface {scope!r}"
        raise socket.gaierror(socket.EAI_NONAME, reason) from error


def _is_link_local(address: ipaddress.IPv6Address) -> bool:
    multicast_scope = address.packed[1] & 0xF if address.is_multicast else None
    return address.is_link_local or multicast_scope == 2  # RFC 4291 section 2.7


def _with_scope(info: AddressInfo, index: int, text: str) -> AddressInfo:
    family, kind, proto, canonical, address = info
    if len(address) == 4:
        address = (*address[:3], index)
    return family, kind, proto, text if canonical else "", address


def family_of(address: IPAddress) -> socket.AddressFamily:
    """Return AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def socket_address(
    address: IPAddress, port: int, interface_index: Callable[[str], int]
) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return what `socket.socket.connect` takes.

    Raises:
        socket.gaierror: The address's scope is no interface of the stack.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return str(address), port
    bare, _, scope = str(address).partition("%")
    index = scope_index(bare, scope, interface_index) if scope else 0
    # As glibc writes it: "::ffff:10.0.0.1", where ipaddress has hexadecimal digits.
    text = socket.inet_ntop(socket.AF_INET6, address.packed)
    return text, port, 0, index


def loopback(name: str) -> tuple[IPAddress, ...]:
    """Return the addresses of ``localhost`` and what is below it; () for others."""
    folded = fold(name)
    if folded == "localhost" or folded.endswith(".localhost"):
        return LOOPBACKS
    return LOOPBACKS[:1] if folded in _IP6_LOCALHOST else ()


def fold(name: str) -> str:
    """Return a name as it is compared: lower case, without a dot at the end."""
    return name.removesuffix(".").lower()


def numeric_nameinfo(
    sockaddr: Any,  # noqa: ANN401
    flags: int,
    interface_name: Callable[[int], str],
) -> tuple[str, str]:
    """Do what `socket.getnameinfo` does with ``NI_NUMERICHOST``.

    Args:
        sockaddr: As for `socket.getnameinfo`.
        flags: As for `socket.getnameinfo`.
        interface_name: Finds an interface's name in the stack, by its index.

    Raises:
        socket.gaierror: As `socket.getnameinfo` raises it.
    """
    scope = 0
    if isinstance(sockaddr, tuple) and sockaddr and isinstance(sockaddr[0], str):
        # Of an interface's index or name, glibc would ask the host.
        bare = sockaddr[0].partition("%")[0]
        sockaddr = (bare, *sockaddr[1:])
        if len(sockaddr) == 4:
            *rest, scope = sockaddr
            sockaddr = (*rest, 0)
    host, service = _getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)
    if not scope:
        return host, service
    if not _is_link_local(ipaddress.IPv6Address(host)):
        return f"{host}%{scope}", service
    try:
        return f"{host}%{interface_name(scope)}", service
    except OSError:
        return f"{host}%{scope}", service


def unknown_name(
    name: str, reason: str, code: int = socket.EAI_NONAME
) -> socket.gaierror:
    """Return the error that says that a name has no address."""
    return socket.gaierror(code, f"{name!r} {reason}")
