"""What `ip` shows is what was asked for, and the other way. Needs iproute2."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import errors
from aioioth.iproute import Address, Neighbour, NextHop, Route, Rule
from tests.interop.conftest import need

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = "02:00:00:00:00:01"
HIS = "02:00:00:00:00:09"


@pytest.fixture(autouse=True)
def _needed() -> None:
    need("ip")


def stack() -> aioioth.Stack:
    return aioioth.Stack("null://", ip=["10.0.0.1/24", "fd00::1/64"], mac=MAC)


async def ip(stack: aioioth.Stack, command: str) -> None:
    """Do ``ip COMMAND`` in a stack."""
    assert await stack.run(f"{shutil.which('ip')} {command}") == 0, command


async def show(stack: aioioth.Stack, command: str) -> list[dict[str, Any]]:
    """Return what ``ip -j -d COMMAND`` prints."""
    process = await stack.create_subprocess_exec(
        "ip", "-j", "-d", *command.split(), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    found: list[dict[str, Any]] = json.loads(output or b"[]")
    return found


def added(before: list[Any], after: list[Any]) -> Any:
    """Return the one thing that is there now and was not."""
    new = [each for each in after if each not in before]
    [found] = new
    return found


# Addresses


def shown_addresses(links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"dev": link["ifname"], **info}
        for link in links
        for info in link.get("addr_info", [])
    ]


ADDRESSES: list[tuple[Address, str, dict[str, Any]]] = [
    (
        Address("10.0.5.1/24", "vde0"),
        "address add 10.0.5.1/24 broadcast + dev vde0",
        {"local": "10.0.5.1", "prefixlen": 24, "broadcast": "10.0.5.255",
         "scope": "global", "dev": "vde0"},
    ),
    (
        Address("10.0.5.1/32", "vde0", peer="10.0.6.1"),
        "address add 10.0.5.1 peer 10.0.6.1/32 dev vde0",
        {"local": "10.0.5.1", "address": "10.0.6.1", "prefixlen": 32},
    ),
    (
        Address("10.0.5.1/24", "vde0", valid=500, preferred=400, noprefixroute=True),
        "address add 10.0.5.1/24 broadcast + dev vde0 noprefixroute valid_lft 500 \
        preferred_lft 400",
        {"local": "10.0.5.1", "dynamic": True, "noprefixroute": True},
    ),
    (
        Address("127.0.0.2/8", "lo"),
        "address add 127.0.0.2/8 broadcast + dev lo",
        {"local": "127.0.0.2", "scope": "host", "dev": "lo"},
    ),
    (
        Address("fd00::5/64", "vde0"),
        "address add fd00::5/64 dev vde0 nodad",
        {"local": "fd00::5", "prefixlen": 64, "nodad": True, "scope": "global"},
    ),
    (
        Address("fd00::5/128", "vde0", peer="fd00::6"),
        "address add fd00::5 peer fd00::6/128 dev vde0 nodad",
        {"local": "fd00::5", "address": "fd00::6", "prefixlen": 128},
    ),
    (
        Address("fd00::5/64", "vde0", valid=500, preferred=0),
        "address add fd00::5/64 dev vde0 nodad valid_lft 500 preferred_lft 0",
        {"local": "fd00::5", "deprecated": True, "dynamic": True},
    ),
    (
        Address("fe80::5/64", "vde0"),
        "address add fe80::5/64 dev vde0 nodad",
        {"local": "fe80::5", "scope": "link"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("address", "command", "expected"), ADDRESSES, ids=str)
async def test_addresses(
    address: Address, command: str, expected: dict[str, Any]
) -> None:
    async def shown() -> list[dict[str, Any]]:
        return shown_addresses(await show(ours, "address show"))

    async with stack() as ours:
        before = await shown()
        await ours.add(address)
        by_us = added(before, await shown())
        assert by_us.items() >= expected.items()
        assert abs(by_us["valid_life_time"] - (address.valid or 4294967295)) < 60
        await ours.remove(address)

        read_before = await ours.addresses()
        await ip(ours, command)
        by_ip = added(before, await shown())
        for told in by_us, by_ip:  # they count down
            told.pop("valid_life_time")
            told.pop("preferred_life_time")
        assert by_us == by_ip
        read = added(read_before, await ours.addresses())
        assert read == address
        assert abs((read.valid or 0) - (address.valid or 0)) < 60
        assert (read.nodad, read.noprefixroute, read.deprecated) == (
            address.nodad and address.address.version == 6,
            address.noprefixroute,
            address.preferred == 0,
        )


# Routes

ROUTES: list[tuple[Route, str, str]] = [
    (Route("10.1.0.0/16", via="10.0.0.9", dev="vde0"), "",
     "route add 10.1.0.0/16 via 10.0.0.9"),
    (Route("10.1.0.0/16", dev="vde0", source="10.0.0.1"), "",
     "route add 10.1.0.0/16 dev vde0 src 10.0.0.1"),
    (Route("default", via="10.0.0.9", dev="vde0", metric=7, mtu=1400), "table 300",
     "route add default via 10.0.0.9 metric 7 mtu 1400 table 300"),
    (Route("10.1.0.0/16", via="192.168.7.7", dev="vde0", onlink=True), "",
     "route add 10.1.0.0/16 via 192.168.7.7 dev vde0 onlink"),
    (Route("10.1.0.0/16", via="fe80::9", dev="vde0"), "",
     "route add 10.1.0.0/16 via inet6 fe80::9 dev vde0"),
    (Route("10.1.0.0/16", kind="blackhole"), "", "route add blackhole 10.1.0.0/16"),
    (Route("10.1.0.0/16", kind="unreachable", metric=9), "table 5",
     "route add unreachable 10.1.0.0/16 metric 9 table 5"),
    (Route("10.1.0.0/16", kind="local", dev="lo", scope="host"), "table 5",
     "route add local 10.1.0.0/16 dev lo table 5"),
    (
        Route("10.1.0.0/16", nexthops=[NextHop("10.0.0.8", "vde0"),
                                       NextHop("10.0.0.9", "vde0", 5)]), "",
        "route add 10.1.0.0/16 nexthop via 10.0.0.8 nexthop via 10.0.0.9 weight 5",
    ),
    (Route("default", via="fe80::9", dev="vde0", protocol="static"), "",
     "-6 route add default via fe80::9 dev vde0 protocol static"),
    (Route("fd01::/64", via="fd00::9", dev="vde0", metric=7), "table 70000",
     "-6 route add fd01::/64 via fd00::9 metric 7 table 70000"),
    (
        Route("fd01::/64", nexthops=[NextHop("fd00::8", "vde0"),
                                     NextHop("fe80::9", "vde0", 5)]), "",
        "-6 route add fd01::/64 nexthop via fd00::8 \
        nexthop via fe80::9 dev vde0 weight 5",
    ),
    (Route("fd01::/64", dev="lo", kind="prohibit"), "",
     "-6 route add prohibit fd01::/64"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "where", "command"), ROUTES, ids=str)
async def test_routes(route: Route, where: str, command: str) -> None:
    version = route.destination.version
    table = int(where.removeprefix("table ") or 254)
    told = Route(**{**vars(route), "table": table})

    async def shown() -> list[dict[str, Any]]:
        return await show(ours, f"-{version} route show table all")

    async with stack() as ours:
        before, read_before = await shown(), await ours.routes(None)
        await ours.add(told)
        by_us = added(before, await shown())
        await ours.remove(told)
        assert await shown() == before

        await ip(ours, command)
        assert added(before, await shown()) == by_us
        assert added(read_before, await ours.routes(None)) == told
        await ours.remove(told)
        assert await shown() == before


async def test_a_route_for_a_while() -> None:
    async with stack() as ours:
        await ours.add(Route("fd01::/64", via="fd00::9", lifetime=900))
        [found] = await show(ours, "-6 route show fd01::/64")
        assert 800 < found["expires"] <= 900
        await ip(ours, "-6 route add fd02::/64 via fd00::9 expires 700")
        read = {str(each.destination): each.lifetime for each in await ours.routes()}
        assert 600 < (read["fd02::/64"] or 0) <= 700
        assert read["fd00::/64"] is None


# Neighbours and rules

NEIGHBOURS: list[tuple[Neighbour, str]] = [
    (Neighbour("10.0.0.9", HIS, dev="vde0"),
     f"neighbour add 10.0.0.9 lladdr {HIS} dev vde0"),
    (Neighbour("fd00::9", HIS, dev="vde0", router=True),
     f"neighbour add fd00::9 lladdr {HIS} dev vde0 router"),
    (Neighbour("10.0.0.9", HIS, dev="vde0", state="stale"),
     f"neighbour add 10.0.0.9 lladdr {HIS} dev vde0 nud stale"),
    (Neighbour("10.0.0.77", dev="vde0", proxy=True),
     "neighbour add proxy 10.0.0.77 dev vde0"),
    (Neighbour("fd00::77", dev="vde0", proxy=True),
     "neighbour add proxy fd00::77 dev vde0"),
]  # fmt: skip


@pytest.mark.parametrize(("neighbour", "command"), NEIGHBOURS, ids=str)
async def test_neighbours(neighbour: Neighbour, command: str) -> None:
    listing = "neighbour show proxy" if neighbour.proxy else "neighbour show"

    async with stack() as ours:
        before = await ours.neighbours()
        assert await show(ours, listing) == []
        await ours.add(neighbour)
        [by_us] = await show(ours, listing)
        await ours.remove(neighbour)
        # Unused ones may stay for a moment, as failed.
        await ip(ours, command.replace("add", "replace", 1))
        [by_ip] = await show(ours, listing)
        assert by_us == by_ip
        read = added(before, await ours.neighbours("vde0"))
        assert read == neighbour
        if not neighbour.proxy:
            assert (read.state, read.router) == (neighbour.state, neighbour.router)


RULES: list[tuple[Rule, str]] = [
    (Rule(300, source="10.0.0.0/8", priority=5),
     "rule add from 10.0.0.0/8 table 300 priority 5"),
    (Rule(7, destination="fd00::/8", iif="vde0", priority=5),
     "-6 rule add to fd00::/8 iif vde0 table 7 priority 5"),
    (Rule(7, fwmark=5, fwmask=7, priority=6, version=6),
     "-6 rule add fwmark 5/7 table 7 priority 6"),
    (Rule(7, fwmark=5, oif="vde0", priority=6, version=4),
     "rule add fwmark 5 oif vde0 table 7 priority 6"),
    (Rule(action="prohibit", source="10.9.0.0/16", priority=7),
     "rule add from 10.9.0.0/16 prohibit priority 7"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "command"), RULES, ids=str)
async def test_rules(rule: Rule, command: str) -> None:
    async with stack() as ours:
        listing = f"-{rule.version} rule show"
        before, read_before = await show(ours, listing), await ours.rules()
        await ours.add(rule)
        by_us = added(before, await show(ours, listing))
        await ours.remove(rule)
        assert await show(ours, listing) == before
        await ip(ours, command)
        by_ip = added(before, await show(ours, listing))
        # "ip rule" says who has added a rule; the kernel needs no such thing.
        for told in by_us, by_ip:
            told.pop("protocol", None)
        assert by_us == by_ip
        assert added(read_before, await ours.rules()) == rule


# Links


async def test_links() -> None:
    async with stack() as ours:
        await ours.add_link("br0", "bridge", up=True)
        await ours.add_link("left", "veth", peer="right", mtu=1400, master="br0")
        await ours.add_link("mac0", "macvlan", link="vde0", mode="bridge")
        shown = {each["ifname"]: each for each in await show(ours, "link show")}
        read = {each.name: each for each in await ours.links()}
        assert list(read) == list(shown)
        for name, link in read.items():
            told = shown[name]
            assert link.index == told["ifindex"]
            assert link.mtu == told["mtu"]
            assert link.mac == told["address"]
            assert link.up == ("UP" in told["flags"])
            assert link.carrier == ("LOWER_UP" in told["flags"])
            assert link.master == told.get("master")
            assert link.parent == told.get("link")
            assert link.kind == told.get("linkinfo", {}).get("info_kind", "")
        assert shown["mac0"]["linkinfo"]["info_data"]["mode"] == "bridge"
        assert shown["left"]["linkinfo"]["info_slave_kind"] == "bridge"


@pytest.mark.parametrize(
    ("dump", "command"),
    [
        (lambda s: s.addresses(), "address show"),
        (lambda s: s.routes(None), "route show table all"),
        (lambda s: s.rules(), "rule show"),
    ],
)
async def test_as_many_as_ip_shows(dump: Callable[..., Any], command: str) -> None:
    async with stack() as ours:
        found = await dump(ours)
        if command.startswith("address"):
            assert len(found) == len(shown_addresses(await show(ours, command)))
            return
        both = [*await show(ours, f"-4 {command}"), *await show(ours, f"-6 {command}")]
        assert len(found) == len(both)


async def test_what_only_ip_can_say_is_read_all_the_same() -> None:
    """Next-hop objects, and rules that have more conditions than ours."""
    commands = [
        "nexthop add id 5 via 10.0.0.9 dev vde0",
        "nexthop add id 6 via 10.0.0.8 dev vde0",
        "nexthop add id 7 group 5/6",
        "route add 10.66.0.0/16 nhid 5",
        "route add 10.67.0.0/16 nhid 7",
        "rule add not from 10.9.0.0/16 lookup 77 priority 900",
        "rule add ipproto tcp dport 80 lookup 77 priority 901",
        "rule add goto 32766 priority 902",
        "rule add from 10.9.0.0/16 lookup 77 priority 903",
    ]
    async with stack() as there:
        for command in commands:
            await ip(there, command)
        routes = await there.routes()
        assert Route("10.66.0.0/16", via="10.0.0.9", dev="vde0") in routes
        hops = [NextHop(f"10.0.0.{host}", "vde0") for host in (9, 8)]
        assert Route("10.67.0.0/16", nexthops=hops) in routes
        rules = {rule.priority: rule for rule in await there.rules()}
        assert [rules[each].partial for each in range(900, 904)] == [True] * 3 + [False]
        assert str(rules[900]).endswith(" ...")
        # The opposite of what is there, but the kernel takes both for the same.
        with pytest.raises(errors.NetlinkError, match="exists"):
            await there.ensure(Rule(77, source="10.9.0.0/16", priority=900))
        with pytest.raises(errors.ConfigurationError, match="not all of it is known"):
            await there.remove(rules[901])
