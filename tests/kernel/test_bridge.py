"""Stacks joined inside the kernel: what goes through, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
import threading
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import aioioth
from aioioth import CarrierDown, CarrierUp, _iproute, _manager, bridge, errors
from aioioth._bridging import BRIDGE, BRIDGE_INDEX
from aioioth._iproute import Request
from aioioth._keeper import meeting
from aioioth.bridge import Bridge
from aioioth.netlink import Netlink
from aioioth.testing import cancel_everywhere, no_leaks
from aioioth.wire import rtnetlink
from tests.kernel.test_fork_threads_loops import forked
from tests.kernel.test_keeper import gone, keeper_pid

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._bridging import Joined

PATIENCE = 30

PING = "/bin/ping -q -c1"

OURS = ["10.0.0.1/24", "fd00::1/64"]
THEIRS = ["10.0.0.2/24", "fd00::2/64"]
HOSTS = ["10.0.0.1", "fd00::1"]

# struct tcp_info, <linux/tcp.h>: tcpi_rtt and tcpi_total_retrans.
RTT = struct.Struct("=68xI")
RETRANSMITTED = struct.Struct("=100xI")


def runtime() -> Path:
    return Path(os.environ["XDG_RUNTIME_DIR"], "aioioth")


def joined(stack: aioioth.Stack) -> Joined:
    """Return the bridge that a stack's first interface is on."""
    wiring = stack._parts().wiring
    assert wiring is not None
    found: Joined = wiring.links[0]._junction._seat.joined  # type: ignore[union-attr]
    return found


def attached(interface: aioioth.Interface) -> bool:
    return interface.attached


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


async def who(reader: Any, writer: Any) -> None:
    """Say who is asked."""
    writer.write(writer.get_extra_info("sockname")[0].encode())
    writer.close()


# What goes through


@pytest.mark.parametrize("host", HOSTS)
async def test_nothing_is_lost_at_first(host: str) -> None:
    """What is lost when a network is set up costs a second, by the kernel's clock."""
    for _ in range(50):
        async with (
            asyncio.timeout(PATIENCE),
            aioioth.Stack("bridge://lan", ip=OURS) as one,
            aioioth.Stack("bridge://lan", ip=THEIRS) as two,
            await one.start_server(who, host, 7),
        ):
            reader, writer = await two.open_connection(host, 7)
            sock = writer.get_extra_info("socket")
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert RETRANSMITTED.unpack(info) == (0,)
            assert RTT.unpack_from(info)[0] < 500_000
            assert await reader.read() == host.encode()
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("host", HOSTS)
async def test_the_first_datagram_arrives(host: str) -> None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(50):
        async with (
            asyncio.timeout(PATIENCE),
            aioioth.Stack("bridge://lan", ip=OURS) as one,
            aioioth.Stack("bridge://lan", ip=THEIRS) as two,
        ):
            kind = family, socket.SOCK_DGRAM
            with one.socket(*kind) as server, two.socket(*kind) as client:
                server.bind((host, 9))
                client.sendto(b"%d" % number, (host, 9))
                assert await loop.sock_recv(server, 100) == b"%d" % number


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(1500, 1500), (9000, 9000), (65535, 65535), (1500, 65535)]
)
async def test_mtu(ours: int, theirs: int, host: str, echo: Any, ask: Any) -> None:
    text = b"bridge" * 100_000
    async with (
        aioioth.Stack("bridge://lan", ip=OURS, mtu=ours) as one,
        aioioth.Stack("bridge://lan", ip=THEIRS, mtu=theirs) as two,
        await one.start_server(echo, host, 7),
    ):
        assert one.interfaces["vde0"].mtu == ours
        assert two.interfaces["vde0"].mtu == theirs
        assert await ask(two, host, text) == text
        assert await one.run(f"{PING} -W5 -s 1400 -M do 10.0.0.2") == 0
        fits = await two.run(f"{PING} -W5 -s 60000 -M do 10.0.0.1") == 0
        assert fits == (ours == theirs == 65535)
        for stack in one, two:
            stats = stack.stats()["vde0"]
            assert stats.sent.frames > 0
            assert stats.received.bytes > 0
            assert stats.sent.drops == {}


def test_an_mtu_that_no_kernel_has() -> None:
    with pytest.raises(errors.ConfigurationError, match="65536"):
        aioioth.Stack("bridge://lan", mtu=65536)


async def test_what_it_is() -> None:
    async with aioioth.Stack(
        "lan:bridge://lan", ip=OURS, mac="02:00:00:00:00:17"
    ) as stack:
        interface = stack.interfaces["lan"]
        assert (interface.name, interface.vnl) == ("lan", "bridge://lan")
        assert (interface.device, interface.attached) == ("veth", True)
        assert interface.mac == "02:00:00:00:00:17"
        assert interface.mtu == 1500
        assert repr(stack).endswith("on bridge://lan, open>")


async def test_it_has_no_address_of_its_own() -> None:
    """Nor is there anything else to be seen of it in a stack."""
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        names = {each.get("ifname") async for each in await stack.netlink.get_links()}
        assert names == {"lo", "vde0"}
        netlink = Netlink(joined(stack).namespace)
        try:
            indexes = {each["index"] async for each in await netlink.get_addr()}
        finally:
            netlink.close()
        assert indexes <= {1}


async def test_several_interfaces_and_a_router(echo: Any, ask: Any) -> None:
    """Also on memory://, and two of them on the same bridge."""
    async with (
        aioioth.Stack(
            "bridge://left",
            "bridge://left",
            "right:memory://right",
            "far:bridge://far",
            ip={
                "vde0": ["10.0.1.1/24", "fd01::1/64"],
                "vde1": "10.0.9.1/24",
                "right": ["10.0.2.1/24", "fd02::1/64"],
                "far": "10.0.3.1/24",
            },
        ) as router,
        aioioth.Stack(
            "bridge://left",
            ip=["10.0.1.2/24", "fd01::2/64"],
            gw=["10.0.1.1", "fd01::1"],
        ) as left,
        aioioth.Stack(
            "memory://right",
            ip=["10.0.2.2/24", "fd02::2/64"],
            gw=["10.0.2.1", "fd02::1"],
        ) as right,
        aioioth.Stack("bridge://far", ip="10.0.3.2/24", gw="10.0.3.1") as far,
        await left.start_server(echo, None, 7),
    ):
        await router.sysctl("net.ipv4.ip_forward", 1)
        await router.sysctl("net.ipv6.conf.all.forwarding", 1)
        for stack, host in (
            (router, "10.0.1.2"),
            (right, "10.0.1.2"),
            (right, "fd01::2"),
            (far, "10.0.1.2"),
        ):
            assert await ask(stack, host, b"x" * 100_000) == b"x" * 100_000
        devices = [each.device for each in router.interfaces.values()]
        assert devices[:2] == ["veth", "veth"]
        assert devices[2] in {"tap", "packet"}


async def test_two_bridges_are_two() -> None:
    async with (
        aioioth.Stack("bridge://a", ip=OURS),
        aioioth.Stack("bridge://b", ip=THEIRS) as two,
        aioioth.Stack("bridge://a[private]", ip="10.0.0.3/24") as three,
    ):
        for stack in two, three:
            assert await stack.run(f"{PING} -W1 10.0.0.1") == 1


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "..",
        ".",
        "a/b",
        "~",
        "%41",
        "user-namespace",
        "naïve ☕ " * 2,
        "x" * 200,
    ],
)
async def test_any_name(name: str, private: bool) -> None:
    async with (
        aioioth.Stack(Bridge(name, private=private), ip=OURS),
        aioioth.Stack(Bridge(name, private=private), ip=THEIRS) as two,
    ):
        assert await two.run(f"{PING} -W5 10.0.0.1") == 0
        assert runtime().exists() != private


@pytest.mark.parametrize("name", ["x" * 201, "é" * 101, "a\0b", "\ud800" * 70])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="200 bytes at most"):
        Bridge(name)


async def test_a_name_that_cannot_be_printed() -> None:
    async with aioioth.Stack(Bridge("\ud800"), ip=OURS) as stack:
        assert stack.interfaces["vde0"].attached


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("ageing=0", "1 to 1000000"),
        ("ageing=1000001", "1 to 1000000"),
        ("untagged=4095", "1 to 4094"),
        ("tagged=0", "1 to 4094"),
        ("tagged=1+4095", "1 to 4094"),
        ("tagged=", "VLANs like 10\\+20"),
        ("tagged=1++2", "VLANs like 10\\+20"),
        ("tagged=" + "1" * 5000, "VLANs like 10\\+20"),
        ("tagged=5/untagged=5", "not both"),
        ("speed=9", "no option 'speed'"),
    ],
)
def test_options_that_cannot_be(options: str, reason: str) -> None:
    with pytest.raises(errors.VnlError, match=reason):
        aioioth.Stack(f"bridge://lan[{options}]")


def test_arguments_that_cannot_be() -> None:
    wrong: list[dict[str, Any]] = [
        {"ageing": 10**10},
        {"untagged": 0},
        {"tagged": [-1]},
    ]
    for arguments in wrong:
        with pytest.raises(errors.ConfigurationError, match="expected"):
            Bridge("lan", **arguments)


# Its options


async def _of_the_bridge(stack: aioioth.Stack, name: str) -> int:
    netlink = Netlink(joined(stack).namespace)
    try:
        [link] = [each async for each in await netlink.get_links(BRIDGE_INDEX)]
        data = link.get_nested("linkinfo", "data")
        value: int = data.get(name)
    finally:
        netlink.close()
    return value


async def test_ageing() -> None:
    async with aioioth.Stack("bridge://lan", ip=OURS) as one:
        assert await _of_the_bridge(one, "br_ageing_time") == 30_000
        async with aioioth.Stack("bridge://lan[ageing=60]", ip=THEIRS) as two:
            assert await _of_the_bridge(one, "br_ageing_time") == 6_000
            assert await two.run(f"{PING} -W5 10.0.0.1") == 0
        async with aioioth.Stack("bridge://lan", ip=THEIRS):
            assert await _of_the_bridge(one, "br_ageing_time") == 6_000


async def test_isolated() -> None:
    async with (
        aioioth.Stack("bridge://lan[isolated]", ip="10.0.0.1/24") as one,
        aioioth.Stack("bridge://lan[isolated]", ip="10.0.0.2/24") as two,
        aioioth.Stack("bridge://lan", ip="10.0.0.3/24") as hub,
    ):
        for stack in one, two:
            assert await stack.run(f"{PING} -W5 10.0.0.3") == 0
        for host in "10.0.0.1", "10.0.0.2":
            assert await hub.run(f"{PING} -W5 {host}") == 0
        assert await one.run(f"{PING} -W1 10.0.0.2") == 1


async def test_vlans() -> None:
    """Or one clear error, and nothing left, where the kernel has none."""
    try:
        await aioioth.Stack("bridge://lan[untagged=5]").open()
    except errors.BrokenTransportError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "CONFIG_BRIDGE_VLAN_FILTERING" in refusal
        async with aioioth.Stack("null://") as stack:
            with pytest.raises(errors.BrokenTransportError, match="VLAN_FILTERING"):
                await stack.add_interface("bridge://lan[untagged=5/tagged=6+7]")
            with pytest.raises(errors.BrokenTransportError, match="VLAN_FILTERING"):
                await aioioth.Cable("bridge://lan[tagged=6]", "null://").open()
            assert set(stack.interfaces) == {"vde0"}
        pytest.skip("this kernel's bridge has no VLANs")
    [first] = aioioth.stacks()
    await first.aclose()
    async with (
        aioioth.Stack("bridge://lan[untagged=5]", ip="10.0.0.1/24") as one,
        aioioth.Stack("bridge://lan[untagged=5]", ip="10.0.0.2/24"),
        aioioth.Stack("bridge://lan[untagged=6]", ip="10.0.0.3/24"),
        aioioth.Stack("vlan://6{bridge://lan[tagged=5+6]}", ip="10.0.0.4/24") as four,
    ):
        assert await one.run(f"{PING} -W5 10.0.0.2") == 0
        assert await one.run(f"{PING} -W1 10.0.0.3") == 1
        assert await four.run(f"{PING} -W5 10.0.0.3") == 0


def _told_of_vlans(message: bytes) -> tuple[int, dict[int, int]]:
    """Return a message's type, and the flags of each VLAN."""
    size, kind, _, _, _ = struct.unpack_from("=IHHII", message)
    assert size == len(message)
    family, index = struct.unpack_from("=BxxxI", message, 16)
    assert (family, index) == (
        socket.AF_BRIDGE if hasattr(socket, "AF_BRIDGE") else 7,
        77,
    )
    spec = rtnetlink.attributes(message[32:])
    inside = spec[rtnetlink.IFLA_AF_SPEC | rtnetlink.NLA_F_NESTED]
    found = {}
    for at in range(0, len(inside), 8):
        length, attribute, flags, vlan = struct.unpack_from("=HHHH", inside, at)
        assert (length, attribute) == (8, 2)  # IFLA_BRIDGE_VLAN_INFO
        found[vlan] = flags
    return kind, found


def test_what_the_kernel_is_told_of_vlans() -> None:
    port = Bridge("lan", untagged=5, tagged=[7, 6, 7])
    filtering, *others = bridge._port_requests(port._settings, "p1", 77)
    assert filtering.words == "ip link set bridge type bridge vlan_filtering"
    assert b"\x05\x00\x07\x00\x01" in filtering.payload  # IFLA_BR_VLAN_FILTERING: on
    assert [_told_of_vlans(each.payload) for each in others] == [
        (rtnetlink.RTM_DELLINK, {1: 0}),
        (19, {6: 0, 7: 0, 5: 0x2 | 0x4}),  # RTM_SETLINK; PVID, untagged
    ]


def test_all_vlans_there_are() -> None:
    """In requests that the keeper takes."""
    port = Bridge("lan", tagged=range(1, 4095))
    _, _, *others = bridge._port_requests(port._settings, "p1", 77)
    found: dict[int, int] = {}
    for each in others:
        assert len(each.payload) < 4096
        found |= _told_of_vlans(each.payload)[1]
    assert found == dict.fromkeys(range(1, 4095), 0)


async def test_a_full_bridge() -> None:
    async with aioioth.Stack("bridge://lan", ip=OURS) as one:
        pairs = []
        for number in range(511):
            ends = [
                rtnetlink.link_body(name=f"{end}{number}", master=BRIDGE_INDEX)
                for end in "ab"
            ]
            pairs.append(Request("fill", rtnetlink.veth(*ends)))
        namespace = joined(one).namespace
        with suppress(errors.NetlinkError):  # older kernels do not do it at once
            await _iproute.carry_out(namespace, pairs)
        links = Netlink(namespace)
        try:
            names = [each.get("ifname") async for each in await links.get_links()]
        finally:
            links.close()
        plug = [
            Request("fill", rtnetlink.set_link(body))
            for name in names
            if name[0] == "b" and name != BRIDGE
            for body in [rtnetlink.link_body(name=name, master=BRIDGE_INDEX)]
        ]
        await _iproute.carry_out(namespace, plug)
        assert names.count("lo") == 1
        assert len(names) == 2 + 1 + 2 * 511  # lo and the bridge; the stack's port
        with pytest.raises(errors.BrokenTransportError, match="1023 interfaces"):
            await aioioth.Stack("bridge://lan").open()
        with pytest.raises(errors.BrokenTransportError, match="1023 interfaces"):
            await aioioth.Cable("bridge://lan", "null://").open()


# Coming and going


async def test_the_cable_is_pulled_out(echo: Any, ask: Any) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        interface, events = one.interfaces["vde0"], one.events()
        reader, writer = await two.open_connection("10.0.0.1", 7)
        await interface.set_carrier(False)
        await interface.set_carrier(False)
        assert not attached(interface)
        [link] = [each async for each in await one.netlink.get_links(interface.index)]
        assert link.get("carrier") == 0
        assert await two.run(f"{PING} -W1 10.0.0.1") == 1
        await interface.set_carrier(True)
        assert attached(interface)
        assert await two.run(f"{PING} -W5 10.0.0.1") == 0
        writer.write(b"still there")
        assert await reader.readexactly(11) == b"still there"
        writer.close()
        await writer.wait_closed()
        assert await anext(events) == CarrierDown("vde0", "pulled out")
        assert await anext(events) == CarrierUp("vde0", 1)
    with pytest.raises(errors.ClosedError):
        await interface.set_carrier(False)


async def test_the_last_word_on_the_cable_counts() -> None:
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        interface = stack.interfaces["vde0"]
        for last in True, False:
            await asyncio.gather(
                interface.set_carrier(not last), interface.set_carrier(last)
            )
            index = interface.index
            [link] = [each async for each in await stack.netlink.get_links(index)]
            assert attached(interface) is bool(link.get("carrier")) is last


@pytest.mark.parametrize("on", [False, True])
async def test_the_cable_while_cancelled(on: bool) -> None:
    """It is in or out, and we know which."""
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        interface = stack.interfaces["vde0"]
        await interface.set_carrier(not on)

        async def change() -> None:
            try:
                await interface.set_carrier(on)
            except asyncio.CancelledError:
                assert attached(interface) is not on
                raise

        async def change_back(_: object) -> None:
            await interface.set_carrier(not on)

        stack.netlink.fileno()
        assert await cancel_everywhere(change, undo=change_back) > 0
        index = interface.index
        [link] = [each async for each in await stack.netlink.get_links(index)]
        assert bool(link.get("carrier")) is not on


async def test_plugged_in_while_it_runs(echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("bridge://lan", ip="10.0.0.9/24"),  # the bridge stays
        aioioth.Stack() as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
    ):
        for number in range(5):
            interface = await one.add_interface("bridge://lan", ip=OURS, mtu=9000)
            assert interface.device in {"veth", "tap", "packet"}
            async with await one.start_server(echo, HOSTS[number % 2], 7):
                assert await ask(two, HOSTS[number % 2], b"x") == b"x"
            await one.remove_interface("vde0")
            names = {each.get("ifname") async for each in await one.netlink.get_links()}
            assert names == {"lo"}
            for host in HOSTS:  # he shall not go on with the MAC address that is gone
                await two.run(f"/usr/sbin/ip neighbour flush to {host}")


@pytest.mark.parametrize("host", HOSTS)
async def test_who_is_closed_is_silent(host: str) -> None:
    """Though open sockets keep his stack alive, and somebody else has his address."""
    mac = "02:00:00:00:00:01"
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("bridge://lan", ip="10.0.0.9/24"),  # the bridge stays
    ):
        for number in range(20):
            old = await aioioth.Stack("bridge://lan", ip=OURS, mac=mac).open()
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with old.socket(family) as server:
                server.bind((host, 7))
                server.listen()
                await old.aclose()
                same = mac if number % 2 else None
                async with (
                    aioioth.Stack("bridge://lan", ip=OURS, mac=same) as new,
                    aioioth.Stack("bridge://lan", ip=THEIRS) as two,
                    await new.start_server(who, host, 7),
                ):
                    reader, writer = await two.open_connection(host, 7)
                    assert await reader.read() == host.encode()
                    writer.close()
                    await writer.wait_closed()
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    server.accept()


async def test_all_who_are_closed_at_once_are_silent() -> None:
    """Also if the kernel has nothing to do for one of them."""
    async with aioioth.Stack("bridge://lan", ip="10.0.0.100/24") as stack:
        async with AsyncExitStack() as undo:
            others = [
                await undo.enter_async_context(
                    aioioth.Stack("bridge://lan", ip=f"10.0.0.{number}/24")
                )
                for number in range(1, 4)
            ]
            kept = [other.socket() for other in others]
            await others[0].interfaces["vde0"].set_carrier(False)
        try:
            for number in range(1, 4):
                assert await stack.run(f"{PING} -W1 10.0.0.{number}") == 1
        finally:
            for sock in kept:
                sock.close()


async def test_closed_while_sockets_are_open() -> None:
    """They stay usable, and lead nowhere."""
    loop = asyncio.get_running_loop()
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("bridge://lan", ip=OURS) as one,
    ):
        with ExitStack() as undo:
            async with aioioth.Stack("bridge://lan", ip=THEIRS) as two:
                server = undo.enter_context(one.socket())
                server.bind(("10.0.0.1", 7))
                server.listen()
                client = undo.enter_context(two.socket())
                await loop.sock_connect(client, ("10.0.0.1", 7))
                accepted = undo.enter_context((await loop.sock_accept(server))[0])
            async with (
                aioioth.Stack("bridge://lan", ip="10.0.0.3/24") as three,
                await three.start_server(who, "10.0.0.3", 7),
            ):
                reader, writer = await one.open_connection("10.0.0.3", 7)
                assert await reader.read() == b"10.0.0.3"
                writer.close()
                await writer.wait_closed()
            assert client.send(b"nobody hears this") == 17
            assert await one.run(f"{PING} -W1 10.0.0.2") == 1
            with pytest.raises(BlockingIOError):
                accepted.recv(100)


async def test_a_program_in_a_stack() -> None:
    async with (
        aioioth.Stack("bridge://lan", ip=OURS),
        aioioth.Stack("bridge://lan", ip=THEIRS, hosts={"one": HOSTS}) as two,
    ):
        for host in *HOSTS, "one":
            assert await two.run(f"{PING} -W5 {host}") == 0


async def test_shared_with_who_attaches(echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
        await two.start_server(echo, "10.0.0.2", 7),
        aioioth.Stack.attach(one.share()) as again,
    ):
        interface = again.interfaces["vde0"]
        assert (interface.device, interface.vnl) == ("veth", "bridge://lan")
        assert await ask(again, "10.0.0.2", b"shared") == b"shared"
        assert again.stats()["vde0"].sent.frames > 0
        await again.add_address("10.0.0.11/24", dev="vde0")
        assert await two.run(f"{PING} -W5 10.0.0.11") == 0


# Forks, threads, trio


async def test_a_forked_child(echo: Any, ask: Any) -> None:
    """It uses its parent's stack, joins the same bridge, and holds none of it."""
    async with (
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan[private]", ip=OURS) as alone,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        hidden = {
            os.fstat(joined(each).namespace.fileno()).st_ino for each in (one, alone)
        }

        def held() -> set[int]:
            found = set()
            for each in os.listdir("/proc/self/fd"):
                with suppress(OSError):
                    found.add(Path(f"/proc/self/fd/{each}").stat().st_ino)
            return found & hidden

        assert held() == hidden

        async def in_child() -> None:
            assert await ask(one, "10.0.0.1", b"mine") == b"mine"
            async with aioioth.Stack("bridge://lan", ip=THEIRS) as two:
                assert await ask(two, "10.0.0.1", b"joined") == b"joined"
            one.close()
            alone.close()

        def child() -> None:
            assert held() == set()
            asyncio.run(in_child())
            assert held() == set()
            assert _manager._keeper.pid is None

        await forked(child)
        assert await ask(one, "10.0.0.1", b"unharmed") == b"unharmed"


@pytest.mark.parametrize("vnl", ["bridge://lan", "bridge://lan[private]"])
async def test_loops_in_threads(vnl: str, echo: Any, ask: Any) -> None:
    """The bridge outlives the loop that was there first."""
    ready, done = threading.Event(), threading.Event()

    async def first() -> None:
        async with aioioth.Stack(vnl, ip="10.0.0.3/24"):
            ready.set()
            await asyncio.to_thread(done.wait)

    running = asyncio.get_running_loop().run_in_executor(None, asyncio.run, first())
    try:
        await asyncio.to_thread(ready.wait)
        async with (
            aioioth.Stack(vnl, ip=OURS) as one,
            await one.start_server(echo, "10.0.0.1", 7),
        ):
            assert await one.run(f"{PING} -W5 10.0.0.3") == 0
            done.set()
            await running

            async def other(number: int) -> bytes:
                async with aioioth.Stack(vnl, ip=f"10.0.0.{number}/24") as two:
                    answer: bytes = await ask(two, "10.0.0.1", b"%d" % number)
                    return answer

            answers = await asyncio.gather(
                *(asyncio.to_thread(asyncio.run, other(n)) for n in range(10, 18))
            )
            assert answers == [b"%d" % number for number in range(10, 18)]
    finally:
        done.set()


def test_under_trio() -> None:
    async def one(number: int) -> None:
        async with aioioth.Stack("bridge://lan", ip=f"10.0.0.{number}/24") as stack:
            await stack.add_address(f"10.0.1.{number}/24", dev="vde0")
            assert await stack.run(f"{PING} -W5 10.0.0.1") == 0

    async def main() -> None:
        async with aioioth.Stack("bridge://lan", ip=OURS) as first:
            async with trio.open_nursery() as nursery:
                for number in range(2, 8):
                    nursery.start_soon(one, number)
            await first.interfaces["vde0"].set_carrier(False)
            assert not first.interfaces["vde0"].attached
        assert not runtime().exists()

    with no_leaks():
        trio.run(main)


# What may go wrong


def _answered(name: str) -> bool:
    with meeting.new_socket() as sock:
        try:
            sock.connect(os.fspath(runtime() / name))
        except OSError:
            return False
        return bool(select.select([sock], [], [], PATIENCE)[0] and sock.recv(100))


async def test_the_keeper_is_killed(echo: Any, ask: Any) -> None:
    """Stacks go on, new ones join, and others find the bridge as before."""
    async with (
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        for number in range(3):
            reader, writer = await two.open_connection("10.0.0.1", 7)
            first = keeper_pid()
            os.kill(first, signal.SIGKILL)
            writer.write(b"on")
            assert await reader.readexactly(2) == b"on"
            await gone(first)
            writer.close()
            await writer.wait_closed()
            async with aioioth.Stack(
                "bridge://lan", ip=f"10.0.0.{3 + number}/24"
            ) as new:
                assert await ask(new, "10.0.0.1", b"new") == b"new"
            for name in "user-namespace", "lan.bridge":
                await until(lambda name=name: _answered(name))  # type: ignore[misc]

            async def other() -> bytes:
                async with aioioth.Stack("bridge://lan", ip="10.0.0.9/24") as nine:
                    answer: bytes = await ask(nine, "10.0.0.1", b"found")
                    return answer

            assert await asyncio.to_thread(asyncio.run, other()) == b"found"
            assert keeper_pid() != first


async def test_closed_while_the_keeper_is_dead() -> None:
    """Its name stays in the directory, until somebody asks for it."""
    async with (
        aioioth.Stack("bridge://lan", ip=OURS),
        aioioth.Stack("bridge://lan", ip=THEIRS),
        aioioth.Stack("bridge://lan[private]", ip=THEIRS),
    ):
        os.kill(keeper_pid(), signal.SIGKILL)
    async with aioioth.Stack("bridge://lan", ip=OURS):
        pass


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("vnl", ["bridge://lan", "bridge://lan[private]"])
async def test_cancelled_while_it_is_opened_and_closed(vnl: str, times: int) -> None:
    async with aioioth.Stack():  # the manager is there to stay

        async def whole_life() -> None:
            assert not runtime().exists()
            stack = await aioioth.Stack(vnl, ip=OURS).open()
            try:
                await stack.aclose()
            finally:
                assert repr(stack).endswith("closed>")

        async def all_gone(_: object = None) -> None:
            await until(lambda: not runtime().exists())

        async def checked() -> None:
            try:
                await whole_life()
            except asyncio.CancelledError:
                await all_gone()
                raise

        assert await cancel_everywhere(checked, undo=all_gone, times=times) > 5


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_is_plugged_in(times: int) -> None:
    async with (
        aioioth.Stack("bridge://lan", ip="10.0.0.9/24"),  # the bridge stays
        aioioth.Stack() as stack,
    ):
        await stack.add_interface("bridge://lan", "eth1")
        await stack.remove_interface("eth1")  # the executor's threads stay

        async def add() -> None:
            assert set(stack.interfaces) == set()
            await stack.add_interface("bridge://lan", "eth1", ip=OURS)

        async def remove(_: object) -> None:
            with suppress(errors.ConfigurationError):
                await stack.remove_interface("eth1")

        assert await cancel_everywhere(add, undo=remove, times=times) > 2
        await stack.add_interface("bridge://lan", "eth1", ip=OURS)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cable_cancelled(times: int) -> None:
    async with aioioth.Stack("bridge://lan", ip="10.0.0.9/24") as stack:

        async def whole_life() -> None:
            async with aioioth.Cable("bridge://lan", "memory://lan"):
                await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 2
        netlink = Netlink(joined(stack).namespace)
        try:
            async with asyncio.timeout(PATIENCE):
                # The bridge, the stack's port, and lo.
                while len([each async for each in await netlink.get_links()]) > 3:
                    await asyncio.sleep(0.01)
        finally:
            netlink.close()


# Cables


@pytest.mark.parametrize(
    ("a", "b", "ours", "theirs"),
    [
        ("bridge://lan", "memory://m", "bridge://lan", "memory://m"),
        ("bridge://a", "bridge://b", "bridge://a", "bridge://b"),
        ("memory://m", "bridge://b[private]", "memory://m", "bridge://b[private]"),
    ],
)
async def test_cables(
    a: str, b: str, ours: str, theirs: str, echo: Any, ask: Any
) -> None:
    text = b"x" * 300_000
    for host in HOSTS:
        async with (
            aioioth.Cable(a, b) as cable,
            aioioth.Stack(ours, ip=OURS) as one,
            aioioth.Stack(theirs, ip=THEIRS) as two,
            await one.start_server(echo, host, 7),
        ):
            assert cable.attached
            assert await ask(two, host, text) == text
            stats = cable.stats()
            for way in stats.a_to_b, stats.b_to_a:
                assert way.bytes > len(text)
                assert way.drops == {}


async def test_one_uplink_for_three() -> None:
    """Far away is a stack in a LAN by multicast."""
    async with (
        aioioth.Stack("memory://host", ip="192.168.0.1/24") as host,
        aioioth.Stack("memory://host", ip="192.168.0.2/24") as far_host,
    ):
        lan = "vxvde://234.0.0.1"
        far = aioioth.Stack(lan, ip="10.0.0.9/24")
        uplink = aioioth.Cable("bridge://lan", lan)
        # Each on a machine of its own.
        for machine, owned in (far_host, far), (host, uplink):
            await machine.add_route("234.0.0.0/8", dev="vde0")
            with machine.activate(patch=True):
                await owned.open()
        try:
            async with (
                aioioth.Stack("bridge://lan", ip="10.0.0.1/24") as one,
                aioioth.Stack("bridge://lan", ip="10.0.0.2/24") as two,
                aioioth.Stack("bridge://lan", ip="10.0.0.3/24") as three,
            ):
                for stack in one, two, three:
                    assert await stack.run(f"{PING} -W5 10.0.0.9") == 0
        finally:
            await uplink.aclose()
            await far.aclose()


async def test_a_vlan_of_a_bridge(echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("vlan://5{bridge://lan}", ip=OURS) as one,
        aioioth.Stack("vlan://5{bridge://lan}", ip=THEIRS) as two,
        aioioth.Stack("vlan://6{bridge://lan}", ip="10.0.0.3/24") as three,
        await one.start_server(echo, None, 7),
    ):
        for host in HOSTS:
            assert await ask(two, host, b"x" * 100_000) == b"x" * 100_000
        assert await three.run(f"{PING} -W1 10.0.0.1") == 1
        assert one.interfaces["vde0"].device in {"tap", "packet"}


async def test_a_capture_of_a_bridge(tmp_path: Path) -> None:
    file = tmp_path / "lan.pcapng"
    async with (
        aioioth.Stack(f"capture://{file}{{bridge://lan}}", ip=OURS),
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
    ):
        assert await two.run(f"{PING} -W5 -p 6272696467653f21 10.0.0.1") == 0
    assert file.read_bytes().count(b"bridge?!") >= 2


async def test_all_frames_go_through_a_plug() -> None:
    """As on a cable; a stack's own interface sees no tags and no strangers."""
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        plug = await Bridge("lan").open("test")
        try:
            mac = bytes.fromhex(stack.interfaces["vde0"].mac.replace(":", ""))
            frame = (
                b"\xff" * 6 + bytes.fromhex("020000000099") + b"\x88\xb5" + bytes(46)
            )
            with stack.socket(socket.AF_PACKET, socket.SOCK_RAW, 0xB588) as sock:
                sock.bind(("vde0", 0x88B5))
                loop = asyncio.get_running_loop()
                assert plug.send(memoryview(frame)) in {None, len(frame)}
                async with asyncio.timeout(PATIENCE):
                    assert await loop.sock_recv(sock, 9000) == frame
                    answer = (
                        bytes.fromhex("020000000099") + mac + b"\x88\xb5" + bytes(46)
                    )
                    await loop.sock_sendall(sock, answer)
                    into = memoryview(bytearray(65554))
                    while True:
                        size = await _received(plug, into)
                        if bytes(into[12:14]) == b"\x88\xb5":
                            break
                assert bytes(into[:size]) == answer
            assert plug.hangup_fileno() == -1
        finally:
            plug.close()
            plug.close()


async def _received(plug: bridge.BridgePlug, into: memoryview) -> int:
    while True:
        try:
            size = plug.recv_into(into)
        except BlockingIOError:
            await asyncio.sleep(0.002)
            continue
        assert size is not None
        return size


async def test_a_port_of_a_switch_may_be_a_bridge(
    tmp_path: Path, echo: Any, ask: Any
) -> None:
    """And who joins the switch reaches the stacks on the bridge."""
    directory = tmp_path / "sw"
    async with (
        aioioth.Stack(f"switch://{directory}", ip="10.0.0.3/24"),
        aioioth.Cable("bridge://lan", os.fspath(directory)) as cable,
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack(f"vde://{directory}", ip=THEIRS) as guest,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(guest, "10.0.0.1", b"x" * 100_000) == b"x" * 100_000
        assert await one.run(f"{PING} -W5 10.0.0.3") == 0
        assert cable.stats().a_to_b.drops == {}


async def test_a_switch_object_on_a_bridge(echo: Any, ask: Any) -> None:
    switch = aioioth.Switch()
    async with (
        aioioth.Cable("bridge://lan", switch),
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack(switch, ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(two, "10.0.0.1", b"hello") == b"hello"
    with ExitStack():
        assert switch.ports == ()
