"""Names to addresses and back, without asking the host.

What `aioioth.Stack.getaddrinfo` knows: literal addresses, ``localhost`` and what is
below it, the stack's own table of `Hosts`, and last the DNS servers that the stack was
given as ``dns``, which are asked from within the stack. The host's ``/etc/hosts``,
``/etc/resolv.conf`` and name services are never looked at. Services have their names
from ``/etc/services``.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, TypeVar

from aioioth import _blocking, _names
from aioioth._hosts import (
    HostAddresses,
    Hosts,
    as_hosts,
    check_address,
    check_domain,
    listed,
)
from aioioth._linux import addresses, netdevice
from aioioth._names import AddressInfo, Found, Request, unknown_name
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from aioioth._dns import DnsClient
    from aioioth._ip import IPAddress

    _T = TypeVar("_T")
    _Ask = Callable[[DnsClient], Coroutine[Any, Any, _T]]

__all__ = ["AddressInfo", "HostAddresses", "Hosts", "Resolver"]

_NOBODY_TO_ASK = (
    "is not in the stack's hosts, and the stack has no DNS servers (dns=...)"
)


class Resolver:
    """What a stack knows about names; see the module.

    Args:
        hosts: A `Hosts` is used as it is, another mapping is copied.
        dns: Servers to ask; text or `ipaddress` objects, one or several.
        domain: Where names are searched that have no dot in them; one or several.
        open_socket: Opens a non-blocking socket in the stack.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(
        self,
        hosts: Hosts | Mapping[str, HostAddresses] | None,
        dns: str | IPAddress | Sequence[str | IPAddress] | None,
        domain: str | Sequence[str] | None,
        *,
        open_socket: Callable[[int, int, int], socket.socket],
    ) -> None:
        self._hosts = as_hosts(hosts)
        self._given = tuple(_check_server(each) for each in listed(dns))
        self._given_domains = tuple(check_domain("domain", d) for d in listed(domain))
        self._servers = self._given
        self._domains = self._given_domains
        self._open_socket = open_socket
        self._client: DnsClient | None = None

    @property
    def hosts(self) -> Hosts:
        """The table that is looked at before any server is asked."""
        return self._hosts

    @property
    def servers(self) -> tuple[IPAddress, ...]:
        """Who is asked about other names, those learned from the network last."""
        return self._servers

    @property
    def domains(self) -> tuple[str, ...]:
        """Where names are searched that have no dot in them."""
        return self._domains

    def learn(self, servers: Iterable[IPAddress], domains: Iterable[str]) -> None:
        """Use what the network says besides what was given; called by the stack.

        Args:
            servers: In place of those that were learned before.
            domains: Likewise.
        """
        wanted = tuple(dict.fromkeys((*self._given, *servers)))
        searched = tuple(dict.fromkeys((*self._given_domains, *domains)))
        if (wanted, searched) != (self._servers, self._domains):
            self._servers, self._domains = wanted, searched
            self._client = None  # what it remembers may be another network's

    def resolv_conf(self) -> str:
        """Return servers and domains as the lines of a file ``/etc/resolv.conf``."""
        lines = [f"nameserver {server}\n" for server in self._servers]
        if self._domains:
            lines.append(f"search {' '.join(self._domains)}\n")
        return "".join(lines)

    # From names to addresses

    async def getaddrinfo(
        self, host: str | bytes | None, port: str | bytes | int | None, **wanted: int
    ) -> list[AddressInfo]:
        """Do what `socket.getaddrinfo` does; on asyncio, uvloop and trio.

        Args:
            host: As for `socket.getaddrinfo`.
            port: As for `socket.getaddrinfo`.
            wanted: ``family``, ``type``, ``proto`` and ``flags``, likewise.

        Raises:
            socket.gaierror: As `socket.getaddrinfo` raises it.
            ClosedError: The stack is not open.
        """
        outcome = self._infos_unasked(host, port, wanted)
        if isinstance(outcome, list):
            return outcome
        request, ask = outcome
        return self._infos(request, await self._ask(ask))

    def getaddrinfo_blocking(
        self, host: str | bytes | None, port: str | bytes | int | None, **wanted: int
    ) -> list[AddressInfo]:
        """Do the same for code without ``await``; see `getaddrinfo`.

        Where an event loop runs, no server is asked, for the loop would stand still:
        EAI_AGAIN.
        """
        outcome = self._infos_unasked(host, port, wanted)
        if isinstance(outcome, list):
            return outcome
        request, ask = outcome
        return self._infos(request, self._ask_blocking(request.name, ask))

    def _infos_unasked(
        self,
        host: Any,  # noqa: ANN401
        port: Any,  # noqa: ANN401
        wanted: dict[str, int],
    ) -> list[AddressInfo] | tuple[Request, _Ask[Found]]:
        """Return the answer if the stack has it, otherwise what to ask the servers."""
        request = _names.parse(
            host, port, interface_index=self._interface_index, **wanted
        )
        if not isinstance(request, Request):
            return request
        name = request.name
        if loopback := _names.loopback(name):  # of both families, in every stack
            found = _of(request.families(), Found(name, loopback))
            return request.infos(found, self._interface_index)
        families = request.families(self._configured_families)
        try:
            known = self._hosts[name]
        except KeyError:
            pass
        else:
            return self._infos(request, _of(families, Found(name, known)))
        if not self._servers:
            raise unknown_name(name, _NOBODY_TO_ASK)
        return request, lambda client: client.addresses(name, families)

    def _infos(self, request: Request, found: Found) -> list[AddressInfo]:
        ordered = found.addresses
        if len({address.version for address in ordered}) > 1:
            ordered = tuple(sorted(ordered, key=self._rank))
        return request.infos(Found(found.canonical, ordered), self._interface_index)

    def _rank(self, address: IPAddress) -> tuple[bool, bool]:
        """Put what cannot be reached last, then IPv4 (RFC 6724, rules 1 and 6)."""
        try:
            with self._open_socket(
                _names.family_of(address), socket.SOCK_DGRAM, 0
            ) as probe:
                probe.connect(self.socket_address(address, 9))  # sends nothing
        except OSError:
            return True, address.version == 4
        return False, address.version == 4

    # From addresses to names

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:  # noqa: ANN401
        """Do what `socket.getnameinfo` does; on asyncio, uvloop and trio.

        Args:
            sockaddr: As for `socket.getnameinfo`.
            flags: As for `socket.getnameinfo`: ``NI_*``.

        Raises:
            socket.gaierror: As `socket.getnameinfo` raises it.
            ClosedError: The stack is not open.
        """
        address, numeric, name = self._name_unasked(sockaddr, flags)
        if address is not None:
            name = await self._ask(lambda client: client.name_of(address))
        return _named(numeric, name, flags)

    def getnameinfo_blocking(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:  # noqa: ANN401
        """Do the same for code without ``await``; see `getaddrinfo_blocking`."""
        address, numeric, name = self._name_unasked(sockaddr, flags)
        if address is not None:
            ask: _Ask[str | None] = lambda client: client.name_of(address)  # noqa: E731
            name = self._ask_blocking(numeric[0], ask)
        return _named(numeric, name, flags)

    def _name_unasked(
        self,
        sockaddr: Any,  # noqa: ANN401
        flags: int,
    ) -> tuple[IPAddress | None, tuple[str, str], str | None]:
        """Return what to ask the servers about, host and service as numbers, the name.

        There is nothing to ask when the name is known, not wanted, or there is nobody.
        """
        wants_name = not flags & socket.NI_NUMERICHOST
        if wants_name:
            flags &= ~socket.NI_NAMEREQD
        numeric = _names.numeric_nameinfo(sockaddr, flags, self._interface_name)
        if not wants_name:
            return None, numeric, None
        address = ipaddress.ip_address(numeric[0])
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address in _names.LOOPBACKS:
            return None, numeric, "localhost"
        name = self._hosts.name_of(address)
        ask = name is None and bool(self._servers)
        return address if ask else None, numeric, name

    # Asking the servers

    async def _ask(self, ask: _Ask[_T]) -> _T:
        if _blocking.running_library() != "asyncio":
            return await _blocking.run_in_thread(lambda: ask(self._load_client()))
        if self._client is None:
            await asyncio.to_thread(self._load_client)  # 0.2 s that the loop can use
        return await ask(self._load_client())

    def _ask_blocking(self, name: str, ask: _Ask[_T]) -> _T:
        library = _blocking.running_library()
        if library is not None:
            reason = (
                f"needs a DNS server's answer, and the event loop of {library} that "
                f"runs in this thread would stand still: use 'await "
                f"stack.getaddrinfo(...)', 'await loop.getaddrinfo(...)' or a thread "
                f"(asyncio.to_thread)"
            )
            raise unknown_name(name, reason, socket.EAI_AGAIN)
        return _blocking.run(lambda: ask(self._load_client()))

    def _load_client(self) -> DnsClient:
        if self._client is None:
            module = importlib.import_module("aioioth._dns")
            self._client = module.DnsClient(
                self._servers,
                self._domains,
                open_socket=self._open_socket,
                socket_address=self.socket_address,
            )
        return self._client

    # What the stack's kernel knows

    def _configured_families(self) -> set[int]:
        """Return the families of which the stack has an address (``AI_ADDRCONFIG``).

        A loopback address counts only when there are no others (RFC 3493 section 6.1).
        """
        with self._open_socket(
            socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE
        ) as netlink:
            found = addresses.addresses(netlink)
        far = [address for address in found if not address.is_loopback]
        return {_names.family_of(address) for address in far or found}

    def _interface_index(self, name: str) -> int:
        with self._open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
            return netdevice.interface_index(sock.fileno(), name)

    def _interface_name(self, index: int) -> str:
        with self._open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
            return netdevice.interface_name(sock.fileno(), index)

    def socket_address(self, address: IPAddress, port: int) -> Any:  # noqa: ANN401
        """Return what sockets of the stack call an address, its scope looked up.

        Raises:
            OSError: There is no such interface.
        """
        return _names.socket_address(address, port, self._interface_index)


def _check_server(value: object) -> IPAddress:
    server = check_address("dns", value)
    if server.version == 6 and server.is_link_local and server.scope_id is None:
        msg = f"dns: {value!r}: say on which interface, for example '{server}%vde0'"
        raise ConfigurationError(msg)
    return server


def _of(families: Sequence[int], found: Found) -> Found:
    """Return what is of the wanted families.

    Raises:
        socket.gaierror: Nothing is.
    """
    wanted = tuple(a for a in found.addresses if _names.family_of(a) in families)
    if not wanted:
        reason = "has no address of the wanted family, in the stack's hosts"
        raise unknown_name(found.canonical, reason, socket.EAI_NODATA)
    return Found(found.canonical, wanted)


def _named(numeric: tuple[str, str], name: str | None, flags: int) -> tuple[str, str]:
    host, service = numeric
    if name is not None:
        return name, service
    if flags & socket.NI_NAMEREQD and not flags & socket.NI_NUMERICHOST:
        raise unknown_name(host, "has no name, and NI_NAMEREQD asks for one")
    return host, service
