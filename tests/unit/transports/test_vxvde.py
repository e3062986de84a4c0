"""vxvde on the loopback interface; IPv6, and several hosts, on stacks of our own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import socket
from contextlib import AsyncExitStack, ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth.testing import cancel_everywhere
from aioioth_transports.vxvde import VxvdePlug, VxvdeTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

A, B, C = (bytes.fromhex(f"02000000000{n}") for n in (1, 2, 3))
ALL = b"\xff" * 6
HEADER = bytes.fromhex("0800000000000100")
GROUP = ("239.0.0.1", 14789)

HOSTS = {
    "one": ["192.168.0.1/24", "fd01::1/64"],
    "two": ["192.168.0.2/24", "fd01::2/64"],
}


def frame(to: bytes, source: bytes, text: bytes = b"hello") -> bytes:
    return to + source + b"\x88\xb5" + text


async def receive(plug: abc.Plug) -> bytes:
    """Return the next frame, waiting for it as a pump does."""
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(65554))
    readable = asyncio.Event()
    loop.add_reader(plug.fileno(), readable.set)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    length = plug.recv_into(buffer)
                except BlockingIOError:
                    readable.clear()
                    await readable.wait()
                else:
                    assert length is not None
                    return bytes(buffer[:length])
    finally:
        loop.remove_reader(plug.fileno())


def waiting(plug: abc.Plug) -> list[bytes]:
    """Return what waits; on the loopback interface it waits as soon as it is sent."""
    buffer = memoryview(bytearray(65554))
    frames = []
    empty = 0
    while empty < 8:  # one socket or the other, and what is of no use between
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            empty += 1
        else:
            assert length is not None
            frames.append(bytes(buffer[:length]))
    return frames


def counted(plug: abc.CountsDrops) -> dict[str, int]:
    return {cause: count for cause, count in plug.drops.items() if count}


def known(plug: VxvdePlug) -> dict[str, int]:
    """Return the ports where addresses are."""
    return {peer.mac: peer.port for peer in plug.peers}


def port(plug: VxvdePlug) -> int:
    number: int = plug._sockets[0].getsockname()[1]
    return number


@pytest.fixture
async def plugs() -> AsyncIterator[list[VxvdePlug]]:
    transport = VxvdeTransport("/if=lo")
    found = [await transport.open(name) for name in ("one", "two", "three")]
    yield found
    for plug in found:
        plug.close()


@pytest.fixture
def outsider() -> Iterator[socket.socket]:
    """A program that speaks to the group."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        index = socket.if_nametoindex("lo").to_bytes(4, "little")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + index)
        sock.bind(("127.0.0.1", 0))
        yield sock


# What may stand there


@pytest.mark.parametrize(
    ("address", "vni"),
    [
        ("", 1),
        ("/vni=42", 42),
        ("/vni=0x", None),
        ("/vni=16777215", 0xFFFFFF),
        ("/vni=16777216", None),
        ("/vni", os.getegid() & 0xFFFFFF),
        ("/vni=", os.getegid() & 0xFFFFFF),
        ("/vni=adm", grp.getgrnam("adm").gr_gid),
        ("/grp=adm", grp.getgrnam("adm").gr_gid),
        ("/grp=7", 7),
        ("/grp=7/vni=3", 3),
        ("/vni=3/grp=7", 3),
        ("/vni=nobody-has-this-group", None),
        ("/grp=nobody-has-this-group", None),
    ],
)
def test_the_networks_number(address: str, vni: int | None) -> None:
    if vni is None:
        with pytest.raises(VnlError, match="expected a number") as caught:
            VxvdeTransport(address)
        assert caught.value.position == address.index("=") + 1
    else:
        assert VxvdeTransport(address)._vni == vni


@pytest.mark.parametrize(
    ("address", "there"),
    [
        ("/if=lo", ("239.0.0.1", 14789)),
        ("/if=lo/v4/v6", ("239.0.0.1", 14789)),
        ("234.0.0.1/port=5000/if=lo", ("234.0.0.1", 5000)),
        ("/if=1/grp=66051", ("239.1.2.3", 14789)),
    ],
)
async def test_the_group(address: str, there: tuple[str, int]) -> None:
    transport = VxvdeTransport(address)
    assert isinstance(transport, abc.FrameTransport)
    with closing(await transport.open("me")) as plug:
        assert isinstance(plug, abc.Plug)
        assert isinstance(plug, abc.CountsDrops)
        assert isinstance(plug, abc.SignalsRoom)
        assert plug._destination == there
        assert plug._sockets[1].getsockname() == there


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1", "expected a multicast group, such as 239.0.0.1"),
        ("::1", "expected a multicast group, such as 239.0.0.1"),
        ("239.0.0.1/v6", "v6: the address is one of IPv4"),
        ("ff05::1/v4", "v4: the address is one of IPv6"),
        ("/port=0", "port: expected a number from 1 to 65535"),
        ("/ttl=256", "ttl: expected a number from 0 to 255"),
        ("/rcvbuf=much", "rcvbuf: expected a size"),
        ("/hashsize=0", "hashsize: expected a number from 1"),
        ("/expiretime=0", "expiretime: expected a number from 1"),
        ("/if=a/if=", "if: expected the name of an interface"),
        ("/if=a b", "if: expected the name of an interface"),
        ("/if=sixteen-letters-", "if: expected the name of an interface"),
        ("/bind=localhost", "bind: expected one of our IP addresses"),
        ("/colour=red", "no option 'colour'"),
        ("/if", "if needs a value"),
        ("/v6=1", "v6 takes no value"),
    ],
)
def test_no_address(address: str, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        VxvdeTransport(address)
    assert caught.value.reason.startswith(reason)
    assert 0 <= caught.value.position <= len(address)


@given(st.text(st.sampled_from("/=v4v6ifportvnigrp239.:f\0 0"), max_size=30))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    try:
        VxvdeTransport(text)
    except VnlError as error:
        position = error.position
    else:
        position = 0
    assert 0 <= position <= len(text)


# Opening


@pytest.mark.parametrize(
    ("address", "reason", "code"),
    [
        ("/if=nope", "there is no interface 'nope': see 'ip link'", errno.ENODEV),
        ("/if=777", "there is no interface '777'", errno.ENODEV),
        ("/if=99999999999", "there is no interface '99999999999'", errno.ENODEV),
        ("localhost/if=lo", "is not a multicast group", errno.EINVAL),
        ("ff02::1", "no interface leads to the group ff02::1", errno.EINVAL),
        ("no.such.invalid", "'no.such.invalid' has no address", errno.EADDRNOTAVAIL),
        ("/if=lo/bind=192.0.2.1", "192.0.2.1 is no address of", errno.EADDRNOTAVAIL),
        ("/if=lo/bind=::1", "'::1' has no IPv4 address", errno.EADDRNOTAVAIL),
    ],
)
async def test_it_cannot_be_opened(address: str, reason: str, code: int) -> None:
    with pytest.raises(BrokenTransportError) as caught:
        await VxvdeTransport(address).open("me")
    assert reason in str(caught.value)
    assert caught.value.errno == code
    assert caught.value.vnl == f"vxvde://{address}"


@pytest.mark.parametrize("address", ["", "/v6"])
async def test_no_route_to_the_group(address: str) -> None:
    async with aioioth.Stack() as host:
        with host.activate(patch=True):
            with pytest.raises(BrokenTransportError, match="/if=NAME") as caught:
                await VxvdeTransport(address).open("me")
    assert caught.value.errno in {errno.ENODEV, errno.ENETUNREACH}


async def test_an_interface_that_does_not_lead_there() -> None:
    async with aioioth.Stack() as host:
        with host.activate(patch=True):
            reason = "interface lo does not lead to the group"
            with pytest.raises(BrokenTransportError, match=reason):
                await VxvdeTransport("/v6/if=lo").open("me")


async def test_cancelled_at_each_await() -> None:
    async def life() -> None:
        (await VxvdeTransport("/if=lo").open("me")).close()
        await asyncio.sleep(0)

    assert await cancel_everywhere(life) > 0


async def test_options_reach_the_sockets() -> None:
    vnl = "/if=lo/ttl=7/rcvbuf=32K/bind=127.0.0.1"
    with closing(await VxvdeTransport(vnl).open("me")) as plug:
        own, heard = plug._sockets
        assert own.getsockname()[0] == "127.0.0.1"
        for sock in (own, heard):
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 7
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 32768


async def test_a_network_that_stays_on_this_host() -> None:
    with closing(await VxvdeTransport("/if=lo/ttl=0").open("one")) as one:
        with closing(await VxvdeTransport("/if=lo/ttl=0").open("two")) as two:
            one.send(frame(ALL, A))
            assert waiting(two) == [frame(ALL, A)]
            two.send(frame(A, B))
            assert waiting(one) == [frame(A, B)]


# Frames


async def test_a_switch_without_a_middle(plugs: list[VxvdePlug]) -> None:
    one, two, three = plugs
    one.send(frame(ALL, A))
    assert waiting(two) == waiting(three) == [frame(ALL, A)]
    assert waiting(one) == []  # its own echo
    two.send(frame(A, B))
    assert waiting(one) == [frame(A, B)]
    assert waiting(three) == []
    one.send(frame(B, A))
    assert waiting(two) == [frame(B, A)]
    one.send(frame(C, A))  # nobody was heard there
    assert waiting(two) == waiting(three) == [frame(C, A)]
    assert known(one) == {B.hex(":"): port(two)}
    assert known(two) == known(three) == {A.hex(":"): port(one)}
    assert [counted(plug) for plug in plugs] == [{}, {}, {}]


async def test_multicast_frames_go_to_all(plugs: list[VxvdePlug]) -> None:
    one, two, three = plugs
    mine = frame(b"\x33\x33\0\0\0\1", A)
    one.send(mine)
    assert waiting(two) == waiting(three) == [mine]


@pytest.mark.parametrize("length", [14, 15, 1514, 9234])
async def test_frames_pass(plugs: list[VxvdePlug], length: int) -> None:
    one, two, _ = plugs
    sent = frame(ALL, A)[:14] + os.urandom(length - 14)
    assert one.send(memoryview(sent)) == length
    assert waiting(two) == [sent]
    answer = A + B + sent[12:]
    assert two.send(answer) == length
    assert waiting(one) == [answer]


async def test_frames_that_are_none(plugs: list[VxvdePlug]) -> None:
    for length, code in ((0, errno.ENOMSG), (13, errno.ENOMSG), (65500, 90)):
        with pytest.raises(OSError) as caught:
            plugs[0].send(bytes(length))
        assert caught.value.errno == code
    assert errno.EMSGSIZE == 90


async def test_who_moves_is_found_at_once(plugs: list[VxvdePlug]) -> None:
    one, two, three = plugs
    two.send(frame(ALL, B))
    assert waiting(one) == [frame(ALL, B)]
    three.send(frame(ALL, B))
    assert waiting(one) == [frame(ALL, B)]
    assert known(one) == {B.hex(":"): port(three)}


async def test_a_goodbye_is_heard(plugs: list[VxvdePlug]) -> None:
    one, two, three = plugs
    two.send(frame(ALL, B))
    three.send(frame(ALL, C))
    waiting(one)
    assert known(one) == {B.hex(":"): port(two), C.hex(":"): port(three)}
    gone = port(two)
    two.close()
    two.close()
    assert waiting(one) == []
    assert gone not in known(one).values()
    assert known(one) == {C.hex(":"): port(three)}
    assert counted(one) == {}
    assert two.fileno() == two.room_fileno() == two.hangup_fileno() == -1
    for use in (lambda: two.send(frame(ALL, B)), lambda: waiting(two)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADF


async def test_a_forked_child_does_not_say_goodbye(plugs: list[VxvdePlug]) -> None:
    one, two, _ = plugs
    two.send(frame(ALL, B))
    waiting(one)
    child = os.fork()
    if not child:
        two.close()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert waiting(one) == []
    assert known(one) == {B.hex(":"): port(two)}
    one.send(frame(B, A))
    assert waiting(two) == [frame(ALL, B), frame(B, A)][1:]


async def test_other_networks_are_told_apart(plugs: list[VxvdePlug]) -> None:
    with closing(await VxvdeTransport("/if=lo/vni=2").open("me")) as other:
        other.send(frame(ALL, C))
        plugs[0].send(frame(ALL, A))
        assert waiting(other) == []
        assert counted(other) == {"wrong network": 1}
        assert waiting(plugs[1]) == [frame(ALL, A)]
        assert counted(plugs[1]) == {"wrong network": 1}
    assert waiting(plugs[1]) == []  # its goodbye is not for us, either
    assert counted(plugs[1]) == {"wrong network": 2}


async def test_what_is_no_frame_is_counted(
    plugs: list[VxvdePlug], outsider: socket.socket
) -> None:
    for datagram in (
        b"",
        HEADER[:7],
        HEADER + bytes(13),
        HEADER + bytes(9235),
        bytes.fromhex("0800000000000101") + bytes(14),  # compared as a whole
        bytes.fromhex("0800000100000100") + bytes(14),
        HEADER + bytes(14),
    ):
        outsider.sendto(datagram, GROUP)
    for plug in plugs:
        assert waiting(plug) == [bytes(14)]
        assert counted(plug) == {"short": 3, "long": 1, "wrong network": 2}


async def test_a_group_is_no_source(
    plugs: list[VxvdePlug], outsider: socket.socket
) -> None:
    outsider.sendto(HEADER + frame(ALL, b"\3" + A[1:]), GROUP)
    assert len(waiting(plugs[0])) == 1
    assert plugs[0].peers == ()


async def test_the_table_does_not_grow_beyond_its_size(
    outsider: socket.socket,
) -> None:
    with closing(await VxvdeTransport("/if=lo/hashsize=16").open("me")) as plug:
        for number in range(100):
            source = b"\2" + number.to_bytes(5, "big")
            outsider.sendto(HEADER + frame(ALL, source), GROUP)
        assert len(waiting(plug)) == 100
        assert len(plug.peers) == 16


async def test_the_same_port_on_another_host(plugs: list[VxvdePlug]) -> None:
    """It is ours only if the address is ours, too."""
    one = plugs[0]
    assert one._origin(("127.0.0.1", port(one))) is None
    assert one._origin(("192.0.2.1", port(one))) == ("192.0.2.1", port(one))
    assert one._origin(("192.0.2.1", 0)) is None
    assert counted(one) == {"stranger": 1}


async def test_neither_socket_is_starved(plugs: list[VxvdePlug]) -> None:
    one, two, three = plugs
    one.send(frame(ALL, A))
    waiting(two), waiting(three)
    for _ in range(200):
        two.send(frame(A, B))
    three.send(frame(ALL, C))
    buffer = memoryview(bytearray(65554))
    frames = []
    for _ in range(130):
        with contextlib.suppress(BlockingIOError):
            frames.append(bytes(buffer[: one.recv_into(buffer)]))
    assert frame(ALL, C) in frames


async def test_what_nobody_reads_is_counted(plugs: list[VxvdePlug]) -> None:
    one, two, _ = plugs
    for sock in two._sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(100):
        one.send(frame(ALL, A))
    arrived = len(waiting(two))
    assert 0 < arrived < 100
    assert counted(two) == {"receive queue full": 100 - arrived}
    two.close()
    assert counted(two) == {"receive queue full": 100 - arrived}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.binary(max_size=40) | st.binary().map(HEADER.__add__)))
def test_any_datagram_is_a_frame_or_is_counted(data: list[bytes]) -> None:
    async def life() -> None:
        with ExitStack() as undo:
            plug = await VxvdeTransport("/if=lo").open("me")
            undo.enter_context(closing(plug))
            peer = undo.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            for datagram in data:
                peer.sendto(datagram, ("127.0.0.1", port(plug)))
            found = waiting(plug)
            assert found == [
                each[8:] for each in data if each[:8] == HEADER and len(each) >= 22
            ]
            goodbyes = data.count(HEADER)
            assert sum(plug.drops.values()) == len(data) - len(found) - goodbyes

    asyncio.run(life())


# Several hosts


@pytest.fixture
async def hosts() -> AsyncIterator[list[aioioth.Stack]]:
    """Two hosts on a LAN, with an MTU of 1500."""
    async with AsyncExitStack() as undo:
        yield [
            await undo.enter_async_context(
                aioioth.Stack("memory://vxvde", ip=addresses, name=name)
            )
            for name, addresses in HOSTS.items()
        ]


async def open_on(host: aioioth.Stack, address: str) -> VxvdePlug:
    with host.activate(patch=True):
        return await VxvdeTransport(address).open(host.name)


@pytest.mark.usefixtures("_loop_is_content")
@pytest.mark.parametrize(
    ("address", "sources"),
    [
        ("/if=vde0", ("192.168.0.1", "192.168.0.2")),
        ("234.0.0.1/if=vde0/bind=0.0.0.0", ("192.168.0.1", "192.168.0.2")),
        ("/v6/if=vde0", ("fd01::1", "fd01::2")),
        ("ff02::4711/if=vde0", None),
        ("ff02::4711%25vde0", None),
        ("/v6", ("fd01::1", "fd01::2")),
    ],
)
@pytest.mark.parametrize("length", [60, 9234])
async def test_two_hosts(
    hosts: list[aioioth.Stack],
    address: str,
    sources: tuple[str, str] | None,
    length: int,
) -> None:
    one, two = [await open_on(host, address) for host in hosts]
    text = os.urandom(length - 14)
    with closing(one), closing(two):
        one.send(frame(ALL, A, text))
        assert await receive(two) == frame(ALL, A, text)
        two.send(frame(A, B, text))
        assert await receive(one) == frame(A, B, text)
        one.send(frame(B, A, text))
        assert await receive(two) == frame(B, A, text)
        assert waiting(one) == []  # not even the echo
        assert list(known(one)) == [B.hex(":")]
        if sources is not None:
            assert [plug.peers[0].host for plug in (two, one)] == list(sources)
        else:
            assert all(plug.peers[0].host.startswith("fe80:") for plug in (one, two))


async def test_the_interface_is_deleted(hosts: list[aioioth.Stack]) -> None:
    """The membership went with it, so the plug has to be opened anew."""
    host = hosts[0]
    await host.run("/bin/ip link add extra type veth peer name far")
    await host.run("/bin/ip link set extra up; /bin/ip link set far up")
    await host.run("/bin/ip addr add 10.9.9.1/24 dev extra")
    with closing(await open_on(host, "/if=extra")) as plug:
        plug.send(frame(ALL, A))
        await host.run("/bin/ip link del extra")
        with pytest.raises(OSError) as caught:
            plug.send(frame(ALL, A))
        assert caught.value.errno == errno.ENODEV


@pytest.mark.usefixtures("_loop_is_content")
async def test_two_stacks_talk(echo: Any) -> None:
    text = b"abcdefgh" * 20_000
    vnl = "vxvde:///if=lo"
    async with (
        aioioth.Stack(vnl, ip=["10.0.0.1/24", "fd00::1/64"]) as one,
        aioioth.Stack(vnl, ip=["10.0.0.2/24", "fd00::2/64"]) as two,
        await one.start_server(echo, None, 7),
        asyncio.timeout(20),
    ):
        for host in ("10.0.0.1", "fd00::1"):
            reader, writer = await two.open_connection(host, 7)
            writer.write(text)
            writer.write_eof()
            assert await reader.read() == text
            writer.close()
            await writer.wait_closed()
