"""What is announced, and lost, and asked for: events are differences of tables."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from hypothesis import given, strategies as st

from aioioth import events
from aioioth._iproute import change
from aioioth._nettables import ADDRESSES, ALL, LINKS, NEIGHBOURS, ROUTES, Tables
from aioioth.iproute import Address, Neighbour, NextHop, Route
from aioioth.wire import rtnetlink as rt, rtroute

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aioioth.events import Event

VDE0, VDE1, BRIDGE = 7, 8, 9
NUMBERS = {"vde0": VDE0, "vde1": VDE1, "br0": BRIDGE}
MAC = "02:00:00:00:00:01"
IFF_RUNNING_UP = rt.IFF_UP | rt.IFF_LOWER_UP


def link(
    index: int = VDE0,
    name: str = "vde0",
    *,
    up: bool = True,
    family: int = 0,
    master: int | None = None,
    mtu: int = 1500,
    kind: int = rt.RTM_NEWLINK,
) -> bytes:
    header = struct.pack("=BBHiII", family, 0, 1, index, IFF_RUNNING_UP if up else 0, 0)
    parts = [rt.attribute(rt.IFLA_IFNAME, name), rt.attribute(rt.IFLA_MTU, mtu)]
    if master is not None:
        parts.append(rt.attribute(rt.IFLA_MASTER, master))
    return rt.request(kind, header + b"".join(parts))


def gone(index: int = VDE0, **told: Any) -> bytes:
    return link(index, kind=rt.RTM_DELLINK, **told)


def said(kind: int, thing: Any, flags: int = 0) -> bytes:
    """Return the announcement of a thing, as the kernel makes it."""
    [request] = change("add", thing, NUMBERS.__getitem__, is_up=False)
    return rt.request(kind, request.payload[16:], flags)


def new(thing: Any, flags: int = 0) -> bytes:
    kinds = {Address: rt.RTM_NEWADDR, Route: rt.RTM_NEWROUTE}
    return said(kinds.get(type(thing), rt.RTM_NEWNEIGH), thing, flags)


def removed(thing: Any) -> bytes:
    kinds = {Address: rt.RTM_DELADDR, Route: rt.RTM_DELROUTE}
    return said(kinds.get(type(thing), rt.RTM_DELNEIGH), thing)


def flagged(address: Address, flags: int, kind: int = rt.RTM_NEWADDR) -> bytes:
    host = address.address
    message = rtroute.change_address(
        "add", NUMBERS[address.dev], host.ip, host.network.prefixlen, flags=flags
    )
    return rt.request(kind, message[16:])


def dump(*messages: bytes) -> list[tuple[int, bytes]]:
    return [found for message in messages for found in rt.messages(message)]


def known(*messages: bytes) -> Tables:
    """Return tables in which two links and these things are known."""
    tables = Tables()
    tables.take(link() + link(VDE1, "vde1") + b"".join(messages))
    assert not tables.stale
    return tables


def renewed(
    tables: Tables, stale: Collection[str], found: list[tuple[int, bytes]]
) -> list[Event]:
    return [event for event in tables.renew(stale, found) if event is not None]


def kinds(told: Iterable[Event]) -> list[type[Event]]:
    return [type(event) for event in told]


OURS = Address("fd00::1/64", "vde0")
ROUTE = Route("10.1.0.0/16", via="10.0.0.9", dev="vde0")
OTHER = Route("10.1.0.0/16", via="10.0.0.8", dev="vde0")
HIM = Neighbour("10.0.0.9", MAC, dev="vde0", state="reachable")


# Links


def test_a_link_comes_changes_and_goes() -> None:
    tables = Tables()
    [added] = tables.take(link())
    assert isinstance(added, events.LinkAdded)
    assert (added.interface, added.link.carrier) == ("vde0", True)
    assert tables.take(link()) == []
    [changed] = tables.take(link(up=False, mtu=1400))
    assert isinstance(changed, events.LinkChanged)
    assert changed.changed == {"up", "carrier", "mtu"}
    assert kinds(tables.take(gone())) == [events.LinkRemoved]
    assert tables.links == ()
    assert tables.take(gone()) == []


def test_a_bridges_view_of_its_port_is_no_link() -> None:
    tables = known()
    assert tables.take(link(family=rt.AF_BRIDGE)) == []
    assert tables.take(gone(family=rt.AF_BRIDGE)) == []
    assert [each.name for each in tables.links] == ["vde0", "vde1"]


def test_a_link_takes_with_it_what_is_on_it() -> None:
    elsewhere = Address("fd00::2/64", "vde1")
    tables = known(new(OURS), new(elsewhere), new(HIM))
    assert kinds(tables.take(gone())) == [
        events.AddressRemoved,
        events.NeighbourRemoved,
        events.LinkRemoved,
    ]
    assert tables.addresses == (elsewhere,)
    assert tables.stale == {ROUTES}  # the kernel does not tell of IPv4's


def test_a_link_that_goes_down_takes_routes_with_it() -> None:
    tables = known(new(ROUTE))
    assert kinds(tables.take(link(up=False))) == [events.LinkChanged]
    assert tables.stale == {ROUTES}
    told = renewed(tables, {ROUTES}, [])
    assert told == [events.RouteRemoved("vde0", ROUTE)]


def test_a_new_name_is_everywhere() -> None:
    ways = Route(
        "10.2.0.0/16", nexthops=[NextHop("10.0.0.9", "vde0"), NextHop(dev="vde1")]
    )
    tables = known(new(OURS), new(HIM), new(ROUTE), new(ways))
    [changed] = tables.take(link(name="eth0"))
    assert isinstance(changed, events.LinkChanged)
    assert changed.changed == {"name"}
    assert [each.dev for each in tables.addresses] == ["eth0"]
    assert [each.dev for each in tables.neighbours] == ["eth0"]
    one, other = tables.routes
    assert (one.dev, other.nexthops[0].dev) == ("eth0", "eth0")
    # Nothing of it is new to a dump.
    found = dump(
        link(name="eth0"),
        link(VDE1, "vde1"),
        new(OURS),
        new(HIM),
        new(ROUTE),
        new(ways),
    )
    assert renewed(tables, ALL, found) == []


def test_a_bridge_may_come_after_its_ports() -> None:
    tables = Tables()
    renewed(tables, {LINKS}, dump(link(master=BRIDGE), link(BRIDGE, "br0")))
    assert [each.master for each in tables.links] == ["br0", None]


# Addresses


def test_an_address_comes_and_goes() -> None:
    tables = known()
    told = tables.take(new(OURS))
    assert told == [
        events.AddressAdded("vde0", OURS),
        events.AddressUsable("vde0", OURS),
    ]
    assert tables.take(new(OURS)) == []
    assert tables.take(removed(OURS)) == [events.AddressRemoved("vde0", OURS)]
    assert tables.take(removed(OURS)) == []


def test_an_address_is_looked_for() -> None:
    tables = known()
    tentative, failed = rtroute.IFA_F_TENTATIVE, rtroute.IFA_F_DADFAILED
    assert kinds(tables.take(flagged(OURS, tentative))) == [events.AddressAdded]
    assert kinds(tables.take(flagged(OURS, 0))) == [events.AddressUsable]
    assert tables.take(flagged(OURS, tentative)) == []
    told = tables.take(flagged(OURS, tentative | failed))
    assert kinds(told) == [events.AddressDuplicated]
    assert tables.take(flagged(OURS, tentative | failed)) == []


def test_one_with_a_lifetime_is_taken_away() -> None:
    tables = known(flagged(OURS, rtroute.IFA_F_TENTATIVE))
    flags = rtroute.IFA_F_TENTATIVE | rtroute.IFA_F_DADFAILED
    told = tables.take(flagged(OURS, flags, rt.RTM_DELADDR))
    assert kinds(told) == [events.AddressDuplicated, events.AddressRemoved]
    assert list(tables.refused) == [OURS]
    tables.take(new(OURS))
    assert list(tables.refused) == []


def test_not_too_many_refused_ones_are_remembered() -> None:
    tables = known()
    for number in range(2000):
        each = Address(f"fd00::{number:x}/64", "vde0")
        tables.take(flagged(each, rtroute.IFA_F_TENTATIVE))
        tables.take(flagged(each, rtroute.IFA_F_DADFAILED, rt.RTM_DELADDR))
    assert len(tables.refused) == 1024


# Routes


def test_a_route_comes_and_goes() -> None:
    tables = known()
    assert tables.take(new(ROUTE)) == [events.RouteAdded("vde0", ROUTE)]
    assert tables.take(new(ROUTE)) == []
    assert tables.take(removed(ROUTE)) == [events.RouteRemoved("vde0", ROUTE)]
    assert tables.take(removed(ROUTE)) == []
    assert not tables.stale


def test_a_route_takes_the_place_of_another() -> None:
    tables = known(new(ROUTE))
    assert tables.take(new(OTHER, rt.NLM_F_REPLACE)) == [
        events.RouteRemoved("vde0", ROUTE),
        events.RouteAdded("vde0", OTHER),
    ]
    assert tables.routes == (OTHER,)


def test_one_route_beside_another_has_to_be_asked_for() -> None:
    """It may be appended, or a way more of the same one: it depends on the kernel."""
    tables = known(new(ROUTE))
    assert tables.take(new(OTHER)) == []
    assert tables.stale == {ROUTES}
    tables.stale.clear()
    assert renewed(tables, {ROUTES}, dump(new(ROUTE), new(OTHER))) == [
        events.RouteAdded("vde0", OTHER)
    ]
    assert set(tables.routes) == {ROUTE, OTHER}
    # An address that goes may take routes with it.
    tables.take(new(Address("10.0.0.1/24", "vde0")))
    tables.take(removed(Address("10.0.0.1/24", "vde0")))
    assert tables.stale == {ROUTES}


def test_a_way_of_several_that_goes_has_to_be_asked_for() -> None:
    ways = Route(
        "fd01::/64", nexthops=[NextHop("fd00::2", "vde0"), NextHop("fd00::3", "vde0")]
    )
    tables = known(new(ways))
    assert tables.take(removed(Route("fd01::/64", via="fd00::2", dev="vde0"))) == []
    assert tables.stale == {ROUTES}


def test_the_kernels_own_routes_are_not_told() -> None:
    own = Route("10.0.0.1/32", dev="vde0", table=255, kind="local")
    tables = known()
    assert tables.take(new(own) + removed(own)) == []
    assert renewed(tables, {ROUTES}, dump(new(own))) == []


# Neighbours


def test_a_neighbour_comes_changes_and_goes() -> None:
    tables = known()
    assert tables.take(new(HIM)) == [events.NeighbourChanged("vde0", HIM)]
    assert tables.take(new(HIM)) == []
    for state in ("stale", "failed"):
        now = Neighbour(HIM.address, HIM.mac, dev="vde0", state=state)
        [changed] = tables.take(new(now))
        assert isinstance(changed, events.NeighbourChanged)
        assert changed.neighbour.state == state
    assert kinds(tables.take(removed(HIM))) == [events.NeighbourRemoved]
    assert tables.take(removed(HIM)) == []


def test_what_needs_nobody_to_be_asked_is_no_neighbour() -> None:
    group = Neighbour("ff02::1", MAC, dev="vde0", state="noarp")
    tables = known()
    assert tables.take(new(group) + removed(group)) == []


# Losses

things = st.one_of(
    st.builds(
        lambda n, dev: Address(f"10.0.0.{n}/24", dev),
        st.integers(1, 3),
        st.sampled_from(["vde0", "vde1"]),
    ),
    st.builds(
        lambda n, via: Route(f"10.{n}.0.0/16", via=f"10.0.0.{via}", dev="vde0"),
        st.integers(1, 2),
        st.integers(1, 2),
    ),
    st.builds(
        lambda n, state: Neighbour(f"10.0.0.{n}", MAC, dev="vde0", state=state),
        st.integers(1, 2),
        st.sampled_from(["stale", "reachable"]),
    ),
)
# What is done, to what, and whether the announcement gets lost.
steps = st.lists(st.tuples(st.booleans(), things, st.booleans()), max_size=30)


@given(steps)
def test_events_add_up_to_what_there_is(done: list[tuple[bool, Any, bool]]) -> None:
    """Whatever is lost, whoever follows the events ends with what a dump shows."""
    tables = known()
    told: list[Event] = []
    there: dict[Any, Any] = {}
    for adds, thing, lost in done:
        key = place(thing)
        if adds == (key in there):
            continue
        if adds:
            there[key] = thing
        else:
            thing = there.pop(key)
        if not lost:
            told += tables.take(new(thing) if adds else removed(thing))
    told += renewed(
        tables, {ADDRESSES, ROUTES, NEIGHBOURS}, dump(*map(new, there.values()))
    )
    assert {*tables.addresses, *tables.routes, *tables.neighbours} == set(
        there.values()
    )
    followed: dict[Any, Any] = {}
    for event in told:
        thing = next(iter(set(vars(event)) - {"interface"}))
        value = getattr(event, thing)
        if isinstance(event, (events.AddressRemoved, events.RouteRemoved)):
            assert followed.pop(value) == value
        elif isinstance(event, events.NeighbourRemoved):
            assert followed.pop(place(value)) is not None
        elif isinstance(event, events.NeighbourChanged):
            followed[place(value)] = value
        elif not isinstance(event, events.AddressUsable):
            assert value not in followed
            followed[value] = value
    assert set(followed.values()) == set(there.values())


def place(thing: Any) -> Any:
    """Return what there is only one of."""
    if isinstance(thing, Route):
        return thing.destination
    return (type(thing), thing.address, thing.dev)
