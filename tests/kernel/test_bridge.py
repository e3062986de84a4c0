"""Stacks joined inside the kernel: what goes through, and the options of a bridge."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest

import aioioth
from aioioth import _iproute, errors
from aioioth._bridgerequests import configure_port
from aioioth._bridging import BRIDGE, BRIDGE_INDEX
from aioioth._iproute import Request
from aioioth.bridge import Bridge
from aioioth.netlink import Netlink
from aioioth.wire import rtnetlink
from tests.kernel.bridges import (
    HOSTS,
    OURS,
    PATIENCE,
    PING,
    THEIRS,
    joined,
    runtime,
    who,
)

# struct tcp_info, <linux/tcp.h>: tcpi_rtt and tcpi_total_retrans.
RTT = struct.Struct("=68xI")
RETRANSMITTED = struct.Struct("=100xI")


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
        fits = ours == theirs == 65535
        seconds = 5 if fits else 1
        pinged = await two.run(f"{PING} -W{seconds} -s 60000 -M do 10.0.0.1") == 0
        assert pinged == fits
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
    attributes = message[32:]
    [(_, kind_of_attribute)] = struct.iter_unpack("=HH", attributes[:4])
    assert kind_of_attribute == rtnetlink.IFLA_AF_SPEC | rtnetlink.NLA_F_NESTED
    inside = rtnetlink.attributes(attributes)[rtnetlink.IFLA_AF_SPEC]
    found = {}
    for at in range(0, len(inside), 8):
        length, attribute, flags, vlan = struct.unpack_from("=HHHH", inside, at)
        assert (length, attribute) == (8, 2)  # IFLA_BRIDGE_VLAN_INFO
        found[vlan] = flags
    return kind, found


def test_what_the_kernel_is_told_of_vlans() -> None:
    port = Bridge("lan", untagged=5, tagged=[7, 6, 7])
    filtering, *others = configure_port(port._settings, "p1", 77)
    assert filtering.words == "ip link set bridge type bridge vlan_filtering"
    assert b"\x05\x00\x07\x00\x01" in filtering.payload  # IFLA_BR_VLAN_FILTERING: on
    assert [_told_of_vlans(each.payload) for each in others] == [
        (rtnetlink.RTM_DELLINK, {1: 0}),
        (19, {6: 0, 7: 0, 5: 0x2 | 0x4}),  # RTM_SETLINK; PVID, untagged
    ]


def test_all_vlans_there_are() -> None:
    """In requests that the keeper takes."""
    port = Bridge("lan", tagged=range(1, 4095))
    _, _, *others = configure_port(port._settings, "p1", 77)
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
