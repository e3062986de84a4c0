"""Router advertisements between stacks, and the kernel's own ones."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import BusyError, ConfigurationError
from aioioth.hashes import eui64_address, hash_address
from aioioth.servers.ra import Prefix, RouterAdvertiser, RouteTo
from aioioth.wire import nd
from tests.kernel.routers import PATIENCE, hurry, leap, listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth import Stack

NETWORK = ipaddress.IPv6Network("fd00::/64")
FORWARDING = "net.ipv6.conf.all.forwarding"


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def lan(*ip: str, **options: Any) -> Stack:
    return aioioth.Stack("memory://lan", ip=ip, **options)


def router(**options: Any) -> Stack:
    return lan("fd00::1/64", mac="02:00:00:00:00:01", **options)


ROUTER = ipaddress.IPv6Address("fe80::ff:fe00:1")


def mac_of(stack: Stack) -> str:
    from aioioth import _iproute
    from aioioth._linux import netdevice

    with _iproute.control_socket(stack._own_parts().space) as control:
        return netdevice.interface_mac(control, "vde0")


def index_of(stack: Stack) -> int:
    from aioioth import _iproute

    return _iproute.find_index(stack._own_parts().space, "vde0", "")


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)


async def shown(stack: Stack, what: str) -> str:
    process = await stack.create_subprocess_exec(
        "ip", "-6", *what.split(), stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0].decode()


def source_towards(stack: Stack, address: str) -> str | None:
    """Return the address that packets to another one leave with."""
    with stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return None
        return str(sock.getsockname()[0])


async def test_a_host_learns_all_that_a_router_tells() -> None:
    async with router() as one, lan() as two:
        telling = RouterAdvertiser(
            one,
            dns=["fd00::53", "fe80::ff:fe00:1"],
            domain="Lab.example",
            mtu=1400,
            routes=["fd77::/48", RouteTo(ipaddress.IPv6Network("fd78::/48"), None)],
            preference="high",
        )
        async with telling, listening(two) as host:
            found = await host.until(lambda found: found.addresses)
            mac = mac_of(two)
            [address] = found.addresses
            assert address.address.ip == eui64_address(mac, NETWORK)
            assert address.valid is not None
            assert address.preferred is not None
            assert 86390 <= address.valid <= 86400
            assert 14390 <= address.preferred <= 14400
            assert not address.nodad
            assert address.noprefixroute
            routes = {str(each.destination): each for each in found.routes}
            assert set(routes) == {"::/0", "fd00::/64", "fd77::/48", "fd78::/48"}
            assert routes["fd00::/64"].via is None
            assert routes["::/0"].via == ROUTER
            assert routes["::/0"].metric == 1000 - 16
            assert routes["fd77::/48"].metric == 1000
            assert routes["fd78::/48"].lifetime is None
            assert found.dns == (
                ipaddress.IPv6Address("fd00::53"),
                ipaddress.IPv6Address("fe80::ff:fe00:1%vde0"),
            )
            assert found.domains == ("lab.example",)
            assert found.mtu == 1400
            # The kernel has them, too.
            own = str(address.address.ip)
            await until(lambda: source_towards(two, "2001:db8::1") == own)
            assert source_towards(two, "fd00::1") == own


async def test_packets_go_there_and_come_back(echo: Any, ask: Any) -> None:
    async with router() as one, lan() as two, RouterAdvertiser(one):
        async with listening(two) as host:
            await host.until(lambda found: found.addresses)
            server = await one.start_server(echo, "fd00::1", 7)
            assert await ask(two, "fd00::1", b"hello") == b"hello"
            server.close()
            await server.wait_closed()


async def test_an_address_of_the_name_although_the_router_says_no() -> None:
    async with router() as one, lan() as two, lan() as three:
        prefix = Prefix(NETWORK, 1000, 500, on_link=False, autonomous=False)
        async with RouterAdvertiser(one, prefixes=[prefix]):
            async with listening(two, fqdn="two.lab") as host:
                found = await host.until(lambda found: found.addresses)
                [address] = found.addresses
                assert address.address.ip == hash_address("two.lab", NETWORK)
                assert [str(each.destination) for each in found.routes] == ["::/0"]
                # Not on the link: by way of the router.
                table = await shown(two, "route show")
                assert "fd00::/64" not in table
                assert "default via fe80::ff:fe00:1" in table
            async with listening(three) as host:
                found = await host.until(lambda found: found.routes)
                assert not found.addresses


async def test_without_addresses() -> None:
    async with router() as one, lan() as two, RouterAdvertiser(one, dns="fd00::53"):
        async with listening(two, fqdn="two.lab", addresses=False) as host:
            found = await host.until(lambda found: found.routes)
            assert not found.addresses
            assert [str(each) for each in found.dns] == ["fd00::53"]
            assert {str(each.destination) for each in found.routes} == {
                "::/0",
                "fd00::/64",
            }


async def test_a_router_that_goes_says_so_and_one_that_comes_back_is_heard() -> None:
    async with router() as one, lan() as two:
        async with listening(two) as host:
            async with RouterAdvertiser(one, dns="fd00::53"):
                await host.until(lambda found: found.routes)
            found = await host.until(lambda found: not found.dns)
            # Addresses and the network stay until they are out of date.
            assert [str(each.destination) for each in found.routes] == ["fd00::/64"]
            assert found.addresses[0].preferred == 0
            assert host.said[-1][1] == f"router {ROUTER} says that it is none any more"
            async with RouterAdvertiser(one, dns="fd00::53"):
                found = await host.until(lambda found: found.dns)
                assert found.addresses[0].preferred


async def test_everything_ends_when_nobody_says_it_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with router() as one, lan() as two, listening(two) as host:
        async with RouterAdvertiser(one, dns="fd00::53"):
            await host.until(lambda found: found.addresses and found.dns)
            await one.remove_interface("vde0")
            leap(monkeypatch, host, 1801)
            found = await host.until(lambda found: not found.dns)
            assert [each.via for each in found.routes] == [None]
            leap(monkeypatch, host, 86401)
            await host.until(lambda found: not found.addresses)
            assert host.said[-1] == (None, "no router has said so for too long")
            assert source_towards(two, "fd00::1") is None


async def test_a_router_that_comes_later_is_asked() -> None:
    async with lan() as two, listening(two) as host, router() as one:
        # It says nothing by itself but at its beginning.
        async with RouterAdvertiser(one, lifetime=9000, interval=(9000, 9000)):
            await host.until(lambda found: found.routes)
            told = len(host.said)
            host.source.refresh()
            await until(lambda: len(host.said) > told)


async def test_two_routers() -> None:
    async with router() as one, lan("fd00::2/64") as two, lan() as three:
        async with (
            RouterAdvertiser(one, preference="low"),
            listening(three) as host,
        ):
            await host.until(lambda found: found.routes)
            async with RouterAdvertiser(two):
                found = await host.until(lambda found: len(found.routes) == 3)
                ways = {str(each.via): each.metric for each in found.routes if each.via}
                assert ways.pop(str(ROUTER)) == 1016
                assert list(ways.values()) == [1001]
                assert len(found.addresses) == 1
            found = await host.until(lambda found: len(found.routes) == 2)
            [way] = [each for each in found.routes if each.via]
            assert way.via == ROUTER


async def test_an_address_that_another_one_has(caplog: Any) -> None:
    async with router() as one, lan() as two, listening(two, fqdn="two.lab") as host:
        address = hash_address("two.lab", NETWORK)
        host.taken.add(address)
        async with RouterAdvertiser(one, interval=(0.1, 0.1)):
            await until(lambda: f"{address} on vde0 is another's" in caplog.text)
            found = await host.until(lambda found: not found.addresses)
            assert found.routes
            # He may be gone when somebody asks again.
            host.taken.clear()
            host.source.refresh()
            await host.until(lambda found: found.addresses)


async def test_a_cable_that_was_out() -> None:
    async with router() as one, lan() as two:
        async with RouterAdvertiser(one), listening(two) as host:
            await host.until(lambda found: found.addresses)
            for state in "down", "up":
                process = await two.create_subprocess_exec(
                    "ip", "link", "set", "vde0", state
                )
                assert await process.wait() == 0
            assert source_towards(two, "fd00::1") is None
            host.source.refresh()
            await until(lambda: source_towards(two, "fd00::1"))


async def test_a_router_whose_cable_was_out() -> None:
    async with router() as one, lan() as two:
        # With networks given, nothing but its link-local address gets lost.
        async with RouterAdvertiser(one, prefixes=[NETWORK]), listening(two) as host:
            await host.until(lambda found: found.addresses)
            assert await shown(one, "link set vde0 down") == ""
            assert await shown(one, "link set vde0 up") == ""
            told = len(host.said)
            host.source.refresh()
            await until(lambda: len(host.said) > told)


# Those who want no good


def advertisement(**options: Any) -> bytes:
    return nd.RouterAdvertisement(lifetime=1800, **options).pack()


def say(
    stack: Stack,
    message: bytes,
    *,
    hop_limit: int = 255,
    to: str = "ff02::1",
    source: str = "::",
) -> None:
    index = socket.IPPROTO_IPV6
    with stack.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(index, socket.IPV6_MULTICAST_HOPS, hop_limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"vde0")
        if source != "::":
            sock.bind((source, 0, 0, index_of(stack)))
        sock.sendto(message, (to, 0))


async def test_what_is_no_advertisement_is_not_listened_to() -> None:
    async with router() as one, lan("fd00::66/64") as bad, lan() as three:
        async with listening(three) as host:
            await asyncio.sleep(0)
            prefix = nd.Prefix(ipaddress.IPv6Network("fd66::/64"), None, None)
            message = advertisement(prefixes=(prefix,))
            say(bad, message, hop_limit=254)
            say(bad, message[:15])
            say(bad, message + b"\5\0")
            say(bad, message + bytes([1, 200]) + bytes(6))
            say(bad, bytes([134, 1]) + message[2:])
            # In fragments: what follows is more than the link carries at once.
            say(bad, message + 8 * (bytes([200, 255]) + bytes(2038)))
            async with RouterAdvertiser(one):
                await host.until(lambda found: found.addresses)
                for found, _ in host.said:
                    assert found is not None
                    assert {each.via for each in found.routes} == {None, ROUTER}
                    assert len(found.addresses) == 1
            # It would have been heard:
            say(bad, message)
            await host.until(lambda found: len(found.addresses) == 2)


@pytest.mark.parametrize("name", ["fe80::2", "fe80::ff:fe00:2"])
async def test_who_speaks_in_our_own_name(name: str) -> None:
    # The kernel refuses routes by way of ourselves, and we would do without the rest.
    async with lan("fd00::66/64", f"{name}/64") as bad, lan() as two:
        mac = "02:00:00:00:00:02"
        assert await shown(two, f"link set vde0 address {mac}") == ""
        assert await shown(two, "address add fe80::2/64 dev vde0 nodad") == ""
        async with listening(two) as host, router() as one:
            await asyncio.sleep(0)
            say(bad, advertisement(), source=name)
            async with RouterAdvertiser(one):
                found = await host.until(lambda found: found.addresses)
                assert {each.via for each in found.routes} == {None, ROUTER}


async def test_what_is_no_question_is_not_answered() -> None:
    async with router() as one, lan("fd00::66/64") as bad:
        answers: list[bytes] = []
        listener = bad.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        blocked = bytearray(b"\xff" * 32)
        blocked[16] = 0xFF & ~(1 << 6)  # 134
        listener.setsockopt(socket.IPPROTO_ICMPV6, 1, bytes(blocked))
        loop = asyncio.get_running_loop()
        with listener:
            async with RouterAdvertiser(one, lifetime=9000, interval=(9000, 9000)):
                async with asyncio.timeout(PATIENCE):
                    answers.append(await loop.sock_recv(listener, 2000))
                    for message in (
                        bytes([133, 0]) + bytes(5),
                        bytes([133, 1]) + bytes(6),
                    ):
                        say(bad, message, to="ff02::2")
                    question = nd.RouterSolicitation().pack()
                    say(bad, question + b"\1\0", to="ff02::2")
                    say(bad, question, hop_limit=64, to="ff02::2")
                    # Behind all that, one that is right.
                    say(bad, question, to="ff02::2")
                    answers.append(await loop.sock_recv(listener, 2000))
            async with asyncio.timeout(PATIENCE):
                answers.append(await loop.sock_recv(listener, 2000))
        told = [nd.parse_advertisement(each) for each in answers]
        assert [each.lifetime for each in told] == [9000, 9000, 0]
        assert [str(each.network) for each in told[0].prefixes] == ["fd00::/64"]
        assert told[0] == told[1]
        assert told[0].source_mac == bytes.fromhex("020000000001")
        assert [each.preferred for each in told[2].prefixes] == [0]


# The kernel's own


async def test_the_kernel_believes_us() -> None:
    async with router() as one, lan() as two:
        await one.sysctl(FORWARDING, 1)
        for name, value in ("autoconf", 1), ("addr_gen_mode", 0), ("accept_ra", 2):
            await two.sysctl(f"net.ipv6.conf.vde0.{name}", value)
        async with RouterAdvertiser(
            one, mtu=1400, dns="fd00::53", routes=["fd77::/48"]
        ):
            await until(lambda: source_towards(two, "2001:db8::1"))
            own = eui64_address(mac_of(two), NETWORK)
            assert source_towards(two, "2001:db8::1") == str(own)
            table = await shown(two, "route show")
            assert "default via fe80::ff:fe00:1 dev vde0 proto ra" in table
            assert "fd00::/64 dev vde0 proto kernel" in table
        async with asyncio.timeout(PATIENCE):
            while "default" in await shown(two, "route show"):
                await asyncio.sleep(0.01)


# Beginning and end


async def test_what_the_server_is_told_in_the_wrong_way() -> None:
    async with router() as one, aioioth.Stack() as bare:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"lifetime": 5}, "lifetime=5"),
            ({"lifetime": 70000}, "lifetime=70000"),
            ({"valid": 5}, "valid=5, preferred=14400"),
            ({"interval": (3, 2)}, "interval="),
            ({"interval": (3, float("inf")), "lifetime": 0}, "interval="),
            ({"prefixes": [Prefix(NETWORK, 5, None)]}, "preferred for longer"),
            ({"prefixes": ["10.0.0.0/8"]}, "IPv6 networks only"),
            ({"prefixes": ["fd00::1/64"]}, "is no network"),
            ({"dns": "10.0.0.1"}, "IPv6 servers only"),
            ({"domain": ["a..b"]}, "is no name"),
            ({"mtu": 1000}, "mtu=1000"),
            ({"preference": "most"}, "one of low, medium, high"),
            ({"dns": [f"fd00::{n:x}" for n in range(130)]}, "do not fit"),
            ({"prefixes": [f"fd00:{n:x}::/64" for n in range(50)]}, "say less"),
            ({"routes": [f"fd00:{n:x}::/64" for n in range(50)]}, "say less"),
        ]
        for options, said in wrong:
            with pytest.raises(ConfigurationError, match=said):
                RouterAdvertiser(one, **options)
        with pytest.raises(ConfigurationError, match="has no interface"):
            await RouterAdvertiser(bare).open()
        with pytest.raises(
            ConfigurationError, match="no interface 'vde7'; there are: vde0"
        ):
            await RouterAdvertiser(one, dev="vde7").open()
        telling = RouterAdvertiser(one)
        async with telling:
            with pytest.raises(BusyError):
                await telling.open()
        async with telling:
            pass


async def test_a_stack_that_is_closed_takes_both_along() -> None:
    async with router() as one, lan() as two:
        telling = await RouterAdvertiser(one).open()
        async with listening(two) as host:
            await host.until(lambda found: found.addresses)
            await one.aclose()
            await two.aclose()
        await telling.aclose()
