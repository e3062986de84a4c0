"""Needs vdens and vde_plug 4.0 with libvdeplug-vlan and -agno, vde_switch, tshark, ...

Whether both sides talk, with all kinds of traffic, is in test_schemes.py. This is about
what is seen on the way, what may not pass, and who reads our captures. Where vdens may
not open /dev/net/tun, vde_plug joins the same network to a switch, and a second stack
on that switch is theirs.

Debian's vlan plug-in gives out frames of the wrong length when they keep a tag, so its
side is an untagged one here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth_transports.vde import VdeTransport
from aioioth_transports.vlan import VlanTransport
from tests.interop.conftest import (
    PATIENCE,
    THEIRS,
    Shell,
    a_shell,
    listens,
    need,
    running,
    soon,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from aioioth.abc import Plug

    Theirs = Callable[[str], contextlib.AbstractAsyncContextManager[Shell]]

OURS = ["10.0.0.1/24", "fd00::1/64"]
OTHERS = ["10.0.0.3/24", "fd00::3/64"]
OUR_HOSTS = ["10.0.0.1", "fd00::1"]
THEIR_HOSTS = ["10.0.0.2", "fd00::2"]

KEY = "00112233445566778899aabbccddeeff"
PLAINTEXT = "c0ffee5eed"


@pytest.fixture
def hub(home: Path) -> Iterator[Path]:
    """Directory of a hub of vde_plug's: everybody hears everything."""
    need("vde_plug")
    directory = home / "hub"
    with running("vde_plug", "null://", f"hub://{directory}"):
        for _ in soon("vde_plug listens"):
            if listens(directory / "ctl"):
                break
        yield directory


@pytest.fixture
def key(home: Path) -> Path:
    return a_key(home / "key", KEY)


def a_key(file: Path, text: str) -> Path:
    file.touch(0o600)
    file.write_text(f"{text}\n")
    return file


@pytest.fixture
def theirs(home: Path, tap_opens: bool) -> Theirs:
    """Gives a shell in Debian's stack on a network, configured."""
    need("ip", "nc", "ping", "vdens" if tap_opens else "vde_plug")
    plugged = _vdens if tap_opens else _vde_plug

    @contextlib.asynccontextmanager
    async def open_theirs(vnl: str) -> AsyncIterator[Shell]:
        async with plugged(vnl, home) as shell:
            ipv4, ipv6 = THEIRS
            said = await shell.run(f"""
                ip address add {ipv4} dev vde0
                ip address add {ipv6} dev vde0 nodad
                ip link set vde0 up
            """)
            assert said == ""
            yield shell

    return open_theirs


@contextlib.asynccontextmanager
async def _vdens(vnl: str, home: Path) -> AsyncIterator[Shell]:
    async with a_shell("vdens", vnl, "sh") as shell:
        yield shell


@contextlib.asynccontextmanager
async def _vde_plug(vnl: str, home: Path) -> AsyncIterator[Shell]:
    far = home / "far"
    with running("vde_plug", vnl, f"switch://{far}"):
        for _ in soon(f"vde_plug opens {vnl}"):
            if listens(far / "ctl"):
                break
        async with (
            aioioth.Stack(f"vde://{far}", name="far") as stack,
            a_shell("sh", start=stack.create_subprocess_exec) as shell,
        ):
            yield shell


async def ping(shell: Shell, *options: str) -> str:
    """Ask for one echo; what is in it can be found on the wire."""
    return await shell.run(f"ping -n -c 1 -p {PLAINTEXT} {' '.join(options)}")


def our_shell(stack: aioioth.Stack) -> contextlib.AbstractAsyncContextManager[Shell]:
    return a_shell("sh", start=stack.create_subprocess_exec)


def frames(plug: Plug) -> Iterator[bytes]:
    """Return what has come so far."""
    buffer = memoryview(bytearray(65554))
    with contextlib.suppress(BlockingIOError):
        while length := plug.recv_into(buffer):
            yield bytes(buffer[:length])


@contextlib.asynccontextmanager
async def listening(hub: Path) -> AsyncIterator[Plug]:
    """Gives a plug that hears all."""
    with contextlib.closing(await VdeTransport(f"{hub}").open("listener")) as plug:
        yield plug


# VLANs and agno on a hub

WIRE = [
    ("vlan://4{HUB}", "81000004"),
    ("vlan://4/qinq{HUB}", "88a80004"),
    ("vlan://4{vlan://5/qinq{HUB}}", "88a8000581000004"),
    ("agno://KEY{HUB}", "a6de"),
    ("agno://KEY[ethtype=0x1234]{HUB}", "1234"),
    ("agno://KEY[ethtype=ipv6]{HUB}", "86dd"),
    ("vlan://4{agno://KEY{HUB}}", "a6de"),
    ("agno://KEY{vlan://4{HUB}}", "81000004a6de"),
]


@pytest.mark.parametrize(("vnl", "wire"), WIRE, ids=[vnl for vnl, _ in WIRE])
async def test_what_is_on_the_wire(
    hub: Path, key: Path, theirs: Theirs, vnl: str, wire: str
) -> None:
    vnl = vnl.replace("HUB", f"vde://{hub}").replace("KEY", str(key))
    async with (
        listening(hub) as listener,
        aioioth.Stack(vnl, ip=OURS) as us,
        theirs(vnl) as there,
        our_shell(us) as here,
    ):
        for host in OUR_HOSTS:
            assert "1 received" in await ping(there, "-W 5", host)
        for host in THEIR_HOSTS:
            assert "1 received" in await ping(here, "-W 5", host)
        heard = list(frames(listener))
    assert len(heard) >= 8  # a question and an answer, four times
    expected = bytes.fromhex(wire)
    assert {frame[12 : 12 + len(expected)] for frame in heard} == {expected}
    readable = [frame for frame in heard if bytes.fromhex(PLAINTEXT) in frame]
    assert len(readable) == (0 if "agno" in vnl else 8)


@pytest.mark.parametrize("option", ["copy", "rand"])
async def test_agno_with_other_ethertypes(
    hub: Path, key: Path, theirs: Theirs, option: str
) -> None:
    vnl = f"agno://{key}[ethtype={option}]{{vde://{hub}}}"
    async with (
        listening(hub) as listener,
        aioioth.Stack(vnl, ip=OURS) as us,
        theirs(vnl) as there,
        our_shell(us) as here,
    ):
        assert "1 received" in await ping(there, "-W 5", OUR_HOSTS[0])
        assert "1 received" in await ping(here, "-W 5", THEIR_HOSTS[0])
        heard = list(frames(listener))
    kinds = {frame[12:14] for frame in heard}
    if option == "copy":
        # IPv4 and ARP; their side may talk about IPv6 besides.
        assert (
            {b"\x08\x00", b"\x08\x06"} <= kinds <= {b"\x08\0", b"\x08\x06", b"\x86\xdd"}
        )
    else:
        assert len(kinds) > 4
        assert min(kinds) >= b"\x06\x00"
    assert not any(bytes.fromhex(PLAINTEXT) in frame for frame in heard)


@pytest.mark.parametrize(
    ("ours", "others", "cause"),
    [
        ("vlan://4{HUB}", "HUB", "other VLAN"),
        ("vlan://4{HUB}", "vlan://5{HUB}", "other VLAN"),
        ("vlan://4{HUB}", "vlan://4/qinq{HUB}", "other VLAN"),
        ("agno://KEY{HUB}", "agno://WRONG{HUB}", "undecipherable"),
        ("agno://KEY{HUB}", "HUB", "undecipherable"),
    ],
)
async def test_who_is_not_on_the_network(
    hub: Path, key: Path, home: Path, theirs: Theirs, ours: str, others: str, cause: str
) -> None:
    words = {"HUB": f"vde://{hub}", "KEY": str(key)}
    words["WRONG"] = str(a_key(home / "wrong", KEY[::-1]))
    for word, value in words.items():
        ours, others = ours.replace(word, value), others.replace(word, value)
    async with aioioth.Stack(ours, ip=OURS) as us, theirs(others) as there:
        there.begin(f"ping -n -c 3 -i 0.2 -W 1 {OUR_HOSTS[0]}")
        async with asyncio.timeout(PATIENCE):
            while us.stats()["vde0"].received.drops.get(cause, 0) < 3:
                await asyncio.sleep(0.002)
        received = us.stats()["vde0"].received
        assert received.frames == 0
        assert received.drops.keys() == {cause}


def arp_request(source: str, asked: str) -> bytes:
    """RFC 826."""
    mac = bytes.fromhex("020000000009")
    sender, target = (bytes(map(int, each.split("."))) for each in (source, asked))
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return bytes.fromhex("0806") + head + mac + sender + bytes(6) + target


async def test_a_number_that_is_another_one_elsewhere(
    hub: Path, theirs: Theirs
) -> None:
    """Theirs is VLAN 4; here it is tagged 7, and has a priority."""
    async with (
        listening(hub) as listener,
        theirs(f"vlan://4{{vde://{hub}}}"),
    ):
        transport = VlanTransport(f"/tag=7-4{{vde://{hub}}}")
        with contextlib.closing(await transport.open("us")) as plug:
            addresses = b"\xff" * 6 + bytes.fromhex("020000000009")
            request = arp_request("10.0.0.9", "10.0.0.2")
            plug.send(addresses + bytes.fromhex("8100 a007") + request)
            found = b""
            async with asyncio.timeout(PATIENCE):
                while not found.startswith(addresses[6:]):
                    await asyncio.sleep(0.002)
                    found = next(frames(plug), b"")
        assert found[12:18] == bytes.fromhex("8100 0007 0806")
        assert found[24:26] == b"\0\2"  # a reply
        tags = {f[12:16] for f in frames(listener) if f[16:18] == b"\x08\x06"}
        assert tags == {bytes.fromhex("8100a004"), bytes.fromhex("81000004")}


async def test_agno_through_vde_switch(
    vde_switch: Any, key: Path, theirs: Theirs, echo: Any
) -> None:
    """It cuts frames off that are longer than 1518 bytes; ours are not."""
    vnl = f"agno://{key}{{{vde_switch.vnl}}}"
    async with (
        aioioth.Stack(vnl, ip=OURS) as us,
        theirs(vnl) as there,
        our_shell(us) as here,
    ):
        for size in ("-M do -s 1441", "-W 5"):
            assert "1 received" in await ping(here, size, THEIR_HOSTS[0])
        # The most that fits, if they are told: 1518 - 14 - 16.
        assert await there.run("ip link set vde0 mtu 1488") == ""
        # Nobody tells their side of TCP, but ours does.
        text = "abcdefg\n" * 10_000
        for host in OUR_HOSTS:
            async with await us.start_server(echo, host, 7):
                said = await there.run(
                    f"yes abcdefg | head -n 10000 | nc -nN -w 10 {host} 7"
                )
                assert said == text


# Our own encryption


async def test_sealed_through_vde_switch(
    vde_switch: Any, home: Path, echo: Any, ask: Any
) -> None:
    """Frames as long as it takes them; also when it was away for a while."""
    key, seen = a_key(home / "key", 2 * KEY), home / "seen.pcapng"
    text = "abcdefgh" * 50_000
    vnl = f"seal://{key}{{capture://{seen}{{{vde_switch.vnl}}}}}"
    async with (
        aioioth.Stack(vnl, ip=OURS) as us,
        aioioth.Stack(f"seal://{key}{{{vde_switch.vnl}}}", ip=OTHERS) as other,
        await us.start_server(echo, None, 7),
        our_shell(other) as there,
    ):
        for host in OUR_HOSTS:
            assert await ask(other, host, 7, text) == text
        assert "1 received" in await ping(there, "-M do -s 1425 -W 5", OUR_HOSTS[0])
        streams = [stack.events(aioioth.events.StackEvent) for stack in (us, other)]
        vde_switch.kill()
        for events in streams:
            assert isinstance(await anext(events), aioioth.CarrierDown)
        vde_switch.start()
        for events in streams:
            assert isinstance(await anext(events), aioioth.CarrierUp)
        for host in OUR_HOSTS:
            assert await ask(other, host, 7, text) == text
        assert us.stats()["vde0"].received.drops == {}
    kinds = told_by(
        "tshark", "-r", str(seen), "-T", "fields", "-e", "eth.type", "-e", "frame.len"
    )
    told = [line.split("\t") for line in kinds.splitlines()]
    assert {kind for kind, _ in told} == {"0x88b6"}
    assert max(int(length) for _, length in told) == 1514


# Captures


def told_by(*command: str, stdin: Path | None = None, but: str = "") -> str:
    """Run a program that must not complain, `but` of this, and return what it says."""
    need(command[0])
    with contextlib.ExitStack() as until_end:
        given: Any = subprocess.DEVNULL
        if stdin is not None:
            given = until_end.enter_context(stdin.open("rb"))
        run = subprocess.run(
            command, stdin=given, capture_output=True, text=True, timeout=30
        )
    complaints = [
        line
        for line in run.stderr.splitlines()
        if not line.startswith(("Running as user", "reading from file"))
    ]
    if but and len(complaints) == 1 and but in complaints[0]:
        return run.stdout
    assert run.returncode == 0, run.stderr
    assert complaints == []
    return run.stdout


FIELDS = ["-e", "frame.interface_name", "-e", "frame.packet_flags_direction"]
FIELDS += ["-e", "ip.src", "-e", "icmp.type"]


@pytest.fixture
async def file(home: Path) -> Path:
    """A capture of two pings, the second after the network was found again."""
    path = home / "frames.pcapng"
    async with aioioth.Stack("memory://lan", ip=OTHERS):
        for options in ("", "[append]"):
            vnl = f"capture://{path}{options}{{memory://lan}}"
            async with aioioth.Stack(vnl, ip=OURS) as us:
                ping = await us.create_subprocess_exec(
                    "ping", "-n", "-c", "1", "-W", "5", "10.0.0.3", stdout=-3
                )
                assert await ping.wait() == 0
    return path


async def test_tshark_reads_a_capture(file: Path) -> None:
    lines = told_by(
        "tshark", "-n", "-r", str(file), "-Y", "icmp", "-T", "fields", *FIELDS
    )
    out = ["memory://lan", "0x00000002", "10.0.0.1", "8"]
    back = ["memory://lan", "0x00000001", "10.0.0.3", "0"]
    assert [line.split("\t") for line in lines.splitlines()] == [out, back, out, back]


async def test_capinfos_reads_a_capture(file: Path) -> None:
    told = told_by("capinfos", str(file))
    assert "File type:           Wireshark/... - pcapng" in told
    assert "File timestamp precision:  nanoseconds (9)" in told
    assert "Strict time order:   True" in told
    assert "Capture application: aioioth" in told
    assert "Name = memory://lan" in told


async def test_tcpdump_reads_a_capture(file: Path) -> None:
    lines = told_by("tcpdump", "-n", "-r", "-", "icmp", stdin=file).splitlines()
    told = [line.partition(" IP ")[2].partition(",")[0] for line in lines]
    out = "10.0.0.1 > 10.0.0.3: ICMP echo request"
    back = "10.0.0.3 > 10.0.0.1: ICMP echo reply"
    assert told == [out, back, out, back]


FOR_EVER = """
import asyncio, sys
from aioioth_transports.capture import CaptureTransport
async def main():
    plug = await CaptureTransport(sys.argv[1]).open("me")
    for _ in range(1000):
        plug.send(bytes(12) + b"\\x88\\xb5" + bytes(1500))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print("ready", flush=True)
    while True:
        plug.send(bytes(12) + b"\\x88\\xb6" + bytes(1500))
        await asyncio.sleep(0)
asyncio.run(main())
"""


def test_a_program_that_is_killed_loses_next_to_nothing(home: Path) -> None:
    path = home / "frames.pcapng"
    program = [sys.executable, "-c", FOR_EVER, f"{path}{{null://}}"]
    with running(*program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    # The kernel stops in the middle of a write whose writer is killed, so there may be
    # half a frame at the end, which readers of captures know.
    read = ["tshark", "-n", "-r", str(path), "-Y", "eth.type == 0x88b5"]
    fields = ["-T", "fields", "-e", "frame.len"]
    lengths = told_by(*read, *fields, but="cut short in the middle of a packet")
    assert len(lengths.split()) == 1000


async def test_tshark_looks_on(home: Path) -> None:
    need("tshark", "dumpcap", "ping")
    fifo = home / "fifo"
    os.mkfifo(fifo)
    vnl = f"capture://{fifo}{{memory://lan}}"
    command = ["tshark", "-n", "-l", "-i", os.fspath(fifo), "-Y", "icmp.type == 0"]
    async with (
        aioioth.Stack("memory://lan", ip=OTHERS),
        aioioth.Stack(vnl, ip=OURS) as us,
        our_shell(us) as here,
    ):
        with running(*command, "-T", "fields", *FIELDS, stderr=-3) as tshark:
            assert tshark.stdout is not None
            # It takes a while until it reads; whoever looks on sees what comes then.
            line = asyncio.create_task(asyncio.to_thread(tshark.stdout.readline))
            for _ in itertools.takewhile(lambda _: not line.done(), range(100)):
                assert "1 received" in await ping(here, "-W 5", "10.0.0.3")
                await asyncio.wait([line], timeout=PATIENCE / 100)
            fields = (await line).decode().split()
        assert fields == ["memory://lan", "0x00000001", "10.0.0.3", "0"]
        # It is gone, and nobody minds.
        assert "1 received" in await ping(here, "-W 5", "10.0.0.3")
        received = us.stats()["vde0"].received
        assert received.drops == {}
