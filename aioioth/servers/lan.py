"""A whole small network: whoever joins it gets addresses and a name by itself."""

from __future__ import annotations

import ipaddress
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from aioioth._hosts import check_domain
from aioioth._ip import IPAddress, IPNetwork, parse_network
from aioioth._opening import Opening
from aioioth.errors import BusyError, ConfigurationError
from aioioth.names import Hosts
from aioioth.servers.dhcp4 import Dhcp4Server, Lease
from aioioth.servers.dhcp6 import Dhcp6Server, Lease6
from aioioth.servers.dns import DnsServer
from aioioth.servers.ra import Prefix, RouterAdvertiser
from aioioth.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioioth.abc import FrameTransport

__all__ = ["Lan"]

_log = logging.getLogger("aioioth")

# What routers usually say (RFC 4861 section 6.2.1), in seconds.
_ROUTER_SECONDS = 1800
_VALID, _PREFERRED = 86400, 14400


class Lan(Opening):
    """A network with DHCP, DHCPv6, router advertisements and DNS.

    ``async with Lan("bridge://lab") as lan, lan.stack("web") as web:``. Then ``web``
    has an address of each family, and ``web.lan`` is its name for all others; so it is
    for any program, machine or stack that asks by DHCP there. All servers run on a
    stack of the network's own, which has its first addresses.

    Once closed, it stays closed; single servers may be closed and opened again.

    Args:
        network: A VNL, or a `Switch`, say.
        ipv4: Its IPv4 network; None for none.
        ipv6: Its IPv6 network, a /64; None for none.
        domain: Where its hosts have their names.
        lease_time: Seconds that a host may keep its addresses without asking again.
        forward: DNS servers that are asked about names of others, in the lan's stack.
            Without them, no other names exist.
        router: Whether the lan's stack forwards packets, and is everybody's default
            router. Give it a second interface, then:
            ``lan.gateway.add_interface("slirp://", ...)``.
        slaac: Whether hosts may make IPv6 addresses themselves, too. Nobody knows their
            names.
        hosts: Names that are there from the beginning; a `Hosts` may be shared.
        options: For the lan's own stack: ``device="packet"``.

    Attributes:
        gateway: The stack that the servers run on.
        hosts: Names and addresses, those of present leases among them. May be changed.
        dhcp: The DHCP server; None without IPv4.
        dhcp6: The DHCPv6 server; None without IPv6.
        ra: What advertises the IPv6 network; None without IPv6.
        dns: The DNS server.

    Raises:
        ConfigurationError: An argument cannot be right.
        UnknownSchemeError: The VNL's scheme is not known.
    """

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be chosen)
        self,
        network: str | FrameTransport,
        *,
        ipv4: str | ipaddress.IPv4Network | None = "10.0.0.0/24",
        ipv6: str | ipaddress.IPv6Network | None = "fd00::/64",
        domain: str = "lan",
        lease_time: float = 3600,
        forward: str | IPAddress | Sequence[str | IPAddress] = (),
        router: bool = False,
        slaac: bool = False,
        hosts: Hosts | None = None,
        **options: Any,
    ) -> None:
        networks = [
            _checked(keyword, value, version)
            for keyword, value, version in (("ipv4", ipv4, 4), ("ipv6", ipv6, 6))
            if value is not None
        ]
        if not networks:
            msg = "a network needs ipv4= or ipv6="
            raise ConfigurationError(msg)
        self._network = network
        self._domain = check_domain("domain", domain)
        self._is_router = router
        self.hosts: Hosts = Hosts() if hosts is None else hosts
        self._ours = [each.network_address + 1 for each in networks]
        self._names: dict[IPAddress, str] = {}
        self._owners: dict[str, str] = {}  # their MAC addresses
        self.gateway: Stack = Stack(
            network,
            name=options.pop("name", f"lan {self._domain}"),
            ip=[
                f"{address}/{each.prefixlen}"
                for address, each in zip(self._ours, networks, strict=True)
            ],
            dns=self._ours,
            domain=self._domain,
            **options,
        )
        self.dhcp: Dhcp4Server | None = None
        self.dhcp6: Dhcp6Server | None = None
        self.ra: RouterAdvertiser | None = None
        leased: dict[str, Any] = {
            "domain": self._domain,
            "lease_time": lease_time,
            "on_lease": self._add_name,
            "on_end": self._drop_name,
        }
        for each, ours in zip(networks, self._ours, strict=True):
            if isinstance(each, ipaddress.IPv4Network):
                self.dhcp = Dhcp4Server(
                    self.gateway,
                    dns=str(ours),
                    router=None if router else (),
                    **leased,
                )
                continue
            self.dhcp6 = Dhcp6Server(self.gateway, dns=str(ours), **leased)
            self.ra = RouterAdvertiser(
                self.gateway,
                prefixes=[Prefix(each, _VALID, _PREFERRED, autonomous=slaac)],
                lifetime=_ROUTER_SECONDS if router else 0,
                dns=ours,
                domain=self._domain,
                managed=True,
            )
        # Nobody else is asked about names of ours, and everybody hears that there is
        # nothing but what we know.
        zones = [f"{self._domain}.", *map(_reverse_zone, networks)]
        soa = f"SOA gateway.{self._domain}. root.{self._domain}. 1 3600 600 86400 0"
        self.dns: DnsServer = DnsServer(
            self.gateway,
            hosts=self.hosts,
            records="\n".join(f"{zone} 0 {soa}" for zone in zones),
            forward=forward,
        )
        self._open: AsyncExitStack | None = None

    @property
    def domain(self) -> str:
        """Where its hosts have their names."""
        return self._domain

    def stack(self, name: str, **options: Any) -> Stack:
        """Return a stack that configures itself from this network, not open yet.

        Args:
            name: The host's, without the domain.
            **options: Further arguments of `aioioth.Stack`.
        """
        wanted: dict[str, Any] = {
            "dhcp": self.dhcp is not None,
            "dhcp6": self.dhcp6 is not None,
            "ra": self.ra is not None,
        }
        return Stack(self._network, name=name, **(wanted | options))

    @override
    async def open(self) -> Self:
        """Start everything; returns itself.

        Raises:
            BusyError: It is open already.
            OSError: As `Stack.open` and the servers raise it.

        Cancellation:
            Nothing is left behind.
        """
        if self._open is not None:
            msg = f"{self} is open already"
            raise BusyError(msg)
        async with AsyncExitStack() as undo:
            await undo.enter_async_context(self.gateway)
            undo.callback(self._forget_names)
            for address in self._ours:
                self._bind(f"gateway.{self._domain}", address)
            if self._is_router:
                await self.gateway.set_forwarding(True)
            for server in (self.dns, self.dhcp, self.dhcp6, self.ra):
                if server is not None:
                    await undo.enter_async_context(server)
            self._open = undo.pop_all()
        return self

    @override
    async def aclose(self) -> None:
        """Stop all servers, and close the lan's stack. Idempotent.

        Cancellation:
            Everything is closed all the same.
        """
        opened, self._open = self._open, None
        if opened is not None:
            await opened.aclose()

    @override
    def __str__(self) -> str:
        return f"lan {self._domain!r}"

    # Names of those who have a lease

    def _add_name(self, lease: Lease | Lease6) -> None:
        if self._names.get(lease.address) is not None:
            return  # a lease that was renewed
        name = self._name_for(lease)
        if name is not None:
            self._owners[name] = lease.mac or ""
            self._bind(name, lease.address)

    def _drop_name(self, lease: Lease | Lease6) -> None:
        self._unbind(lease.address)

    def _name_for(self, lease: Lease | Lease6) -> str | None:
        """Return the name that a host gets; None if it cannot have what it wants."""
        if not lease.name:
            return None
        host = lease.name.removesuffix(".").lower().removesuffix(f".{self._domain}")
        try:
            name = check_domain("name", f"{host}.{self._domain}")
        except ConfigurationError:
            return None
        # Whoever comes first has it, with both families' addresses; and what was there
        # before anybody came is nobody's.
        if name in self.hosts and self._owners.get(name) != (lease.mac or ""):
            _log.warning("%s: %s wants the name %s, too", self, lease.mac, name)
            return None
        return name

    def _bind(self, name: str, address: IPAddress) -> None:
        known = [*self.hosts[name]] if name in self.hosts else []
        self.hosts[name] = [*known, address]
        self._names[address] = name

    def _unbind(self, address: IPAddress) -> None:
        name = self._names.pop(address, None)
        if name is None or name not in self.hosts:
            return
        left = [each for each in self.hosts[name] if each != address]
        if left:
            self.hosts[name] = left
        else:
            del self.hosts[name]
            self._owners.pop(name, None)

    def _forget_names(self) -> None:
        for address in list(self._names):
            self._unbind(address)


def _reverse_zone(network: IPNetwork) -> str:
    """Return the smallest zone that has the names of all addresses of a network."""
    labels = network.network_address.reverse_pointer.split(".")
    bits = network.max_prefixlen // (len(labels) - 2)  # of each label
    return ".".join(
        [*labels[(network.max_prefixlen - network.prefixlen + bits - 1) // bits :], ""]
    )


def _checked(keyword: str, value: object, version: int) -> IPNetwork:
    network = parse_network(keyword, value)
    if network.version != version or (version == 6 and network.prefixlen != 64):
        msg = f"{keyword}={value!r}: must be an IPv4 network, or a /64 of IPv6"
        raise ConfigurationError(msg)
    return network
