"""Needs vde_plug, dpipe, vdens, libvdeplug-slirp or passt; each test says which."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import errors
from aioioth.networks import find_network
from aioioth.wire.vdestream import GREETING, VDESTREAM
from aioioth_transports.libvdeplug import LibvdeplugTransport, SlirpTransport
from aioioth_transports.passt import PasstTransport
from tests.interop.conftest import PATIENCE, need, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.interop.conftest import Vdens, VdeSwitch

OURS = ["10.0.0.1/24", "fd00::1/64"]
OTHERS = ["10.0.0.3/24", "fd00::3/64"]
LONG = "abcdefgh" * 50_000
SHORT = "abcdefgh" * 5_000  # less than a pipe holds

both_families = pytest.mark.parametrize(
    ("ours", "theirs"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")]
)


async def heard(stack: aioioth.Stack, host: str) -> None:
    """Say something to an echo on port 7, which may not outlive the end of it."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await stack.open_connection(host, 7)
        writer.write(SHORT[:8000].encode())
        assert await reader.readexactly(8000) == SHORT[:8000].encode()
        writer.close()
        await writer.wait_closed()


# cmd://


@both_families
async def test_vdens_behind_a_command(
    vdens: Vdens, ours: str, theirs: str, echo: Any, ask: Any
) -> None:
    """vde_plug: ping and TCP, in both directions."""
    vnl = f"cmd://vde_plug vde://{vdens.directory}"
    async with (
        aioioth.Stack(vnl, ip=OURS) as stack,
        await stack.start_server(echo, ours, 7),
    ):
        # First, since each vdens has another MAC, and we would remember the last one's.
        async with vdens.serving(theirs, 7):
            await heard(stack, theirs)
        assert " 0% packet loss" in await vdens.ping(ours)
        assert await vdens.ask(ours, 7, SHORT) == SHORT


async def test_the_quotes_of_a_shell(vde_switch: VdeSwitch) -> None:
    """vde_plug."""
    need("vde_plug")
    async with aioioth.Stack(f'cmd://"vde_plug {vde_switch.vnl}"'):
        await vde_switch.until_ports({1})
    await vde_switch.until_ports(set())


async def test_a_command_that_ends_is_started_again(
    vde_switch: VdeSwitch, echo: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """vde_plug."""
    need("vde_plug")
    vnl = f"cmd://vde_plug {vde_switch.vnl}"
    async with (
        aioioth.Stack(vnl, ip=OURS) as left,
        aioioth.Stack(vde_switch.vnl, ip=OTHERS) as right,
        await left.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(right, "10.0.0.1", 7, "before") == "before"
        [pid] = (
            int(each)
            for each in subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-x", "vde_plug"],
                capture_output=True,
                check=True,
            ).stdout.split()
        )
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            while "vde_plug has ended: killed by SIGKILL" not in caplog.text:
                await asyncio.sleep(0.002)
        assert await ask(right, "10.0.0.1", 7, "after") == "after"


async def test_no_such_command() -> None:
    with pytest.raises(errors.BrokenTransportError, match="no program 'no-such'"):
        await aioioth.Stack("cmd://no-such").open()


# stream://

RELAY = """
import asyncio, sys, threading
import aioioth

async def main():
    async with aioioth.Stack("stream://-", ip={ip!r}) as stack:
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()
        async with await stack.start_server(serve, port=7):
            print("ready", file=sys.stderr, flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


@both_families
async def test_our_standard_input_and_output(
    vdens: Vdens, tmp_path: Path, ours: str, theirs: str
) -> None:
    """dpipe, vde_plug, vdens."""
    need("dpipe", "vde_plug")
    program = tmp_path / "relay.py"
    program.write_text(textwrap.dedent(RELAY.format(ip=OURS)))
    command = ["dpipe", "vde_plug", f"vde://{vdens.directory}"]
    command += ["=", sys.executable, os.fspath(program)]
    with running(*command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as both:
        assert both.stderr is not None
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.to_thread(both.stderr.readline) == b"ready\n"
        assert await vdens.ask(ours, 7, SHORT) == SHORT


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_vde_plug_comes_through_nc(
    vdens: Vdens, home: Path, kind: str, echo: Any, ask: Any
) -> None:
    """dpipe, vde_plug, nc, vdens; a plug of ours waits for them."""
    need("dpipe", "vde_plug", "nc")
    vnl, arguments = {
        "tcp": ("stream://127.0.0.1:5000[listen]", ["127.0.0.1", "5000"]),
        "unix": (f"stream://{home}/s[listen]", ["-U", f"{home}/s"]),
    }[kind]
    command = ["dpipe", "vde_plug", f"vde://{vdens.directory}", "=", "nc", *arguments]
    async with (
        aioioth.Stack(vnl, ip=OURS) as stack,
        await stack.start_server(echo, "10.0.0.1", 7),
    ):
        with running(*command, stdin=subprocess.DEVNULL):
            async with vdens.serving("10.0.0.2", 7):
                await heard(stack, "10.0.0.2")
        with running(*command, stdin=subprocess.DEVNULL):  # and come back
            assert await vdens.ask("10.0.0.1", 7, SHORT) == SHORT


# Through libvdeplug


@pytest.mark.skipif(
    LibvdeplugTransport.why_not("vde") is not None, reason="libvdeplug2 is missing"
)
@both_families
async def test_a_switch_through_the_library(
    vdens: Vdens, ours: str, theirs: str, echo: Any, ask: Any
) -> None:
    """libvdeplug2, vdens; as for any scheme that is not ours."""
    transport = LibvdeplugTransport(f"vde://{vdens.directory}")
    async with (
        aioioth.Stack(transport, ip=OURS) as stack,
        await stack.start_server(echo, ours, 7),
    ):
        async with vdens.serving(theirs, 7):
            await heard(stack, theirs)
        assert " 0% packet loss" in await vdens.ping(ours)
        assert await vdens.ask(ours, 7, SHORT) == SHORT


slirp_only = pytest.mark.skipif(
    SlirpTransport.why_not("slirp") is not None, reason="libvdeplug-slirp is missing"
)


@slirp_only
async def test_slirp_leads_to_the_host(echo: Any, ask: Any) -> None:
    """libvdeplug-slirp: its own address is the host's loopback."""
    async with (
        await asyncio.start_server(echo, "127.0.0.1", 7777),
        aioioth.Stack("slirp://", ip="10.0.2.15/24", gw="10.0.2.2") as stack,
    ):
        assert await ask(stack, "10.0.2.2", 7777, LONG) == LONG


@slirp_only
async def test_slirp_forwards_to_the_stack(echo: Any) -> None:
    """libvdeplug-slirp."""
    vnl = "slirp:///tcpfwd=127.0.0.1:7778:10.0.2.15:7"
    async with (
        aioioth.Stack(vnl, ip="10.0.2.15/24", gw="10.0.2.2") as stack,
        await stack.start_server(echo, "10.0.2.15", 7),
        asyncio.timeout(PATIENCE),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", 7778)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()


DISCOVER = bytes.fromhex(
    "01010600 01020304 0000 8000 00000000 00000000 00000000 00000000 020000000001"
)


def checksum(data: bytes) -> bytes:
    """Return the Internet's (RFC 1071)."""
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return (0xFFFF - (total & 0xFFFF) - (total >> 16)).to_bytes(2)


def udp(source: bytes, port: int, destination: bytes, to: int, data: bytes) -> bytes:
    """Return an IPv4 packet without a UDP checksum, which is optional there."""
    size = 28 + len(data)
    head = bytes.fromhex("4500") + size.to_bytes(2) + bytes.fromhex("0000 0000 4011")
    head += checksum(head + source + destination) + source + destination
    ports = port.to_bytes(2) + to.to_bytes(2) + (size - 20).to_bytes(2) + b"\0\0"
    return head + ports + data


def solicitation() -> bytes:
    """Return a frame that asks for router advertisements (RFC 4861)."""
    addresses = bytes.fromhex(
        "fe80 0000 0000 0000 0000 00ff fe00 0001ff02 0000 0000 0000 0000 0000 0000 0002"
    )
    pseudo_header = addresses + bytes.fromhex("00000008 0000003a")
    asked = checksum(pseudo_header + bytes.fromhex("8500 0000 00000000"))
    return (
        bytes.fromhex("333300000002 020000000001 86dd 60000000 0008 3a ff")
        + addresses
        + bytes.fromhex("8500")
        + asked
        + bytes(4)
    )


async def frames_until(plug: Any, wanted: bytes) -> bytes:
    """Return the first frame that has ``wanted`` in it."""
    loop, buffer = asyncio.get_running_loop(), memoryview(bytearray(65554))
    async with asyncio.timeout(PATIENCE):
        while True:
            ready = asyncio.Event()
            loop.add_reader(plug.fileno(), ready.set)
            await ready.wait()
            loop.remove_reader(plug.fileno())
            try:
                frame = bytes(buffer[: plug.recv_into(buffer)])
            except BlockingIOError:
                continue
            if wanted in frame:
                return frame


def dhcp_discover() -> bytes:
    options = bytes.fromhex("63825363 350101 ff")
    request = DISCOVER.ljust(236, b"\0") + options
    header = b"\xff" * 6 + bytes.fromhex("020000000001 0800")
    return header + udp(bytes(4), 68, b"\xff" * 4, 67, request)


@slirp_only
async def test_slirp_offers_addresses() -> None:
    """libvdeplug-slirp: DHCP, and router advertisements."""
    plug = await SlirpTransport("").open("me")
    try:
        plug.send(dhcp_discover())
        offer = await frames_until(plug, bytes.fromhex("63825363 350102"))
        assert offer[14 + 28 + 16 :][:4] == bytes([10, 0, 2, 15])
        plug.send(solicitation())
        await frames_until(plug, bytes.fromhex("fd00") + bytes(14))
    finally:
        plug.close()


@slirp_only
async def test_slirp_with_a_bad_option() -> None:
    """libvdeplug-slirp."""
    with pytest.raises(errors.BrokenTransportError, match="Invalid argument"):
        await aioioth.Stack("slirp:///colour=red").open()


# passt://


@pytest.fixture
def passt() -> Iterator[None]:
    """What passt needs in the run's own network namespace, if we may."""
    need("passt", "ip")
    commands = """
        ip link add aioioth0 type veth peer name aioioth1
        ip address add 192.0.2.2/24 dev aioioth0
        ip link set aioioth0 up
        ip link set aioioth1 up
        ip route add default via 192.0.2.1
    """
    try:
        for command in commands.strip().splitlines():
            done = subprocess.run(command.split(), capture_output=True, check=False)
            if done.returncode:
                reason = done.stderr.decode().strip()
                pytest.skip(f"passt needs an interface with an address: {reason}")
        yield
    finally:
        command = "ip link delete aioioth0"
        subprocess.run(command.split(), capture_output=True, check=False)


class Mirror:
    """An echo server that tells when its one client has gone.

    passt of 2023 forgets to close when the client was the first to close one direction.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        self.over.set()

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes
    ) -> None:
        """Have it say something, and go."""
        async with asyncio.timeout(PATIENCE):
            writer.write(text)
            assert await reader.readexactly(len(text)) == text
            writer.close()
            await writer.wait_closed()
            await self.over.wait()


@pytest.mark.usefixtures("passt")
async def test_passt_leads_to_the_host() -> None:
    """passt: the gateway's address is the host's loopback."""
    mirror = Mirror()
    async with (
        await asyncio.start_server(mirror.serve, "127.0.0.1", 7777),
        aioioth.Stack("passt://", ip="192.0.2.2/24", gw="192.0.2.1") as stack,
    ):
        await mirror.ask(*await stack.open_connection("192.0.2.1", 7777), LONG.encode())


@pytest.mark.usefixtures("passt")
async def test_passt_lets_connections_in() -> None:
    """passt, with an argument of ours."""
    inside, outside = Mirror(), Mirror()
    async with (
        aioioth.Stack("passt://-t 7779", ip="192.0.2.2/24", gw="192.0.2.1") as stack,
        await asyncio.start_server(outside.serve, "127.0.0.1", 7777),
        await stack.start_server(inside.serve, "192.0.2.2", 7779),
    ):
        # passt learns where the stack is from what that sends.
        await outside.ask(*await stack.open_connection("192.0.2.1", 7777), b"hello")
        await inside.ask(*await asyncio.open_connection("192.0.2.2", 7779), b"hello")


async def opened_soon(transport: PasstTransport) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await transport.open("me")
            except errors.BrokenTransportError:  # it does not listen yet
                await asyncio.sleep(0.002)


@pytest.mark.usefixtures("passt")
async def test_a_passt_that_runs(home: Path) -> None:
    """passt, by its socket: it offers the host's address by DHCP."""
    home.chmod(0o777)  # it does not like to be root
    path = home / "s"
    command = ["passt", "--foreground", "--quiet", "--socket", os.fspath(path)]
    with running(*command, stdin=subprocess.DEVNULL):
        for _ in range(2):  # and again
            plug = await opened_soon(PasstTransport(os.fspath(path)))
            plug.send(dhcp_discover())
            offer = await frames_until(plug, bytes.fromhex("63825363"))
            assert offer[14 + 28 + 16 :][:4] == bytes([192, 0, 2, 2])
            plug.close()


async def test_passt_without_an_interface() -> None:
    """passt."""
    need("passt")
    with pytest.raises(errors.BrokenTransportError, match="passt has ended: exit st"):
        await aioioth.Stack("passt://").open()


# Offloads, which VDE's programs do not know


async def test_a_greeting_is_dropped(vde_switch: VdeSwitch) -> None:
    """vde_plug, at a switch: what follows arrives."""
    need("vde_plug")
    frame = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello" * 10
    plug = await find_network(vde_switch.vnl).transport.open("watcher")
    with closing(plug):
        command = "vde_plug", vde_switch.vnl
        with subprocess.Popen(command, stdin=-1, stdout=-1) as process:
            assert process.stdin is not None
            await vde_switch.until_ports({1, 2})
            process.stdin.write(GREETING + VDESTREAM.pack(frame))
            process.stdin.flush()
            buffer, length = memoryview(bytearray(65554)), 0
            async with asyncio.timeout(PATIENCE):
                while not length:
                    try:
                        length = plug.recv_into(buffer) or 0
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
            process.stdin.close()
        assert bytes(buffer[:length]) == frame


async def test_who_does_not_greet_is_hung_up_on(
    vde_switch: VdeSwitch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """vde_plug behind a socket."""
    need("vde_plug")
    plug = await find_network(f"stream://{tmp_path}/s[listen/offload]").transport.open(
        ""
    )
    sender = await find_network(vde_switch.vnl).transport.open("sender")
    with closing(plug), closing(sender), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(tmp_path / "s"))
        number = sock.fileno()
        command = "vde_plug", vde_switch.vnl
        with subprocess.Popen(command, stdin=number, stdout=number) as process:
            await vde_switch.until_ports({1, 2})
            async with asyncio.timeout(PATIENCE):
                while "has not the option offload" not in caplog.text:
                    sender.send(
                        b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"x" * 50
                    )
                    await asyncio.sleep(0.01)
            sock.close()
            process.terminate()
        with pytest.raises(BlockingIOError):
            plug.recv_into(memoryview(bytearray(65554)))
