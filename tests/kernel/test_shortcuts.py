"""``macvlan://`` and ``kvxlan://``, on hosts of two sorts."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.abc import KernelTransport, NewInterface
from aioioth.errors import (
    BrokenTransportError,
    ClosedError,
    ConfigurationError,
    MissingPrivilegeError,
    NetlinkError,
)
from aioioth.testing import cancel_everywhere
from aioioth_transports.kvxlan import KernelVxlanTransport
from aioioth_transports.macvlan import MacvlanTransport
from aioioth_transports.vxlan import VxlanTransport
from aioioth_transports.wireguard import WireguardTransport
from tests.kernel.hosts import (
    INSTALLED,
    IP,
    PING,
    Host,
    check,
    open_on,
    program_and_stack,
    wanted_in,
)

if TYPE_CHECKING:
    from tests.kernel.conftest import Ask

pytestmark = INSTALLED

MACS = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"]


# macvlan://


async def test_macvlan(hosts: list[Host], way: str, ask: Ask, echo: Any) -> None:
    here, there = hosts
    transport = MacvlanTransport(here.link)
    async with open_on((here, transport), (here, transport)) as stacks:
        await check(stacks, ask, echo)
        # They are on the LAN as well.
        await there.ip(f"address add 10.0.0.9/24 dev {there.link}")
        assert await stacks[0].run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        assert not any("aio" in name for name in await here.names())


async def test_macvlans_that_are_to_be_apart(hosts: list[Host]) -> None:
    here, there = hosts
    await there.ip(f"address add 10.0.0.9/24 dev {there.link}")
    transport = MacvlanTransport(f"{here.link}[mode=private]")
    async with open_on((here, transport), (here, transport)) as (one, two):
        assert await one.run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        assert await two.run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        assert await one.run(f"{PING} -c 1 -W 1 -q 10.0.0.2") != 0


async def test_a_macvlan_has_its_parent_alone(hosts: list[Host]) -> None:
    here, there = hosts
    await there.ip(f"address add 10.0.0.9/24 dev {there.link}")
    alone = MacvlanTransport(f"{here.link}[mode=passthru]")
    shared = MacvlanTransport(here.link)
    async with open_on((here, alone)) as (stack,):
        assert await stack.run(f"{PING} -c 1 -W 10 -q 10.0.0.9") == 0
        for transport in (alone, shared):
            with pytest.raises(NetlinkError, match="alone") as caught:
                async with open_on((here, transport)):
                    pass
            assert caught.value.errno == errno.EINVAL


async def test_a_mac_address_that_is_taken(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        one = aioioth.Stack(MacvlanTransport(here.link), mac=MACS[0], name="one")
        two = aioioth.Stack(MacvlanTransport(here.link), mac=MACS[0], name="two")
        async with one:
            with pytest.raises(NetlinkError, match="that MAC address already"):
                async with two:
                    pass
        # One that was closed just now is not there any more.
        async with two:
            assert two.interfaces["vde0"].mac == MACS[0]


async def test_there_is_no_such_parent(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        with pytest.raises(BrokenTransportError, match="no interface 'eth9'") as caught:
            await MacvlanTransport("eth9").join("us")
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(BrokenTransportError, match="lo is no Ethernet"):
            await MacvlanTransport("lo").join("us")


async def test_a_parent_that_goes_meanwhile(hosts: list[Host]) -> None:
    here, _ = hosts
    await here.ip("link add v0 type veth peer name v1")
    async with aioioth.Stack() as stack:
        with here.here():
            junction = await MacvlanTransport("v0").join("us")
            await here.ip("link del v0")
            with pytest.raises(NetlinkError, match="v0 is gone") as caught:
                await junction.make(await wanted_in(stack))
    assert caught.value.errno == errno.ENODEV


async def test_a_parent_that_is_a_port(hosts: list[Host]) -> None:
    here, _ = hosts
    assert not await here.ip("link add br9 type bridge")
    try:
        assert not await here.ip("link add v0 type veth peer name v1")
        assert not await here.ip("link set v0 master br9")
        with here.here(), pytest.raises(NetlinkError, match="a port of a bridge"):
            async with aioioth.Stack(MacvlanTransport("v0")):
                pass
    finally:
        await here.ip("link del v0")
        await here.ip("link del br9")


async def test_the_mtu_is_the_parents(hosts: list[Host]) -> None:
    here, _ = hosts
    await here.ip("link add v0 mtu 9000 type veth peer name v1")
    try:
        with here.here():
            junction = await MacvlanTransport("v0").join("us")
            assert junction.mtu == 9000
            transport = MacvlanTransport("v0")
            async with aioioth.Stack(transport, mtu=9000) as stack:
                assert stack.interfaces["vde0"].mtu == 9000
            with pytest.raises(ConfigurationError, match="carries 9000 at most"):
                async with aioioth.Stack(transport, mtu=9001):
                    pass
    finally:
        await here.ip("link del v0")


# kvxlan://

NETWORKS = {
    "ipv4-group": ("239.1.1.1/if=LINK/vni=42", "239.1.1.1/if=LINK/vni=42"),
    "ipv6-group": ("ff05::100/if=LINK/vni=42", "ff05::100/if=LINK/vni=42"),
    "ipv6-link": ("ff02::100/if=LINK/vni=42", "ff02::100/if=LINK/vni=42"),
    "ipv4-remote": ("192.168.0.2/vni=7/port=8472", "192.168.0.1/vni=7/port=8472"),
    "ipv6-remote": ("fd01::2/vni=7", "fd01::1/vni=7"),
}


@pytest.fixture(params=NETWORKS.values(), ids=list(NETWORKS))
def addresses(request: pytest.FixtureRequest, hosts: list[Host]) -> list[str]:
    """The address of the network, as it is on each host."""
    return [
        address.replace("LINK", host.link)
        for address, host in zip(request.param, hosts, strict=True)
    ]


@pytest.mark.parametrize("other", [KernelVxlanTransport, VxlanTransport])
async def test_kvxlan(
    hosts: list[Host], addresses: list[str], other: Any, ask: Ask, echo: Any
) -> None:
    kernels = KernelVxlanTransport(addresses[0])
    places = zip(hosts, (kernels, other(addresses[1])), strict=True)
    async with open_on(*places, mtu=1430) as stacks:
        await check(stacks, ask, echo)


async def test_kvxlan_is_moved(hosts: list[Host], way: str) -> None:
    async with open_on(
        *((host, KernelVxlanTransport(f"239.1.1.1/if={host.link}")) for host in hosts)
    ) as (one, _):
        assert one.interfaces["vde0"].mtu == 1450
        assert await one.run(f"{PING} -c 1 -W 10 -q 10.0.0.2") == 0


async def test_the_route_leads_to_the_group(hosts: list[Host]) -> None:
    here, _ = hosts
    transport = KernelVxlanTransport("239.1.1.1")
    with here.here():
        with pytest.raises(BrokenTransportError, match="no interface leads to the gr"):
            await transport.join("us")
        await here.ip(f"route add 239.0.0.0/8 dev {here.link}")
        junction = await transport.join("us")
        assert junction.mtu == 1450
    async with open_on((here, transport)):
        pass


async def test_a_vni_that_is_taken(hosts: list[Host]) -> None:
    here, _ = hosts
    transport = KernelVxlanTransport("192.168.0.2/vni=9")
    async with open_on((here, transport)):
        with pytest.raises(NetlinkError, match="VNI 9 on port 4789 already"):
            async with open_on((here, transport)):
                pass
        # Another one is another network, and shares the port.
        async with open_on((here, KernelVxlanTransport("192.168.0.2/vni=10"))):
            pass
    # One that was closed just now is not there any more.
    async with open_on((here, transport)):
        pass


async def test_a_port_that_is_taken(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        plug = await VxlanTransport("192.168.0.2").open("us")
    try:
        with pytest.raises(NetlinkError, match="UDP port 4789 is taken") as caught:
            async with open_on((here, KernelVxlanTransport("192.168.0.2"))):
                pass
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        plug.close()


async def test_a_stack_that_is_closed_while_the_port_is_taken(
    hosts: list[Host],
) -> None:
    """The number of its descriptor may be another's then."""
    here, _ = hosts
    stack = aioioth.Stack()
    await stack.open()
    namespace = stack.namespace
    assert namespace is not None
    with here.here():
        plug = await VxlanTransport("192.168.0.2").open("us")
        junction = await KernelVxlanTransport("192.168.0.2").join("us")
        wanted = NewInterface("x0", 1000, 1400, None, namespace, stack.socket)
        making = asyncio.create_task(junction.make(wanted))
        await asyncio.sleep(0)
        assert not making.done()
        stack.close()
        plug.close()
        with pytest.raises(ClosedError):
            await making


async def test_the_socket_is_the_hosts(hosts: list[Host]) -> None:
    here, _ = hosts
    async with open_on((here, KernelVxlanTransport("192.168.0.2"))) as (stack,):
        with here.here():
            theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours = stack.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
        with theirs, ours:
            ours.bind(("0.0.0.0", 4789))
            with pytest.raises(OSError) as caught:
                theirs.bind(("0.0.0.0", 4789))
            assert caught.value.errno == errno.EADDRINUSE
        if here.stack is not None:  # then nothing of it is where the program is
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.bind(("0.0.0.0", 4789))


async def test_the_frames_of_kvxlan_are_vxlans(hosts: list[Host]) -> None:
    here, _ = hosts
    with here.here():
        plug = await KernelVxlanTransport("192.168.0.2/vni=3").open("us")
    assert plug.mtu == 9216
    plug.close()


# All of them


@pytest.fixture(params=["macvlan", "kvxlan"])
def transport(request: pytest.FixtureRequest, hosts: list[Host]) -> KernelTransport:
    made: KernelTransport
    if request.param == "macvlan":
        made = MacvlanTransport(hosts[0].link)
    else:
        made = KernelVxlanTransport("192.168.0.2")
    return made


async def test_a_name_or_number_that_is_taken(
    hosts: list[Host], transport: KernelTransport, way: str
) -> None:
    here, _ = hosts
    before = await here.names()
    async with aioioth.Stack("null://") as stack:
        number = stack.interfaces["vde0"].index
        with here.here():
            junction = await transport.join("us")
            for changes in ({"name": "vde0"}, {"index": number}):
                with pytest.raises(NetlinkError, match="of that name, or number"):
                    await junction.make(await wanted_in(stack, **changes))
            assert await here.names() == before
            await junction.make(await wanted_in(stack))
        names = await stack.run(f"{IP} link show dev test0 up")
        assert names == 0
        assert await here.names() == before


async def test_a_carrier_is_not_set(
    hosts: list[Host], transport: KernelTransport
) -> None:
    async with open_on((hosts[0], transport)) as (stack,):
        with pytest.raises(ConfigurationError, match="'ip link set' in the stack"):
            await stack.interfaces["vde0"].set_carrier(on=False)


async def test_cancellation(hosts: list[Host], transport: KernelTransport) -> None:
    before = await hosts[0].names()

    async def open_one() -> aioioth.Stack:
        with hosts[0].here():
            return await aioioth.Stack(transport, ip="10.0.0.1/24").__aenter__()

    async def close(stack: aioioth.Stack) -> None:
        await stack.aclose()

    assert await cancel_everywhere(open_one, undo=close) > 0
    assert await hosts[0].names() == before


TAKEN = {errno.EEXIST, errno.EINVAL, errno.EADDRINUSE}

PROGRAM = """
import asyncio, sys, aioioth
from aioioth_transports.{module} import {name}

async def main():
    async with aioioth.Stack({name}("{address}"), mac="02:00:00:00:00:0a"):
        print("open", flush=True)
        await asyncio.sleep(100)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("module", "name", "address"),
    [
        ("macvlan", "MacvlanTransport", "p0[mode=passthru]"),
        ("macvlan", "MacvlanTransport", "p0"),
        ("kvxlan", "KernelVxlanTransport", "192.168.0.2"),
    ],
)
async def test_nothing_stays_of_a_program_that_is_killed(
    module: str, name: str, address: str
) -> None:
    text = PROGRAM.format(module=module, name=name, address=address)
    async with program_and_stack() as (here, _):
        before = await here.names()
        with subprocess.Popen(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ) as program:
            assert program.stdout is not None
            assert await asyncio.to_thread(program.stdout.readline) == b"open\n"
            program.send_signal(signal.SIGKILL)
            program.wait()
        scope: dict[str, Any] = {}
        exec(f"from aioioth_transports.{module} import {name} as kind", scope)
        async with asyncio.timeout(20):
            while True:  # its keeper ends after it
                stack = aioioth.Stack(scope["kind"](address), mac=MACS[0])
                try:
                    await stack.__aenter__()
                    break
                except NetlinkError as error:
                    if error.errno not in TAKEN:
                        raise
        await stack.aclose()
        assert await here.names() == before


async def test_without_privileges() -> None:
    if not os.geteuid():
        pytest.skip("root may")
    for transport, advice in (
        (MacvlanTransport("lo"), "making a macvlan of lo: .* It takes root: .*macvtap"),
        (KernelVxlanTransport("127.0.0.1"), "making a vxlan link: .* take vxlan://"),
        (WireguardTransport("/nowhere"), "making a wireguard link: .* seal://"),
    ):
        with pytest.raises(MissingPrivilegeError, match=advice) as caught:
            await transport.join("us")
        assert caught.value.errno == errno.EPERM
        assert isinstance(transport, KernelTransport)
