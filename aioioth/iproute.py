"""Links, addresses, routes, neighbours and rules of a stack, as values.

They are what `aioioth.Stack.add`, ``replace``, ``ensure`` and ``remove`` take, and what
``links()``, ``addresses()``, ``routes()``, ``neighbours()`` and ``rules()`` return.
What they are called, and what can be said of them, is iproute2's; ``str()`` of each is
what follows ``ip route add``, say.

Source: ip-link(8), ip-address(8), ip-route(8), ip-neighbour(8), ip-rule(8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from aioioth._ip import (
    IPAddress,
    IPInterface,
    IPNetwork,
    parse_address,
    parse_ip,
    parse_mac,
    parse_network,
)
from aioioth._said import (
    check_family,
    destination_of,
    link_name,
    number,
    one_of,
    router_of,
    seconds,
    words_of,
)
from aioioth.errors import ConfigurationError
from aioioth.wire import rtroute

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAIN_TABLE",
    "Address",
    "Link",
    "Neighbour",
    "NextHop",
    "Qdisc",
    "Route",
    "Rule",
]

MAIN_TABLE: Final = 254


@dataclass(frozen=True)
class Link:
    """A network interface, as ``ip link`` shows it.

    Attributes:
        index: The kernel's number for it.
        name: As in ``dev NAME``.
        mac: As ``02:00:00:00:00:01``; None for what has none.
        mtu: In bytes, link-layer header not counted.
        up: Whether it was set up.
        carrier: Whether frames can go out: it is up, and its cable is in.
        kind: ``veth``, ``bridge``, ``tun``, ...; empty for ``lo`` and real hardware.
        master: The bridge that it is a port of.
        parent: The link that it lies on, of a VLAN or macvlan.
    """

    index: int
    name: str
    mac: str | None
    mtu: int
    up: bool
    carrier: bool
    kind: str = ""
    master: str | None = None
    parent: str | None = None

    @override
    def __str__(self) -> str:
        state = "up" if self.up else "down"
        words = [f"{self.name} mtu {self.mtu} {state}"]
        if self.up and not self.carrier:
            words.append("no-carrier")
        words += words_of(("address", self.mac), ("master", self.master))
        words += words_of(("link", self.parent), ("type", self.kind or None))
        return " ".join(words)


@dataclass(frozen=True)
class Address:
    """An address of an interface.

    Two are equal if address, interface and peer are; the rest is its state.

    Args:
        address: With prefix length: ``10.0.0.1/24``, ``fd00::1/64``.
        dev: Name of the interface.
        peer: The other end's address, on a link that has only two.
        nodad: Nobody is asked first whether he has it already (IPv6 only): it is usable
            at once. IPv4 addresses are never asked for by the kernel.
        valid: Seconds until the kernel takes it away; None for never.
        preferred: Seconds until new connections leave from other addresses; None for
            never, or as `valid`.
        noprefixroute: The kernel makes no route to the network that it is in.
        scope: ``global``, ``link``, ``host``, or a number as text. None: what is usual
            for the address.

    Attributes:
        tentative: It cannot be used yet: others are being asked whether it is theirs.
        duplicated: Somebody else had it, so that it cannot be used at all.
        deprecated: Its `preferred` time is over.
    """

    address: IPInterface
    dev: str
    peer: IPAddress | None = None
    nodad: bool = field(default=True, compare=False)
    valid: int | None = field(default=None, compare=False)
    preferred: int | None = field(default=None, compare=False)
    noprefixroute: bool = field(default=False, compare=False)
    scope: str | None = field(default=None, compare=False)
    tentative: bool = field(default=False, compare=False)
    duplicated: bool = field(default=False, compare=False)
    deprecated: bool = field(default=False, compare=False)

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be said)
        self,
        address: str | IPInterface,
        dev: str,
        *,
        peer: str | IPAddress | None = None,
        nodad: bool = True,
        valid: int | None = None,
        preferred: int | None = None,
        noprefixroute: bool = False,
        scope: str | None = None,
        tentative: bool = False,
        duplicated: bool = False,
        deprecated: bool = False,
    ) -> None:
        interface = parse_ip(address)
        other = None if peer is None else parse_address("peer", peer)
        if other is not None and other.version != interface.version:
            msg = f"address {interface} with peer {other}: one is IPv4, the other IPv6"
            raise ConfigurationError(msg)
        if scope is not None:
            one_of("scope", scope, rtroute.SCOPES)
        valid = seconds("valid", valid)
        preferred = seconds("preferred", preferred)
        if preferred is not None and valid is not None and preferred > valid:
            msg = f"preferred={preferred}: not longer than valid={valid}"
            raise ConfigurationError(msg)
        vars(self).update(
            address=interface,
            dev=link_name(dev),
            peer=other,
            nodad=nodad,
            valid=valid,
            preferred=preferred,
            noprefixroute=noprefixroute,
            scope=scope,
            tentative=tentative,
            duplicated=duplicated,
            deprecated=deprecated,
        )

    @property
    def usable(self) -> bool:
        """Whether sockets can be bound to it, and packets to it are taken."""
        return not self.tentative and not self.duplicated

    @override
    def __str__(self) -> str:
        words = [str(self.address)]
        words += words_of(("peer", self.peer), ("dev", self.dev), ("scope", self.scope))
        words += words_of(("valid_lft", self.valid), ("preferred_lft", self.preferred))
        for word in ("tentative", "deprecated", "noprefixroute"):
            if getattr(self, word):
                words.append(word)
        if self.duplicated:
            words.append("dadfailed")
        return " ".join(words)


@dataclass(frozen=True)
class NextHop:
    """One of several ways of a route.

    Args:
        via: The router's address.
        dev: Name of the interface; not needed if the router is on a network of ours.
        weight: How much of the traffic goes there, beside the others' (1 to 256).
    """

    via: IPAddress | None = None
    dev: str | None = None
    weight: int = 1

    def __init__(
        self,
        via: str | IPAddress | None = None,
        dev: str | None = None,
        weight: int = 1,
    ) -> None:
        router = None if via is None else parse_address("via", via)
        if router is None and dev is None:
            msg = "a next hop needs via= or dev="
            raise ConfigurationError(msg)
        if dev is not None:
            link_name(dev)
        weight = number("weight", weight, 1, 256)
        vars(self).update(via=router, dev=dev, weight=weight)

    @override
    def __str__(self) -> str:
        words = words_of(("via", self.via), ("dev", self.dev))
        return " ".join(["nexthop", *words, f"weight {self.weight}"])


def _checked_hops(hops: object) -> tuple[NextHop, ...]:
    if isinstance(hops, Sequence) and all(isinstance(hop, NextHop) for hop in hops):
        return tuple(hops)
    msg = f"nexthops={hops!r}: must be a list of NextHop(via, dev, weight)"
    raise ConfigurationError(msg)


@dataclass(frozen=True)
class Route:
    """A route.

    Two are equal if they lead to the same place in the same way.

    Args:
        destination: A network: ``10.1.0.0/16``; or ``default``, of the address family
            that `via` has.
        via: The router's address; with a link-local one say `dev`, too. An IPv6 router
            may lead to an IPv4 network.
        dev: Name of the interface.
        metric: The lowest one wins. None: 0 for IPv4, 1024 for IPv6, the kernel's own.
        table: Number of the routing table; see `Rule`.
        kind: ``unicast``, ``blackhole``, ``unreachable``, ``prohibit``, ``throw``,
            ``local``, ...
        source: Address to send from, if the socket does not say.
        nexthops: Several ways, in place of `via` and `dev`.
        mtu: In bytes; None for the interface's.
        onlink: Take the router for one on the link although no network says so.
        lifetime: Seconds until the kernel takes it away (IPv6 only); None for never.
        scope: ``global``, ``link``, ``host``. None: what is usual for the route.
        protocol: Who made it: ``boot``, ``static``, ``kernel``, ``ra``, ``dhcp``, or a
            number as text.
    """

    destination: IPNetwork
    via: IPAddress | None = None
    dev: str | None = None
    metric: int = 0
    table: int = MAIN_TABLE
    kind: str = "unicast"
    source: IPAddress | None = None
    nexthops: tuple[NextHop, ...] = ()
    mtu: int | None = None
    onlink: bool = field(default=False, compare=False)
    lifetime: int | None = field(default=None, compare=False)
    scope: str | None = field(default=None, compare=False)
    protocol: str = field(default="boot", compare=False)

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be said)
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
        scope: str | None = None,
        protocol: str = "boot",
    ) -> None:
        router = None if via is None else router_of(destination, via)
        nexthops = _checked_hops(nexthops)
        network = destination_of(destination, router, nexthops)
        sender = None if source is None else parse_address("source", source)
        for each in (router, *(hop.via for hop in nexthops)):
            check_family(network, each, sender)
        if dev is not None:
            link_name(dev)
        if nexthops and (via is not None or dev is not None):
            msg = f"route to {network}: either nexthops=, or via= and dev="
            raise ConfigurationError(msg)
        lifetime = seconds("lifetime", lifetime)
        if lifetime is not None and network.version == 4:
            msg = f"route to {network}: IPv4 routes have no lifetime; remove it in time"
            raise ConfigurationError(msg)
        if metric is None:
            metric = 0 if network.version == 4 else rtroute.IPV6_METRIC
        metric = number("metric", metric, 0, 0xFFFFFFFF)
        table = number("table", table, 1, 0xFFFFFFFF)
        if mtu is not None:
            number("mtu", mtu, 1, 0xFFFFFFFF)
        one_of("kind", kind, rtroute.ROUTE_TYPES)
        one_of("protocol", protocol, rtroute.ROUTE_PROTOCOLS)
        if scope is not None:
            one_of("scope", scope, rtroute.SCOPES)
        vars(self).update(
            destination=network,
            via=router,
            dev=dev,
            metric=metric,
            table=table,
            kind=kind,
            source=sender,
            nexthops=nexthops,
            mtu=mtu,
            onlink=onlink,
            lifetime=lifetime,
            scope=scope,
            protocol=protocol,
        )

    @property
    def is_default(self) -> bool:
        """Whether it leads everywhere."""
        return self.destination.prefixlen == 0

    @override
    def __str__(self) -> str:
        words = [] if self.kind == "unicast" else [self.kind]
        words.append("default" if self.is_default else str(self.destination))
        words += words_of(("via", self.via), ("dev", self.dev))
        if self.table != MAIN_TABLE:
            words.append(f"table {self.table}")
        if self.metric != (rtroute.IPV6_METRIC if self.destination.version == 6 else 0):
            words.append(f"metric {self.metric}")
        words += words_of(("src", self.source), ("mtu", self.mtu))
        if self.scope != "global":
            words += words_of(("scope", self.scope))
        words += words_of(("expires", self.lifetime))
        if self.onlink:
            words.append("onlink")
        words += [str(hop) for hop in self.nexthops]
        return " ".join(words)


@dataclass(frozen=True)
class Neighbour:
    """Who on a link has an address.

    Two are equal if they say the same MAC address of the same one.

    Args:
        address: His address.
        mac: His MAC address; None if nobody knows (yet).
        dev: Name of the interface.
        state: ``permanent``, ``noarp``, ``reachable``, ``stale``, ``delay``, ``probe``,
            ``incomplete``, ``failed``.
        router: He is a router.
        proxy: We answer for him.
    """

    address: IPAddress
    mac: str | None
    dev: str
    state: str = field(default="permanent", compare=False)
    router: bool = field(default=False, compare=False)
    proxy: bool = False

    def __init__(
        self,
        address: str | IPAddress,
        mac: str | None = None,
        *,
        dev: str,
        state: str = "permanent",
        router: bool = False,
        proxy: bool = False,
    ) -> None:
        him = parse_address("neighbour", address)
        one_of("state", state, rtroute.NEIGHBOUR_STATES)
        if mac is not None:
            mac = parse_mac(mac)
        vars(self).update(
            address=him,
            mac=mac,
            dev=link_name(dev),
            state=state,
            router=router,
            proxy=proxy,
        )

    @override
    def __str__(self) -> str:
        words = ["proxy"] if self.proxy else []
        words += [str(self.address), *words_of(("lladdr", self.mac), ("dev", self.dev))]
        if not self.proxy:
            words.append(f"nud {self.state}")
        if self.router:
            words.append("router")
        return " ".join(words)


@dataclass(frozen=True)
class Rule:
    """Which routing table is looked at for a packet.

    Args:
        table: Its number; 0 if `action` is not ``lookup``.
        source: Packets from this network; None for all.
        destination: Packets to this network; None for all.
        iif: Packets that came in there.
        oif: Packets of sockets that are bound there.
        fwmark: Packets with this mark.
        fwmask: The bits of the mark that count.
        priority: Rules are looked at in this order. None: the kernel puts it first.
        version: 4 or 6. None: what the networks are, or both.
        action: ``lookup``, ``blackhole``, ``unreachable``, ``prohibit``.

    Attributes:
        partial: The kernel has more of it than is said here: ``not``, ``ipproto``,
            ``uidrange``, ... `aioioth.Stack.netlink` has it all.
    """

    table: int
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    iif: str | None = None
    oif: str | None = None
    fwmark: int | None = None
    fwmask: int | None = None
    priority: int | None = None
    version: int | None = None
    action: str = "lookup"
    partial: bool = field(default=False, init=False)

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be said)
        self,
        table: int = 0,
        *,
        source: str | IPNetwork | None = None,
        destination: str | IPNetwork | None = None,
        iif: str | None = None,
        oif: str | None = None,
        fwmark: int | None = None,
        fwmask: int | None = None,
        priority: int | None = None,
        version: int | None = None,
        action: str = "lookup",
    ) -> None:
        from_net = None if source is None else parse_network("source", source)
        to_net = (
            None if destination is None else parse_network("destination", destination)
        )
        if version is not None:
            number("version", version, 4, 6)
        said = {
            version,
            *(net.version for net in (from_net, to_net) if net is not None),
        }
        said.discard(None)
        if len(said) > 1 or not said <= {4, 6}:
            msg = f"rule from {source} to {destination}: say either IPv4 or IPv6"
            raise ConfigurationError(msg)
        version = said.pop() if said else None
        for dev in (iif, oif):
            if dev is not None:
                link_name(dev)
        one_of("action", action, rtroute.RULE_ACTIONS)
        if action == "lookup":
            table = number("table", table, 1, 0xFFFFFFFF)
        for word, value in (("fwmark", fwmark), ("fwmask", fwmask)):
            if value is not None:
                number(word, value, 0, 0xFFFFFFFF)
        if priority is not None:
            number("priority", priority, 0, 0xFFFFFFFF)
        if fwmark is not None and fwmask is None:
            fwmask = 0xFFFFFFFF
        vars(self).update(
            table=table,
            source=from_net,
            destination=to_net,
            iif=iif,
            oif=oif,
            fwmark=fwmark,
            fwmask=fwmask,
            priority=priority,
            version=version,
            action=action,
            partial=False,
        )

    @override
    def __str__(self) -> str:
        words = words_of(("priority", self.priority))
        words.append("from all" if self.source is None else f"from {self.source}")
        words += words_of(
            ("to", self.destination), ("iif", self.iif), ("oif", self.oif)
        )
        if self.fwmark is not None:
            words.append(f"fwmark {self.fwmark:#x}/{self.fwmask:#x}")
        lookup = f"lookup {self.table}"
        words.append(lookup if self.action == "lookup" else self.action)
        if self.partial:
            words.append("...")
        return " ".join(words)


@dataclass(frozen=True)
class Qdisc:
    """A queueing discipline, as ``tc qdisc`` shows it.

    Attributes:
        kind: ``fq_codel``, ``tbf``, ...
        dev: Name of the interface.
        handle: ``8001:``.
        parent: ``root``, ``ingress``, or a class: ``1:10``.
        options: As pyroute2 decodes them.
    """

    kind: str
    dev: str
    handle: str
    parent: str
    options: Mapping[str, object] = field(default_factory=dict, compare=False)

    @override
    def __str__(self) -> str:
        where = self.parent if self.parent in _PLACES else f"parent {self.parent}"
        return f"{self.kind} {self.handle} dev {self.dev} {where}"


_PLACES = {"root", "ingress"}
