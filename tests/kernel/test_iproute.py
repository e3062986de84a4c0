"""Addresses, routes, neighbours, rules, sysctls and qdiscs of a stack."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

import aioioth
from aioioth import errors
from aioioth.iproute import Address, Neighbour, NextHop, Route, Rule

MAC = "02:00:00:00:00:01"
HIS = "02:00:00:00:00:09"


def stack(*ip: str, **options: Any) -> aioioth.Stack:
    return aioioth.Stack("null://", ip=ip or ["10.0.0.1/24"], mac=MAC, **options)


# What each can be, and what is read of it

ADDRESSES = [
    Address("10.0.5.1/24", "vde0"),
    Address("10.0.5.1/32", "vde0", peer="10.0.6.1"),
    Address("10.0.5.1/24", "vde0", noprefixroute=True),
    Address("10.0.5.1/24", "vde0", valid=500, preferred=400),
    Address("fd00::5/64", "vde0"),
    Address("fd00::5/128", "vde0", peer="fd00::6"),
    Address("fd00::5/64", "vde0", valid=500),
    Address("fd00::5/64", "vde0", noprefixroute=True),
    Address("127.0.0.2/8", "lo"),
]

ROUTES = [
    Route("10.1.0.0/16", via="10.0.0.9"),
    Route("0.0.0.0/0", dev="vde0"),
    Route("default", via="10.0.0.9", metric=7, table=9, mtu=1400),
    Route("10.1.0.0/16", dev="vde0", table=0xFFFFFFFE, source="10.0.0.1"),
    Route("10.1.0.0/16", via="192.168.7.7", dev="vde0", onlink=True),
    Route("10.1.0.0/16", via="fe80::9", dev="vde0"),
    Route("10.1.0.0/16", kind="blackhole"),
    Route("10.1.0.0/16", kind="unreachable", metric=4000000000),
    Route("10.1.0.0/16", kind="prohibit"),
    Route("10.1.0.0/16", kind="throw", table=5),
    Route("10.1.0.0/16", nexthops=[NextHop("10.0.0.8"), NextHop("10.0.0.9", None, 9)]),
    Route("default", via="fe80::9", dev="vde0"),
    Route("fd01::/64", via="fd00::9", metric=7, protocol="static"),
    Route("fd01::/64", via="fd00::9", lifetime=900),
    Route("fd01::/64", dev="vde0", mtu=1300, table=70000),
    Route("fd01::/64", kind="blackhole"),
    Route("fd01::/64", nexthops=[NextHop("fd00::8"), NextHop("fd00::9", weight=3)]),
]  # fmt: skip

NEIGHBOURS = [
    Neighbour("10.0.0.9", HIS, dev="vde0"),
    Neighbour("fd00::9", HIS, dev="vde0", router=True),
    Neighbour("10.0.0.9", HIS, dev="vde0", state="stale"),
    Neighbour("10.0.0.77", dev="vde0", proxy=True),
    Neighbour("fd00::77", dev="vde0", proxy=True),
]

RULES = [
    Rule(300, source="10.0.0.0/8", priority=5),
    Rule(7, destination="fd00::/8", iif="vde0", priority=5),
    Rule(7, fwmark=5, fwmask=7, priority=6, version=6),
    Rule(7, oif="vde0", priority=6, version=4),
    Rule(action="prohibit", source="10.9.0.0/16", priority=7),
]


async def all_of(stack: aioioth.Stack, thing: Any) -> list[Any]:
    """Return everything of a kind that a stack has."""
    if isinstance(thing, Address):
        return list(await stack.addresses())
    if isinstance(thing, Route):
        return list(await stack.routes(None))
    if isinstance(thing, Neighbour):
        return list(await stack.neighbours())
    return list(await stack.rules())


def has(found: list[Any], thing: Any) -> bool:
    """Whether what was said is there; a route's interface need not be said."""
    if not isinstance(thing, Route):
        return thing in found
    place = (thing.destination, thing.metric, thing.table, thing.kind, thing.mtu)
    return any(
        place == (each.destination, each.metric, each.table, each.kind, each.mtu)
        and thing.via == each.via
        and [(hop.via, hop.weight) for hop in thing.nexthops]
        == [(hop.via, hop.weight) for hop in each.nexthops]
        and thing.dev in {None, each.dev}
        for each in found
    )


@pytest.mark.parametrize("thing", [*ADDRESSES, *ROUTES, *NEIGHBOURS, *RULES], ids=str)
async def test_added_ensured_and_removed(thing: Any) -> None:
    async with stack("10.0.0.1/24", "fd00::1/64") as ours:
        before = await all_of(ours, thing)
        assert not has(before, thing)
        await ours.add(thing)
        assert has(await all_of(ours, thing), thing)
        if getattr(thing, "lifetime", None) is None and not getattr(thing, "valid", 0):
            assert await ours.ensure(thing) is False
        await ours.remove(thing)
        assert await all_of(ours, thing) == before
        assert await ours.ensure(thing) is True
        assert has(await all_of(ours, thing), thing)


@pytest.mark.parametrize(
    "thing", [*ADDRESSES, *ROUTES, *NEIGHBOURS[:3]], ids=str
)  # fmt: skip
async def test_replaced(thing: Any) -> None:
    async with stack("10.0.0.1/24", "fd00::1/64") as ours:
        for _ in range(2):
            await ours.replace(thing)
            assert has(await all_of(ours, thing), thing)


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (
            Address("10.0.5.1/24", "vde0"),
            Address("10.0.5.1/24", "vde0", valid=500, preferred=400),
        ),
        (
            Address("fd00::5/64", "vde0", valid=500),
            Address("fd00::5/64", "vde0"),
        ),
        (
            Route("10.1.0.0/16", via="10.0.0.9"),
            Route("10.1.0.0/16", via="10.0.0.8", mtu=1400),
        ),
        (Route("10.1.0.0/16", via="10.0.0.9"), Route("10.1.0.0/16", kind="blackhole")),
        (Route("10.1.0.0/16", dev="vde0"), Route("10.1.0.0/16", via="10.0.0.8")),
        (
            Route("fd01::/64", via="fd00::9"),
            Route("fd01::/64", nexthops=[NextHop("fd00::8"), NextHop("fd00::9")]),
        ),
        (
            Route("fd01::/64", via="fd00::9", lifetime=900),
            Route("fd01::/64", via="fd00::9", lifetime=100),
        ),
        (
            Neighbour("10.0.0.9", HIS, dev="vde0", state="stale"),
            Neighbour("10.0.0.9", MAC, dev="vde0"),
        ),
        (
            Neighbour("10.0.0.9", HIS, dev="vde0", state="stale"),
            Neighbour("10.0.0.9", HIS, dev="vde0"),
        ),
    ],
    ids=str,
)  # fmt: skip
async def test_ensure_changes_what_differs(there: Any, wanted: Any) -> None:
    async with stack("10.0.0.1/24", "fd00::1/64") as ours:
        await ours.add(there)
        count = len(await all_of(ours, there))
        assert await ours.ensure(wanted) is True
        found = await all_of(ours, wanted)
        assert has(found, wanted)
        assert len(found) == count


async def test_what_is_not_said_is_not_looked_at() -> None:
    async with stack() as ours:
        route = Route("10.1.0.0/16", via="10.0.0.9", source="10.0.0.1", mtu=1400)
        await ours.add(route)
        assert await ours.ensure(Route("10.1.0.0/16", via="10.0.0.9")) is False
        assert await ours.ensure(Route("10.1.0.0/16", via="10.0.0.9", mtu=1)) is True
        one = Route("10.2.0.0/16", nexthops=[NextHop("10.0.0.9")])
        await ours.add(one)
        assert await ours.ensure(one) is False
        await ours.ensure(Rule(9, fwmark=1))
        assert await ours.ensure(Rule(9, fwmark=1)) is False
        assert len([rule for rule in await ours.rules() if rule.table == 9]) == 2
        await ours.remove(Rule(9, fwmark=1))
        assert all(rule.table != 9 for rule in await ours.rules())


async def test_many_in_one_call() -> None:
    async with stack() as ours:
        before = await ours.routes(None)
        many = [Address(f"10.9.{n // 250}.{n % 250}/32", "vde0") for n in range(500)]
        await ours.add(*many, Route("10.1.0.0/16", via="10.0.0.9", source="10.9.0.7"))
        assert set(many) <= set(await ours.addresses("vde0"))
        await ours.remove(*many)  # and so the route
        assert await ours.routes(None) == before
        await ours.add()


async def test_the_first_one_that_is_refused_is_the_last() -> None:
    async with stack() as ours:
        one, two, three = (Address(f"10.9.0.{n}/32", "vde0") for n in (1, 2, 3))
        with pytest.raises(
            errors.NetlinkError, match=r"add 10\.9\.0\.1/32 dev vde0: File"
        ):
            await ours.add(one, two, one, three)
        assert {one, two} <= set(await ours.addresses("vde0"))
        assert three not in await ours.addresses("vde0")
        # Where there is no such interface, nothing is begun.
        with pytest.raises(errors.NetlinkError, match="dev nope: No such device"):
            await ours.add(three, Address("10.9.0.4/32", "nope"))
        assert three not in await ours.addresses("vde0")


async def test_what_cannot_be_ensured() -> None:
    async with stack("fd00::1/64") as ours:
        with pytest.raises(errors.NetlinkError, match="File exists") as caught:
            await ours.ensure(Address("fd00::1/48", "vde0"))
        assert caught.value.errno == errno.EEXIST
        with pytest.raises(errors.ConfigurationError, match="rules have no names"):
            await ours.replace(Rule(5, fwmark=5))


async def test_of_both_families() -> None:
    async with stack("10.0.0.1/24", "fd00::1/64") as ours:
        assert {each.address.version for each in await ours.addresses("vde0")} == {4, 6}
        assert {each.destination.version for each in await ours.routes()} == {4, 6}
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            found = await ours.routes(None, family)
            assert {each.destination.version for each in found} == {version}
        assert await ours.routes(12345) == []
        with pytest.raises(errors.ConfigurationError, match="family=99"):
            await ours.routes(family=99)


async def test_in_fewer_words() -> None:
    async with stack() as ours:
        await ours.add_address("10.0.5.1/32", dev="vde0", peer="10.0.6.1", valid=500)
        [found] = [each for each in await ours.addresses("vde0") if each.peer]
        assert found.valid in {499, 500}
        await ours.del_address("10.0.5.1/32", dev="vde0", peer="10.0.6.1")
        await ours.add_route("10.1.0.0/16", via="10.0.0.9", metric=5, table=7, mtu=1400)
        [route] = await ours.routes(7)
        assert route == Route(
            "10.1.0.0/16", via="10.0.0.9", dev="vde0", metric=5, table=7, mtu=1400
        )
        await ours.del_route("10.1.0.0/16", metric=5, table=7)
        assert await ours.routes(7) == []
        interface = ours.interfaces["vde0"]
        await interface.add_address("fd00::5/64")
        assert Address("fd00::5/64", "vde0") in await interface.addresses()
        await interface.del_address("fd00::5/64")
        assert [str(each.address) for each in await interface.addresses()] == [
            "10.0.0.1/24",
            "fe80::ff:fe00:1/64",
        ]


# Refused


@pytest.mark.parametrize(
    ("command", "thing", "code", "text"),
    [
        ("add", Address("10.0.0.1/24", "vde0"), errno.EEXIST,
         "ip address add 10.0.0.1/24 dev vde0: File exists"),
        ("add", Address("10.0.0.2/24", "nope"), errno.ENODEV,
         "ip address add 10.0.0.2/24 dev nope: No such device"),
        ("remove", Address("10.0.0.2/24", "vde0"), errno.EADDRNOTAVAIL,
         "ip address del 10.0.0.2/24 dev vde0: Cannot assign requested address"),
        ("add", Route("10.1.0.0/16", via="192.168.1.1"), errno.ENETUNREACH,
         "ip route add 10.1.0.0/16 via 192.168.1.1: Network is unreachable (Nexthop"),
        ("remove", Route("10.1.0.0/16", via="10.0.0.9"), errno.ESRCH,
         "ip route del 10.1.0.0/16 via 10.0.0.9: No such process"),
        ("remove", Neighbour("10.0.0.9", dev="vde0"), errno.ENOENT,
         "ip neighbour del 10.0.0.9 dev vde0 nud permanent: No such file or directory"),
        ("remove", Rule(9, fwmark=1, version=4), errno.ENOENT,
         "ip rule del from all fwmark 0x1/0xffffffff lookup 9: No such file or"),
        ("add", Route("10.1.0.0/16", dev="nope"), errno.ENODEV,
         "ip route add 10.1.0.0/16 dev nope: No such device"),
    ],
)  # fmt: skip
async def test_refused(command: str, thing: Any, code: int, text: str) -> None:
    """What was asked for, in iproute2's words, and the kernel's own."""
    async with stack() as ours:
        with pytest.raises(errors.NetlinkError) as caught:
            await getattr(ours, command)(thing)
        assert caught.value.errno == code
        assert text.partition(" (")[0] in str(caught.value)
        assert caught.value.request == text.partition(": ")[0]
        if "(" in text:  # what kernels say differs from one to the next
            assert str(caught.value).endswith(")")


async def test_dumps_of_what_is_not_there() -> None:
    async with stack() as ours:
        for dump in (ours.addresses, ours.neighbours, ours.qdiscs):
            with pytest.raises(errors.NetlinkError, match="dev nope: No such device"):
                await dump("nope")


async def test_pyroute2s_errors_have_the_kernels_words() -> None:
    async with stack() as ours:
        with pytest.raises(errors.NetlinkError, match=r"nonsense.*\(.+\)"):
            await ours.add_qdisc("vde0", "nonsense")


# Everywhere


@pytest.mark.parametrize("where", ["thread", "attached"])
async def test_where_stacks_live(where: str) -> None:
    async with stack(pump_thread=where == "thread") as owner:
        if where == "attached":
            async with aioioth.Stack.attach(owner.share()) as ours:
                await use(ours)
        else:
            await use(owner)
            with pytest.raises(errors.ConfigurationError, match="attach to it"):
                owner.netlink  # noqa: B018


async def use(ours: aioioth.Stack) -> None:
    route = Route("10.1.0.0/16", via="10.0.0.9")
    await ours.add(route)
    assert has(await ours.routes(), route)
    assert await ours.ensure(route) is False
    await ours.add_link("v0", "veth", peer="v1", up=True)
    assert {"lo", "vde0", "v0", "v1"} == {each.name for each in await ours.links()}
    await ours.add_qdisc("v0", "tbf", rate="1mbit", latency="50ms", burst=10000)
    assert [each.kind for each in await ours.qdiscs("v0")] == ["tbf"]
    await ours.set_forwarding(True)
    assert await ours.sysctl("net.ipv4.ip_forward") == "1"
    interface = ours.interfaces["vde0"]
    await interface.down()
    await interface.up()
    await interface.wait_carrier(20)
    await ours.wait_ready(20)


async def test_the_hosts_own_can_be_read() -> None:
    async with aioioth.Stack(kind="kernel") as host:
        assert (await host.links())[0].name == "lo"
        assert await host.addresses("lo") is not None
        assert await host.routes() is not None
        assert {rule.table for rule in await host.rules()} >= {254, 255}
        assert await host.neighbours() == []
        assert await host.sysctl("net.ipv4.ip_forward") in {"0", "1"}
        await host.wait_ready(20)


# Sysctls


async def test_sysctls() -> None:
    async with stack() as ours, stack() as other:
        assert await ours.sysctl("net.ipv4.ip_local_port_range") == "32768\t60999"
        assert await ours.sysctl("net.ipv4.ip_forward", 1) == "1"
        assert await ours.sysctl("net/ipv4/ip_forward") == "1"
        assert await other.sysctl("net.ipv4.ip_forward") == "0"
        for on in True, False:
            await ours.set_forwarding(on)
            for name in "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding":
                assert await ours.sysctl(name) == str(int(on))
        with pytest.raises(FileNotFoundError, match="sysctl net/ipv4/nope"):
            await ours.sysctl("net.ipv4.nope")
        with pytest.raises(OSError, match="Invalid argument"):
            await ours.sysctl("net.ipv4.ip_forward", "many")
        for name in "kernel.hostname", "net.x\ny", "net/../kernel/hostname":
            with pytest.raises(errors.ConfigurationError, match="no sysctl of a stack"):
                await ours.sysctl(name)
        with pytest.raises(errors.ConfigurationError, match="one line"):
            await ours.sysctl("net.ipv4.ip_forward", "1\nnet/ipv4/x=2")


# Queueing disciplines


async def test_qdiscs() -> None:
    async with stack() as ours:
        await ours.add_qdisc("vde0", "tbf", rate="1mbit", latency="50ms", burst=10000)
        [found] = await ours.qdiscs("vde0")
        assert (found.kind, found.dev, found.parent) == ("tbf", "vde0", "root")
        assert found.options
        with pytest.raises(errors.NetlinkError, match="tc qdisc add dev vde0 tbf"):
            await ours.add_qdisc(
                "vde0", "tbf", rate="1mbit", latency="50ms", burst=10000
            )
        with pytest.raises(errors.ConfigurationError, match="rate"):
            await ours.add_qdisc("vde0", "tbf")
        await ours.replace_qdisc("vde0", "htb", handle="1:", default=0x10)
        assert [each.kind for each in await ours.qdiscs("vde0")] == ["htb"]
        await ours.del_qdisc("vde0")
        assert [each.kind for each in await ours.qdiscs("vde0")] != ["htb"]
        with pytest.raises(errors.NetlinkError, match="tc qdisc del dev vde0 root"):
            await ours.del_qdisc("vde0")


async def test_classes_have_places() -> None:
    async with stack() as ours:
        await ours.add_qdisc("vde0", "htb", handle="1:", default=0x10)
        [found] = await ours.qdiscs("vde0")
        assert (found.handle, found.parent) == ("1:", "root")
        await ours.netlink.tc(
            "add-class",
            "htb",
            index=ours.interfaces["vde0"].index,
            handle="1:10",
            parent="1:0",
            rate="1mbit",
        )
        shape = {"rate": "1mbit", "latency": "50ms", "burst": 10000}
        await ours.add_qdisc("vde0", "tbf", parent="1:10", handle="20:", **shape)
        inner = [each for each in await ours.qdiscs("vde0") if each.kind == "tbf"]
        assert [str(each) for each in inner] == ["tbf 20: dev vde0 parent 1:10"]
        await ours.del_qdisc("vde0", "1:10")
        left = await ours.qdiscs("vde0")
        assert [each for each in left if each.kind == "tbf"] == []


# Many at once


async def test_thousands_while_they_change() -> None:
    """A dump that is interrupted starts again; nothing waits for long."""
    async with stack() as ours:

        async def churn(prefix: int) -> None:
            for number in range(200):
                route = Route(f"10.{prefix}.{number}.0/24", via="10.0.0.9")
                await ours.add(route)

        await asyncio.gather(*(churn(prefix) for prefix in range(1, 6)))
        changing = asyncio.create_task(churn(9))
        while not changing.done():
            found = [each for each in await ours.routes() if each.via is not None]
            assert len(found) >= 1000
        assert len(await ours.routes()) == 1201


async def test_asking_leaves_no_sockets_to_be_seen() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        asking = [asyncio.create_task(stack.routes(None)) for _ in range(2)]
        while not all(task.done() for task in asking):
            assert stack.sockets() == []
            await asyncio.sleep(0)
        for task in asking:
            assert await task
        stack.interfaces["vde0"].mtu  # noqa: B018  (asks through a spare socket)
        assert stack.sockets() == []


@pytest.mark.parametrize("kind", ["broadcast", "anycast", "multicast"])
@pytest.mark.parametrize("network", ["10.5.0.0/16", "fd05::/64"])
async def test_kinds_that_ip_gives_a_scope_of_their_own(
    kind: str, network: str
) -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        route = Route(network, dev="vde0", kind=kind)
        await stack.add(route)
        assert route in await stack.routes()
        assert not await stack.ensure(route)
        await stack.remove(route)


# What is no value and no name. The number is too long for int().
NONSENSE: tuple[Any, ...] = (None, 5, 1.5, b"x", [], {}, "", "\0", "9" * 5000, object())


@pytest.mark.parametrize(
    "call",
    [
        lambda s, bad: s.add(bad),
        lambda s, bad: s.ensure(bad),
        lambda s, bad: s.remove(bad),
        lambda s, bad: s.routes("x" if bad in (None, 5) else bad),
        lambda s, bad: s.routes(254, bad or "x"),
        lambda s, bad: s.addresses(bad or 5),
        lambda s, bad: s.neighbours(bad or 5),
        lambda s, bad: s.add_qdisc(bad, "sfq"),
        lambda s, bad: s.add_qdisc("vde0", "tbf", rate=bad),
        lambda s, bad: s.del_qdisc("vde0", bad),
        lambda s, bad: s.add_link(bad, "bridge"),
        lambda s, bad: s.add_link("b0", bad),
        lambda s, bad: s.add_link("b0", "bridge", master=bad or 5),
        lambda s, bad: s.add_link("b0", "veth", peer=bad),
        lambda s, bad: s.add_link("b0", "macvlan", link="vde0", mode=bad),
        lambda s, bad: s.set_link(bad, up=True),
        lambda s, bad: s.set_link("vde0", name=bad or 5),
        lambda s, bad: s.del_link(bad),
        lambda s, bad: s.sysctl(bad),
    ],
)
async def test_nonsense_is_refused_in_plain_words(call: Any) -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        for bad in NONSENSE:
            with pytest.raises((errors.ConfigurationError, errors.NetlinkError)):
                await call(stack, bad)
