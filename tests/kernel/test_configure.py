"""A stack configures itself: by hand, by asking its network, and back again."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth.configuration import Achieved
from aioioth.errors import (
    ClosedError,
    ConfigStringError,
    ConfigurationError,
    NetlinkError,
    NotConfiguredError,
)
from aioioth.events import Configured, LinkChanged, Unconfigured
from aioioth.hashes import eui64_address, hash_address, hash_mac
from aioioth.servers.dhcp4 import Dhcp4Server
from aioioth.servers.dhcp6 import Dhcp6Server
from aioioth.servers.ra import RouterAdvertiser

if TYPE_CHECKING:
    from pathlib import Path

    from aioioth import Stack

ROUTER = ("10.0.0.1/24", "fd00::1/64")
NAME = "web.lab"


def router(**options: object) -> Stack:
    return aioioth.Stack("memory://lan", ip=ROUTER, name="router", **options)  # type: ignore[arg-type]


async def addresses(stack: Stack, dev: str = "vde0") -> set[str]:
    """Return the addresses of an interface, but for the link-local ones."""
    found = [each.address for each in await stack.addresses() if each.dev == dev]
    return {str(each) for each in found if not each.is_link_local}


async def defaults(stack: Stack) -> list[tuple[str, int]]:
    """Return default routers and their metrics, the best one first."""
    found = [each for each in await stack.routes() if each.is_default]
    return sorted(((str(r.via), r.metric) for r in found), key=lambda pair: pair[1])


# By hand


async def test_by_hand_and_back() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24", dns="10.0.0.2") as stack:
        given = "ip=10.1.0.1/16,ip=fd00::1,gw=10.0.0.254,dns=fd00::53,domain=lab"
        assert await stack.configure(given) == Achieved.STATIC
        assert await addresses(stack) == {"10.0.0.1/24", "10.1.0.1/16", "fd00::1/64"}
        assert await defaults(stack) == [("10.0.0.254", 0)]
        assert stack.resolv_conf() == (
            "nameserver 10.0.0.2\nnameserver fd00::53\nsearch lab\n"
        )
        assert stack.achieved == {"vde0": Achieved.STATIC}

        taken = "-ip=10.1.0.1,-gw=10.0.0.254,-dns=fd00::53"
        assert await stack.configure(taken) == Achieved.NOTHING
        assert await addresses(stack) == {"10.0.0.1/24", "fd00::1/64"}
        assert await defaults(stack) == []
        assert stack.resolv_conf() == "nameserver 10.0.0.2\nsearch lab\n"

        assert await stack.configure(static=False) == Achieved.NOTHING
        assert await addresses(stack) == set()
        assert stack.resolv_conf() == "nameserver 10.0.0.2\n"
        assert stack.achieved == {"vde0": Achieved.NOTHING}


async def test_keywords_do_the_same() -> None:
    async with aioioth.Stack("null://") as stack:
        await stack.configure(ip=["10.0.0.1", "fd00::1"], gw="10.0.0.9", domain="lab")
        assert await addresses(stack) == {"10.0.0.1/24", "fd00::1/64"}
        await stack.configure(drop_ip="10.0.0.1", drop_gw="10.0.0.9", drop_domain="lab")
        assert await addresses(stack) == {"fd00::1/64"}
        assert stack.resolv_conf() == ""


async def test_twice_is_once() -> None:
    async with aioioth.Stack("null://") as stack:
        for _ in range(2):
            await stack.configure("ip=10.0.0.1,gw=10.0.0.9")
        assert await addresses(stack) == {"10.0.0.1/24"}
        assert await defaults(stack) == [("10.0.0.9", 0)]
        await stack.configure("-ip=10.0.0.1,-gw=10.0.0.9")
        assert await addresses(stack) == set()


async def test_what_the_stack_was_given_can_be_taken_away() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24", gw="10.0.0.9") as stack:
        assert stack.achieved == {"vde0": Achieved.STATIC}
        await stack.configure("-static")
        assert await addresses(stack) == set()
        assert await defaults(stack) == []


async def test_which_interface() -> None:
    async with aioioth.Stack("null://", "eth1:null://") as stack:
        await stack.configure("ip=10.0.0.1")
        await stack.configure("iface=eth1,ip=10.1.0.1")
        index = stack.interfaces["eth1"].index
        await stack.configure(f"ifindex={index},ip=10.2.0.1")
        assert await addresses(stack) == {"10.0.0.1/24"}
        assert await addresses(stack, "eth1") == {"10.1.0.1/24", "10.2.0.1/24"}
        for text in ("iface=eth2,eth", "ifindex=77,eth"):
            with pytest.raises(ConfigurationError, match=r"there are: vde0, eth1"):
                await stack.configure(text)


async def test_what_cannot_be() -> None:
    async with aioioth.Stack("null://") as stack:
        with pytest.raises(ConfigStringError, match="no tag is called 'ethh'"):
            await stack.configure("ethh")
        with pytest.raises(ConfigurationError, match="either a text, or keywords"):
            await stack.configure("eth", dhcp=True)
        with pytest.raises(ConfigurationError, match="timeout=-1: expected seconds"):
            await stack.configure("dhcp", timeout=-1)
        with pytest.raises(ConfigurationError, match="from_config"):
            await stack.configure("vnl=null://,eth")
        with pytest.raises(NetlinkError, match="ip route"):
            await stack.configure("gw=10.9.9.9")
        # What was refused does not stand in the way of what comes later.
        assert await stack.configure("-static,ip=10.0.0.1") == Achieved.STATIC
    with pytest.raises(ClosedError):
        await stack.configure("eth")
    async with aioioth.Stack() as lonely:
        with pytest.raises(ConfigurationError, match="give it a VNL"):
            await lonely.configure("ip=10.0.0.1")


# The interface


async def test_an_interface_gets_its_mac_address_and_comes_up() -> None:
    async with aioioth.Stack("null://", ip="fd00::1/64") as stack:
        mac = "02:00:00:00:00:07"
        assert await stack.configure(f"eth,mac={mac}") == Achieved.ETH
        assert stack.interfaces["vde0"].mac == mac
        local = f"{eui64_address(mac, 'fe80::')}/64"
        found = {str(each.address) for each in await stack.addresses("vde0")}
        assert found == {"fd00::1/64", local}

        await stack.configure("-eth")
        [link] = [each for each in await stack.links() if each.name == "vde0"]
        assert not link.up
        await stack.configure("eth")
        [link] = [each for each in await stack.links() if each.name == "vde0"]
        assert link.up
        assert link.mac == mac


async def test_a_mac_address_made_of_a_name() -> None:
    async with aioioth.Stack("null://") as stack:
        await stack.configure(f"eth,fqdn={NAME}")
        assert stack.interfaces["vde0"].mac == hash_mac(NAME)
    async with aioioth.Stack("null://", fqdn=NAME) as stack:
        assert stack.interfaces["vde0"].mac == hash_mac(NAME)


async def test_routes_given_by_hand_come_back_with_the_interface() -> None:
    async with aioioth.Stack("null://", ip="10.0.0.1/24", gw="10.0.0.9") as stack:
        await stack.configure("-eth")
        assert await defaults(stack) == []
        await stack.configure("eth")
        assert await defaults(stack) == [("10.0.0.9", 0)]


# From the network


async def test_dhcp_and_back() -> None:
    async with router() as server_stack:
        server = Dhcp4Server(
            server_stack, dns="10.0.0.1", domain="lab", mtu=1400, lease_time=600
        )
        async with server, aioioth.Stack("memory://lan", fqdn=NAME) as stack:
            events = stack.events(Configured, Unconfigured)
            assert await stack.configure("dhcp") == Achieved.DHCP
            [lease] = server.leases
            assert await addresses(stack) == {f"{lease.address}/24"}
            assert (lease.mac, lease.name) == (hash_mac(NAME), NAME)
            assert await defaults(stack) == [("10.0.0.1", 2000)]
            assert stack.resolv_conf() == "nameserver 10.0.0.1\nsearch lab\n"
            assert stack.interfaces["vde0"].mtu == 1400
            assert await anext(events) == Configured("vde0", "dhcp")

            # By hand wins, and what is by hand stays.
            await stack.configure("ip=10.0.0.77,gw=10.0.0.9,dns=10.0.0.3")
            assert await defaults(stack) == [("10.0.0.9", 0), ("10.0.0.1", 2000)]
            assert await anext(events) == Configured("vde0", "static")
            assert await stack.configure("-dhcp") == Achieved.NOTHING
            assert await anext(events) == Unconfigured("vde0", "dhcp", "undone")
            assert await addresses(stack) == {"10.0.0.77/24"}
            assert await defaults(stack) == [("10.0.0.9", 0)]
            assert stack.resolv_conf() == "nameserver 10.0.0.3\n"
            assert stack.interfaces["vde0"].mtu == 1500


async def test_a_closed_stack_gives_its_lease_back() -> None:
    ended = asyncio.Event()
    async with router() as there:
        server = Dhcp4Server(there, on_end=lambda _: ended.set())
        async with server:
            async with aioioth.Stack("memory://lan", dhcp=True) as stack:
                assert stack.achieved == {"vde0": Achieved.DHCP}
                assert len(server.leases) == 1
            await ended.wait()
            assert not server.leases


async def test_an_address_of_two_sources_stays_until_neither_says_so() -> None:
    async with router() as there, Dhcp4Server(there, pool="10.0.0.50-10.0.0.50"):
        async with aioioth.Stack("memory://lan", dhcp=True) as stack:
            await stack.configure("ip=10.0.0.50/24")
            await stack.configure("-dhcp")
            assert await addresses(stack) == {"10.0.0.50/24"}
            await stack.configure("-static")
            assert await addresses(stack) == set()


async def test_router_advertisements_and_back() -> None:
    async with router() as there:
        ra = RouterAdvertiser(there, dns="fd00::1", domain="lab", mtu=1400)
        async with ra, aioioth.Stack("memory://lan", fqdn=NAME, ra=True) as stack:
            expected = hash_address(NAME, "fd00::/64")
            assert await addresses(stack) == {f"{expected}/64"}
            [(via, metric)] = await defaults(stack)
            assert via.startswith("fe80::")
            assert metric == 2000
            assert stack.resolv_conf() == "nameserver fd00::1\nsearch lab\n"
            assert await stack.sysctl("net.ipv6.conf.vde0.mtu") == "1400"
            assert stack.interfaces["vde0"].mtu == 1500

            assert await stack.configure("-rd") == Achieved.NOTHING
            assert await addresses(stack) == set()
            assert await defaults(stack) == []
            assert await stack.sysctl("net.ipv6.conf.vde0.mtu") == "1500"
            # Without slaac, a router is a router and no more.
            assert await stack.configure("rd") == Achieved.RA
            assert await addresses(stack) == set()
            assert len(await defaults(stack)) == 1


async def test_a_network_for_others() -> None:
    async with router() as there:
        server = Dhcp6Server(there, prefixes="fd77::/48", delegated_length=56)
        async with server, aioioth.Stack("memory://lan") as stack:
            assert stack.prefixes() == ()
            wanted = stack.configure(dhcp6=True, prefix_length=56)
            assert await wanted == Achieved.DHCP6
            [prefix] = stack.prefixes("vde0")
            assert prefix.prefixlen == 56
            assert prefix.subnet_of(ipaddress.IPv6Network("fd77::/48"))
            assert len(server.leases) == 2  # and an address for itself
            await stack.configure("-dhcp6")
            assert stack.prefixes() == ()
            assert await addresses(stack) == set()


async def test_nobody_answers() -> None:
    async with aioioth.Stack("memory://lan") as stack:
        assert await stack.configure("eth,dhcp,rd", timeout=0.1) == Achieved.ETH
        assert stack.achieved == {"vde0": Achieved.ETH}
        # But they are asked all the time, and this one comes late.
        events = stack.events(Configured)
        async with router() as there, Dhcp4Server(there):
            assert await anext(events) == Configured("vde0", "dhcp")
            assert stack.achieved == {"vde0": Achieved.ETH | Achieved.DHCP}


async def test_a_stack_does_not_open_without_what_it_was_to_have() -> None:
    stack = aioioth.Stack("memory://lan", name="a", dhcp=True, ra=True, timeout=0.1)
    with pytest.raises(
        NotConfiguredError, match=r"'a': no answer within 0\.1 s"
    ) as told:
        await stack.open()
    assert told.value.sources == ("ra on vde0", "dhcp on vde0")
    with pytest.raises(NotConfiguredError):  # and can be tried again
        await stack.open()
    assert isinstance(told.value, TimeoutError)


async def test_a_stack_need_not_wait() -> None:
    async with router() as there:
        async with aioioth.Stack("memory://lan", dhcp=True, timeout=0) as stack:
            assert stack.achieved == {"vde0": Achieved.NOTHING}
            events = stack.events(Configured)
            async with Dhcp4Server(there):
                assert await anext(events) == Configured("vde0", "dhcp")


async def test_the_cable_is_out_for_a_while() -> None:
    """Who comes back asks whether his address is still his own."""
    leases: asyncio.Queue[str] = asyncio.Queue()
    async with router() as there:
        server = Dhcp4Server(
            there, on_lease=lambda lease: leases.put_nowait(str(lease.address))
        )
        async with server, aioioth.Stack("memory://lan", dhcp=True) as stack:
            address = await leases.get()
            await stack.interfaces["vde0"].set_carrier(False)
            await stack.interfaces["vde0"].set_carrier(True)
            assert await leases.get() == address
            assert await addresses(stack) == {f"{address}/24"}


@pytest.mark.parametrize("quickly", [True, False])
async def test_an_interface_is_set_down_and_up(quickly: bool) -> None:
    """The kernel forgets its addresses of IPv6, and all routes by way of it."""
    async with router() as there, RouterAdvertiser(there), Dhcp4Server(there):
        async with aioioth.Stack("memory://lan", dhcp=True, ra=True) as stack:
            before = await addresses(stack), await defaults(stack)
            assert len(before[0]) == len(before[1]) == 2
            everybody = stack.achieved
            interface = stack.interfaces["vde0"]
            lost = stack.events(LinkChanged)
            await interface.down()
            if not quickly:
                async for event in lost:
                    if isinstance(event, LinkChanged) and not event.link.up:
                        break
            await interface.up()
            async with asyncio.timeout(20):
                while (await addresses(stack), await defaults(stack)) != before:
                    await asyncio.sleep(0.02)
            assert stack.achieved == everybody


async def test_a_lease_that_somebody_has_taken_away() -> None:
    async with router() as there, Dhcp4Server(there):
        async with aioioth.Stack("memory://lan", dhcp=True) as stack:
            [address] = await addresses(stack)
            await stack.del_address(address, dev="vde0")
            async with asyncio.timeout(20):
                while await addresses(stack) != {address}:
                    await asyncio.sleep(0.02)


async def test_for_ever_is_longer_than_a_lease() -> None:
    """An address that DHCP gives, too, does not become one for a while."""
    async with router() as there, Dhcp4Server(there, pool="10.0.0.50-10.0.0.50"):
        async with aioioth.Stack("memory://lan", ip="10.0.0.50/24") as stack:

            async def valid() -> int | None:
                [found] = [a for a in await stack.addresses("vde0") if a.dev == "vde0"]
                return found.valid

            await stack.configure("dhcp")
            assert await valid() is None
            await stack.configure("-static")
            assert await valid() is not None


async def test_an_ipv6_address_of_two_sources() -> None:
    """The kernel has it once, whatever the prefix lengths are."""
    async with router() as there:
        server = Dhcp6Server(there, pool="fd00::50-fd00::50", lease_time=600)
        wanted = ipaddress.ip_address("fd00::50")
        async with server, aioioth.Stack("memory://lan") as stack:
            await stack.configure("ip=fd00::50/64,dhcp6")
            [found] = [a for a in await stack.addresses() if a.address.ip == wanted]
            assert (found.valid, found.address.network.prefixlen) == (None, 64)
            await stack.configure("-static")
            [found] = [a for a in await stack.addresses() if a.address.ip == wanted]
            assert found.valid is not None
            await stack.configure("-dhcp6")
            assert await addresses(stack) == set()


async def test_an_address_of_the_users_is_not_touched() -> None:
    async with router() as there, Dhcp4Server(there, pool="10.0.0.50-10.0.0.50"):
        async with aioioth.Stack("memory://lan") as stack:
            await stack.add_address("10.0.0.50/24", dev="vde0")
            assert await stack.configure("dhcp") == Achieved.DHCP
            [found] = [a for a in await stack.addresses() if "10.0.0.50" in str(a)]
            assert found.valid is None
            await stack.configure("-dhcp")
            assert await addresses(stack) == {"10.0.0.50/24"}


async def test_a_route_that_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    """An address without it is better than none."""
    async with router() as there, Dhcp4Server(there, router="10.5.0.1") as server:
        ours = {"lo": "10.5.0.1/32"}
        async with aioioth.Stack("memory://lan", ip=ours, dhcp=True) as stack:
            assert stack.achieved["vde0"] == Achieved.DHCP
            [lease] = server.leases
            assert await addresses(stack) == {f"{lease.address}/24"}
            assert await defaults(stack) == []
            await stack.configure("dhcp")
    [warning] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "default via 10.5.0.1" in warning.getMessage()


async def test_a_refusal_is_not_the_end_of_all_else() -> None:
    async with aioioth.Stack("null://") as stack:
        with pytest.raises(NetlinkError, match=r"10\.9\.9\.9"):
            await stack.configure("ip=10.0.0.1,gw=10.9.9.9,ip=10.1.0.1")
        assert await addresses(stack) == {"10.0.0.1/24", "10.1.0.1/24"}


async def test_a_new_mac_address_is_a_new_client() -> None:
    async with router() as there, Dhcp4Server(there) as server:
        async with aioioth.Stack("memory://lan", dhcp=True) as stack:
            [old] = server.leases
            assert await stack.configure("eth,mac=02:00:00:00:00:09,dhcp") == (
                Achieved.ETH | Achieved.DHCP
            )
            [new] = server.leases
            assert new.mac == "02:00:00:00:00:09" != old.mac
            assert await addresses(stack) == {f"{new.address}/24"}


async def test_who_gets_a_new_mac_address_asks_for_a_new_lease() -> None:
    leases: asyncio.Queue[str] = asyncio.Queue()
    async with router() as there:
        server = Dhcp4Server(there, on_lease=lambda new: leases.put_nowait(new.mac))
        async with server, aioioth.Stack("memory://lan", dhcp=True) as stack:
            assert await leases.get() == stack.interfaces["vde0"].mac
            await stack.configure("eth,mac=02:00:00:00:00:09")
            assert await leases.get() == "02:00:00:00:00:09"
            await stack.wait_ready()
            [lease] = server.leases
            assert await addresses(stack) == {f"{lease.address}/24"}


async def test_what_is_known_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with router() as there, Dhcp4Server(there, domain="lab"):
        stack = aioioth.Stack.from_config("vnl=memory://lan,dhcp,debug", name="a")
        with caplog.at_level("INFO", "aioioth"):
            async with stack:
                lease = next(iter(await addresses(stack)))
        lines = [each.getMessage() for each in caplog.records]
        assert "stack 'a': dhcp on vde0: domains: lab" in lines
        assert any(f"dhcp on vde0: addresses: {lease}" in line for line in lines)


async def test_an_interface_that_is_taken_away() -> None:
    async with router() as there, Dhcp4Server(there) as server:
        async with aioioth.Stack() as stack:
            await stack.add_interface("memory://lan", "eth1")
            await stack.configure("iface=eth1,dhcp,dns=10.0.0.3")
            await stack.remove_interface("eth1")
            assert not server.leases
            assert stack.resolv_conf() == ""
            await stack.add_interface("memory://lan", "eth1")
            assert await addresses(stack, "eth1") == set()
            assert await stack.configure("iface=eth1,dhcp") == Achieved.DHCP


async def test_two_interfaces_and_the_first_one_wins() -> None:
    async with router() as there, Dhcp4Server(there):
        stack = aioioth.Stack(
            "memory://lan", "eth1:memory://lan", dhcp=["vde0", "eth1"]
        )
        async with stack:
            metrics = [metric for _, metric in await defaults(stack)]
            assert metrics == [2000, 2064]


async def test_in_the_pump_thread() -> None:
    async with router() as there, Dhcp4Server(there) as server:
        async with aioioth.Stack("memory://lan", dhcp=True, pump_thread=True) as stack:
            assert stack.achieved == {"vde0": Achieved.DHCP}
            await stack.configure("-dhcp,ip=10.0.0.9")
            assert await addresses(stack) == {"10.0.0.9/24"}
            assert not server.leases


async def test_cancelled_but_not_undone() -> None:
    async with aioioth.Stack("memory://lan") as stack:
        waiting = asyncio.create_task(stack.configure("dhcp"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        events = stack.events(Configured)
        async with router() as there, Dhcp4Server(there):
            assert await anext(events) == Configured("vde0", "dhcp")


async def test_closed_while_somebody_waits() -> None:
    stack = await aioioth.Stack("memory://lan").open()
    waiting = asyncio.create_task(stack.configure("dhcp"))
    await asyncio.sleep(0.05)
    await stack.aclose()
    with pytest.raises(ClosedError):
        await waiting


# Written down


async def test_a_config_string_makes_a_stack() -> None:
    text = """
        stack=netns, vnl=memory://lan   # where
        eth, fqdn=web.lab
        ip=10.0.0.5/24, gw=10.0.0.1
        dhcp
    """
    async with router() as there, Dhcp4Server(there) as server:
        async with aioioth.Stack.from_config(text, name="web") as stack:
            [lease] = server.leases
            assert await addresses(stack) == {"10.0.0.5/24", f"{lease.address}/24"}
            assert await defaults(stack) == [("10.0.0.1", 0), ("10.0.0.1", 2000)]
            assert stack.interfaces["vde0"].mac == lease.mac == hash_mac("web.lab")


async def test_toml_makes_a_stack(tmp_path: Path) -> None:
    path = tmp_path / "web.toml"
    path.write_text(
        """
        name = "web"
        dns = "10.0.0.53"
        [interface.vde0]
        vnl = "memory://lan"
        ip = "10.0.0.5/24"
        [interface.eth1]
        vnl = "null://"
        mac = "02:00:00:00:00:05"
        ip = "fd00::5"
        """
    )
    async with aioioth.Stack.from_toml(path) as stack:
        assert await addresses(stack) == {"10.0.0.5/24"}
        assert await addresses(stack, "eth1") == {"fd00::5/64"}
        assert stack.interfaces["eth1"].mac == "02:00:00:00:00:05"
        assert stack.resolv_conf() == "nameserver 10.0.0.53\n"


async def test_ready_when_everybody_has_answered() -> None:
    async with router() as there, aioioth.Stack("memory://lan", name="a") as stack:
        await stack.wait_ready()
        await stack.configure("dhcp", timeout=0)
        with pytest.raises(TimeoutError, match=r"'a' is not ready .*no answer to dhcp"):
            await stack.wait_ready(timeout=0.1)
        async with Dhcp4Server(there):
            await stack.wait_ready()
            assert stack.achieved == {"vde0": Achieved.DHCP}


async def test_our_own_sockets_are_not_the_users() -> None:
    async with router() as there, Dhcp4Server(there):
        stack = aioioth.Stack("memory://lan", dhcp=True)
        async with stack:
            await stack.configure("rd,dhcp6", timeout=0)
            assert stack.sockets() == []
            await stack.aclose(strict=True)
