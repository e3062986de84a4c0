"""Addresses, routes, neighbours and rules as methods of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioioth import _ensuring, _listing
from aioioth._background import carried
from aioioth._configurable import Configurable
from aioioth.iproute import MAIN_TABLE, Address, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioioth._ip import IPAddress, IPInterface, IPNetwork
    from aioioth._iproute import Thing
    from aioioth.iproute import Neighbour, NextHop, Rule


class StackAddressing(Configurable):
    """The part of `aioioth.Stack` that is ``ip address``, ``ip route`` and so on.

    All of it may raise, besides what is said: ClosedError if the stack is not open,
    WrongLoopError if it belongs to another event loop. Of what is cancelled all,
    nothing, or the beginning has been carried out.
    """

    # As values

    @carried
    async def add(self, *things: Thing) -> None:
        """Do ``ip address add``, ``ip route add``, ``ip neighbour add``, ...

        An IPv6 address with ``nodad`` is usable when this returns; without, after a
        second or two: see `wait_ready`.

        Args:
            *things: What, as values of `aioioth.iproute`. Many take less time in one
                call than in many. The first one that is refused is the last.

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENODEV, ENETUNREACH, ...
        """
        await self._usable_parts().change("add", *things)

    @carried
    async def replace(self, *things: Thing) -> None:
        """Do ``ip route replace`` and the like: add, or take the place of another.

        An address with the same prefix length and peer gets another state; a route
        takes the place of one to the same network with the same metric and table; a
        neighbour of what was known of his address.

        Args:
            *things: What; the first one that is refused is the last.

        Raises:
            NetlinkError: The kernel refused.
            ConfigurationError: Rules cannot be replaced: they have no names.
        """
        await self._usable_parts().change("replace", *things)

    @carried
    async def ensure(self, thing: Thing) -> bool:
        """Have something be there, as it is said, whether it is so already or not.

        What is not said (a route's `dev`, say) is not looked at. Lifetimes count down,
        so something that has one is as good as always renewed.

        Args:
            thing: What.

        Returns:
            Whether anything had to be done.

        Raises:
            NetlinkError: The kernel refused; EEXIST if an IPv6 address is there with
                another prefix length, which nothing can change.

        Cancellation:
            It may have been done or not.
        """
        parts = self._usable_parts()
        changed = await _ensuring.ensure(parts.space, thing, parts.interfaces)
        parts.changed(thing)
        return changed

    @carried
    async def remove(self, *things: Thing) -> None:
        """Do ``ip address del``, ``ip route del``, ``ip neighbour del``, ...

        Args:
            *things: What; the first one that is refused is the last. Of a route that
                says nothing but where it leads, the first one that leads there is
                taken away.

        Raises:
            NetlinkError: The kernel refused: EADDRNOTAVAIL, ESRCH, ENOENT, ENODEV, ...
        """
        await self._usable_parts().change("del", *things)

    # What there is

    @carried
    async def addresses(self, dev: str | None = None) -> list[Address]:
        """Return what ``ip address`` shows, IPv4 first.

        Args:
            dev: Name of an interface; None for all, ``lo`` included.

        Raises:
            NetlinkError: There is no such interface (ENODEV).
        """
        return await _listing.addresses(self._usable_parts().space, dev)

    @carried
    async def routes(
        self, table: int | None = MAIN_TABLE, family: int | None = None
    ) -> list[Route]:
        """Return what ``ip route`` and ``ip -6 route`` show, IPv4 first.

        Args:
            table: Number of the routing table; None for all.
            family: `socket.AF_INET` or `socket.AF_INET6`; None for both.

        Raises:
            NetlinkError: The kernel refused.
            ConfigurationError: There is no such family.
        """
        return await _listing.routes(self._usable_parts().space, table, family)

    @carried
    async def neighbours(self, dev: str | None = None) -> list[Neighbour]:
        """Return what ``ip neighbour`` shows, and the proxies.

        Args:
            dev: Name of an interface; None for all.

        Raises:
            NetlinkError: There is no such interface (ENODEV).
        """
        return await _listing.neighbours(self._usable_parts().space, dev)

    @carried
    async def rules(self) -> list[Rule]:
        """Return what ``ip rule`` and ``ip -6 rule`` show, IPv4 first.

        Raises:
            NetlinkError: The kernel refused.
        """
        return await _listing.rules(self._usable_parts().space)

    # In fewer words

    @carried
    async def add_address(
        self,
        address: str | IPInterface,
        *,
        dev: str,
        peer: str | IPAddress | None = None,
        nodad: bool = True,
        valid: int | None = None,
        preferred: int | None = None,
        noprefixroute: bool = False,
    ) -> None:
        """Do ``ip address add ADDRESS dev DEV``.

        Args:
            address: With prefix length: ``10.0.0.1/24``, ``fd00::1/64``.
            dev: Name of the interface.
            peer: The other end's address, on a link that has only two.
            nodad: An IPv6 address is usable at once: nobody is asked whether he has it
                already. If False, that takes a second or two: see `wait_ready`.
            valid: Seconds until the kernel takes it away; None for never.
            preferred: Seconds until new connections leave from other addresses.
            noprefixroute: The kernel makes no route to the network that it is in.

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        wanted = Address(
            address,
            dev,
            peer=peer,
            nodad=nodad,
            valid=valid,
            preferred=preferred,
            noprefixroute=noprefixroute,
        )
        await self._usable_parts().change("add", wanted)

    @carried
    async def del_address(
        self,
        address: str | IPInterface,
        *,
        dev: str,
        peer: str | IPAddress | None = None,
    ) -> None:
        """Do ``ip address del ADDRESS dev DEV``.

        Raises:
            NetlinkError: The kernel refused: EADDRNOTAVAIL, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        await self._usable_parts().change("del", Address(address, dev, peer=peer))

    @carried
    async def add_route(  # noqa: PLR0913  (one keyword for each thing to be said)
        self,
        destination: str | IPNetwork,
        *,
        via: str | IPAddress | None = None,
        dev: str | None = None,
        metric: int | None = None,
        table: int = MAIN_TABLE,
        kind: str = "unicast",
        source: str | IPAddress | None = None,
        nexthops: Sequence[NextHop] = (),
        mtu: int | None = None,
        onlink: bool = False,
        lifetime: int | None = None,
    ) -> None:
        """Do ``ip route add DESTINATION via VIA dev DEV``.

        Args:
            destination: Network with prefix length: ``10.1.0.0/16``, ``::/0``; or
                ``default``, of the router's address family.
            via: Address of the router. One of IPv6 may lead to an IPv4 network.
            dev: Name of the interface; needed for a link-local router.
            metric: The lowest one wins. None: 0 for IPv4, 1024 for IPv6.
            table: Number of the routing table; see `aioioth.iproute.Rule`.
            kind: ``unicast``, ``blackhole``, ``unreachable``, ``prohibit``, ...
            source: Address to send from, if the socket does not say.
            nexthops: Several ways, in place of `via` and `dev`.
            mtu: In bytes; None for the interface's.
            onlink: Take the router for one on the link although no network says so.
            lifetime: Seconds until the kernel takes it away (IPv6 only).

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENETUNREACH, ENODEV.
            ConfigurationError: The destination is no network, or something does not go
                together.
        """
        wanted = Route(
            destination,
            via=via,
            dev=dev,
            metric=metric,
            table=table,
            kind=kind,
            source=source,
            nexthops=nexthops,
            mtu=mtu,
            onlink=onlink,
            lifetime=lifetime,
        )
        await self._usable_parts().change("add", wanted)

    @carried
    async def del_route(
        self,
        destination: str | IPNetwork,
        *,
        via: str | IPAddress | None = None,
        dev: str | None = None,
        metric: int | None = None,
        table: int = MAIN_TABLE,
        kind: str = "unicast",
    ) -> None:
        """Do ``ip route del DESTINATION via VIA dev DEV``; see `add_route`.

        Raises:
            NetlinkError: The kernel refused: ESRCH, ENODEV.
            ConfigurationError: The destination is no network.
        """
        wanted = Route(
            destination, via=via, dev=dev, metric=metric, table=table, kind=kind
        )
        await self._usable_parts().change("del", wanted)
