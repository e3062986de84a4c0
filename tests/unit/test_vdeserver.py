"""Switches that VDE programs join; programs are played here."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import grp
import logging
import os
import resource
import socket
import stat
import struct
import tempfile
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aioioth import _vdeserver
from aioioth.errors import BrokenTransportError, BusyError
from aioioth.switch import PortCounters, Switch
from aioioth.testing import cancel_everywhere, no_leaks
from aioioth.wire import vde
from aioioth_transports.vde import VdeTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aioioth.switch import Port, SwitchPort

A, B, C = (bytes.fromhex(f"02000000000{digit}") for digit in "abc")
EVERYBODY = b"\xff" * 6

pytestmark = pytest.mark.usefixtures("_loop_is_content")


def frame(to: bytes, by: bytes, payload: bytes = bytes(50)) -> bytes:
    return to + by + b"\x88\xb5" + payload


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, since the kernel takes 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sw") as made:
        yield Path(made)


@pytest.fixture
def path(home: Path) -> Path:
    """Where a switch will be."""
    return home / "sw"


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.001)


_numbers = iter(range(1 << 30))


class Client:
    """What a VDE program has: two sockets."""

    def __init__(self, *, name: bytes | None = None) -> None:
        number = f"{os.getpid()}-{next(_numbers)}"
        self.name = name or f"\0test-{number}".encode().ljust(108, b"\0")
        self.ctl = socket.socket(socket.AF_UNIX)
        self.data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ctl.setblocking(False)
        self.data.setblocking(False)
        self.data.bind(self.name)
        self.server_name = b""

    def connect(self, path: Path) -> None:
        self.ctl.connect(os.fspath(path / "ctl"))

    async def join(self, path: Path, *, description: str = "a test") -> None:
        self.connect(path)
        await self.shake(
            vde.pack_request(self.name, port=None, description=description)
        )

    async def shake(self, *parts: bytes) -> None:
        loop = asyncio.get_running_loop()
        for part in parts:
            await loop.sock_sendall(self.ctl, part)
            await asyncio.sleep(0)
        self.server_name = vde.unpack_address(await loop.sock_recv(self.ctl, 200))
        self.data.connect(self.server_name)

    async def hung_up(self) -> bool:
        """Wait for the end of the control connection."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            try:
                return await loop.sock_recv(self.ctl, 200) == b""
            except ConnectionResetError:
                return True

    async def receive(self) -> bytes:
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(self.data, 20000)

    def received(self) -> list[bytes]:
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(self.data.recv(20000))
        return frames

    def close(self) -> None:
        self.data.close()
        self.ctl.close()


@pytest.fixture
def clients() -> Iterator[Callable[..., Client]]:
    """Make clients; they are closed with the test."""
    with ExitStack() as undo:

        def make(**settings: Any) -> Client:
            return undo.enter_context(contextlib.closing(Client(**settings)))

        yield make


@pytest.fixture
async def switch(path: Path) -> AsyncIterator[Switch]:
    """A switch that is running."""
    async with Switch(path) as switch:
        yield switch


def received(port: SwitchPort) -> list[bytes]:
    buffer = memoryview(bytearray(65554))
    frames = []
    while True:
        try:
            frames.append(bytes(buffer[: port.recv_into(buffer)]))
        except BlockingIOError:
            return frames


def clients_of(switch: Switch) -> list[Port]:
    return [port for port in switch.ports if type(port) is _vdeserver.ClientPort]


def names(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# Joining and leaving


async def test_a_client_joins(switch: Switch, path: Path, clients: Any) -> None:
    client = clients()
    await client.join(path)
    [port] = switch.ports
    assert port.label == f"a test (uid {os.geteuid()}, pid {os.getpid()})"
    name = Path(os.fsdecode(client.server_name))
    assert name.parent == path
    assert name.name.startswith("fd")
    assert name.name[2:].isdigit()
    assert names(path) == {"ctl", name.name}
    client.close()
    await until(lambda: not switch.ports)
    assert names(path) == {"ctl"}


async def test_frames_between_clients_and_the_program(
    switch: Switch, path: Path, clients: Any
) -> None:
    one, two = clients(), clients()
    await one.join(path)
    await two.join(path)
    local = await switch.open("local")
    one.data.send(frame(EVERYBODY, A))
    assert await two.receive() == frame(EVERYBODY, A)
    assert received(local) == [frame(EVERYBODY, A)]
    local.send(frame(A, C))
    assert await one.receive() == frame(A, C)
    two.data.send(frame(C, B))
    await until(lambda: received(local) == [frame(C, B)])
    one.data.send(frame(B, A))
    assert await two.receive() == frame(B, A)
    assert one.received() == received(local) == []
    counted = [port.stats for port in switch.ports]
    assert counted[0].received == PortCounters(2, 128, {})
    assert counted[1].sent == PortCounters(2, 128, {})
    assert [entry.mac[-2:] for entry in switch.mac_table] == ["0a", "0c", "0b"]
    local.close()


async def test_the_last_frames_of_a_client_are_not_lost(
    switch: Switch, path: Path, clients: Any
) -> None:
    client, local = clients(), await switch.open("local")
    await client.join(path)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            client.data.send(frame(EVERYBODY, A, sent.to_bytes(4, "big")))
            sent += 1
    assert sent > 100
    client.close()
    await until(lambda: switch.ports == (local,))
    assert len(received(local)) == sent
    local.close()


async def test_what_a_client_was_is_forgotten(
    switch: Switch, path: Path, clients: Any
) -> None:
    one, local = clients(), await switch.open("local")
    await one.join(path)
    one.data.send(frame(EVERYBODY, A))
    await until(lambda: switch.mac_table)
    one.close()
    await until(lambda: not switch.mac_table)
    local.close()


@pytest.mark.parametrize("length", [14, 15, 17, 18, 60, 1514, 9234])
async def test_frames_of_every_length(
    switch: Switch, path: Path, clients: Any, length: int
) -> None:
    one, two, local = clients(), clients(), await switch.open("local")
    await one.join(path)
    await two.join(path)
    data = frame(EVERYBODY, A, bytes(length - 14))
    one.data.send(data)
    assert await two.receive() == data
    assert received(local) == [data]
    assert local.mtu == 9216
    local.send(data)
    assert await one.receive() == await two.receive() == data
    local.close()


@pytest.mark.parametrize(
    ("length", "cause"),
    [(0, "too short"), (13, "too short"), (9235, "too long"), (20000, "too long")],
)
async def test_what_is_no_frame_is_dropped_and_counted(
    switch: Switch, path: Path, clients: Any, length: int, cause: str
) -> None:
    client, local = clients(), await switch.open("local")
    await client.join(path)
    client.data.send(bytes(length))
    [port] = clients_of(switch)
    await until(lambda: port.stats.received.drops)
    assert port.stats.received == PortCounters(0, 0, {cause: 1})
    client.data.send(frame(EVERYBODY, A))  # it goes on
    await until(lambda: received(local))
    local.close()


async def test_a_tag_makes_a_frame_too_long(
    switch: Switch, path: Path, clients: Any
) -> None:
    client, local = clients(), await switch.open("local")
    await client.join(path)
    local.set_vlans(7)
    local.send(frame(EVERYBODY, A, bytes(9220)))
    [port] = clients_of(switch)
    assert port.stats.sent == PortCounters(0, 0, {"too long": 1})
    local.send(frame(EVERYBODY, A, bytes(9216)))
    assert len(await client.receive()) == 9234
    local.close()


async def test_our_own_vde_transport_joins(switch: Switch, path: Path) -> None:
    plug = await VdeTransport(f"{path}").open("me")
    assert plug.mtu == 9216
    local = await switch.open("local")
    plug.send(frame(EVERYBODY, A))
    await until(lambda: received(local) == [frame(EVERYBODY, A)])
    assert switch.ports[0].label.startswith("me user=")
    plug.close()
    await until(lambda: switch.ports == (local,))
    local.close()


async def test_a_requested_port_number_is_taken_for_any(
    switch: Switch, path: Path
) -> None:
    plug = await VdeTransport(f"{path}[port=77]").open("me")
    assert len(switch.ports) == 1
    plug.close()


async def test_there_is_no_management_port(switch: Switch, path: Path) -> None:
    with pytest.raises(BrokenTransportError, match="port 0 is taken or missing"):
        await VdeTransport(f"{path}[port=0]").open("me")
    assert switch.ports == ()


async def test_a_client_whose_socket_has_a_path(
    switch: Switch, path: Path, home: Path, clients: Any
) -> None:
    client = clients(name=os.fsencode(home / "client"))
    await client.join(path)
    (home / "client").unlink()  # as they do
    local = await switch.open("local")
    local.send(frame(EVERYBODY, A))
    assert await client.receive() == frame(EVERYBODY, A)
    local.close()


@pytest.mark.parametrize("name", [b"/nowhere/at/all", b"client", b"\0nobody"])
async def test_a_client_whose_socket_cannot_be_reached(
    switch: Switch, path: Path, clients: Any, name: bytes
) -> None:
    client = clients()
    client.connect(path)
    client.ctl.send(vde.pack_request(name, port=None, description="me"))
    assert await client.hung_up()
    assert switch.ports == ()
    assert names(path) == {"ctl"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of somebody else's")
def test_somebody_elses_socket_is_none_of_a_clients(home: Path) -> None:
    place = home / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(os.fspath(place))
        os.chown(place, 1234, -1)
        address = os.fsencode(place)
        _vdeserver._check_owner(address, 1234)
        _vdeserver._check_owner(address, 0)
        with pytest.raises(PermissionError, match="somebody else's"):
            _vdeserver._check_owner(address, 1235)


# Handshakes


REQUEST = vde.pack_request(b"\0x", port=None, description="in pieces")


@pytest.mark.parametrize("at", [1, 4, 8, 12, 14, 121, 122, 125])
async def test_a_request_in_pieces(
    switch: Switch, path: Path, clients: Any, at: int
) -> None:
    client = clients()
    client.connect(path)
    request = vde.pack_request(client.name, port=None, description="in pieces")
    await client.shake(request[:at], request[at:])
    local = await switch.open("local")
    local.send(frame(EVERYBODY, A))
    assert await client.receive() == frame(EVERYBODY, A)
    assert len(clients_of(switch)) == 1
    local.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.0\r\n\r\n",
        bytes(122),
        struct.pack("=II", 0xFEEDFACE, 0) + REQUEST[8:],
        struct.pack("=II", 0xFEEDFACE, 4) + REQUEST[8:],
        REQUEST[:12] + bytes(110),
        REQUEST + bytes(200),
        REQUEST[:50],
    ],
    ids=["empty", "http", "zero", "v1", "v4", "family", "long", "half"],
)
async def test_what_is_no_request_is_hung_up_on(
    switch: Switch, path: Path, clients: Any, data: bytes
) -> None:
    client = clients()
    client.connect(path)
    client.ctl.send(data)
    client.ctl.shutdown(socket.SHUT_WR)
    assert await client.hung_up()
    assert switch.ports == ()
    assert names(path) == {"ctl"}


async def test_a_silent_client_is_not_waited_for(
    switch: Switch, path: Path, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_vdeserver, "_HANDSHAKE_SECONDS", 0.01)
    silent, slow, other = clients(), clients(), clients()
    silent.connect(path)
    slow.connect(path)
    slow.ctl.send(REQUEST[:100])
    assert await silent.hung_up()
    assert await slow.hung_up()
    await other.join(path)


async def test_silent_clients_do_not_pile_up(
    switch: Switch, path: Path, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than 32 at a time; the others wait until those have gone."""
    before = len(os.listdir("/proc/self/fd"))
    silent = [clients() for _ in range(60)]
    for client in silent:
        client.connect(path)
    ours = 2 * len(silent)
    await until(lambda: len(os.listdir("/proc/self/fd")) == before + ours + 32)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before + ours + 32
    last = clients()
    joining = asyncio.create_task(last.join(path))
    await asyncio.sleep(0)
    for client in silent:
        client.close()
    async with asyncio.timeout(10):
        await joining


async def test_300_clients(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("needs 2048 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    try:
        with ExitStack() as undo:
            async with Switch(path) as switch:
                joined, refused = [], 0
                for _ in range(300):
                    client = undo.enter_context(contextlib.closing(Client()))
                    try:
                        await client.join(path)
                    except (OSError, ValueError):
                        refused += 1
                    else:
                        joined.append(client)
                assert (len(joined), refused) == (256, 44)
                assert len(switch.ports) == 256
                joined[0].data.send(frame(EVERYBODY, A))
                for client in joined[1:]:
                    assert await client.receive() == frame(EVERYBODY, A)
                joined[0].close()
                await until(lambda: len(switch.ports) == 255)
                one_more = undo.enter_context(contextlib.closing(Client()))
                await one_more.join(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_no_descriptors_left(
    switch: Switch,
    path: Path,
    clients: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loop does not turn all the time for it, and it is made good for later."""
    monkeypatch.setattr(_vdeserver, "_RETRY_SECONDS", 0.01)
    client = clients()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING):
        client.connect(path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await until(lambda: len(caplog.records) >= 2)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "cannot let anybody in: [Errno 24] Too many open files" in caplog.text
    request = vde.pack_request(client.name, port=None, description="late")
    await client.shake(request)
    assert len(switch.ports) == 1


@given(
    pieces=st.lists(
        st.binary(max_size=300)
        | st.sampled_from([REQUEST, REQUEST[:8], REQUEST[8:60], REQUEST[60:]]),
        max_size=5,
    ),
    ends=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_said_nothing_breaks(
    pieces: list[bytes], ends: bool, path: Path
) -> None:
    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        with contextlib.closing(Client()) as strange, contextlib.closing(Client()) as b:
            async with Switch(path):
                strange.connect(path)
                for piece in pieces:
                    with contextlib.suppress(OSError):
                        strange.ctl.send(piece)
                    await asyncio.sleep(0)
                if ends:
                    strange.ctl.close()
                await b.join(path)  # others are served
        assert complaints == []

    with no_leaks():
        asyncio.run(main())
    assert not path.exists()


@given(frames=st.lists(st.binary(max_size=100) | st.binary(min_size=14), max_size=20))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_passes_or_is_counted(frames: list[bytes], path: Path) -> None:
    async def main() -> None:
        with contextlib.closing(Client()) as client:
            async with Switch(path, forwarding="hub") as switch:
                await client.join(path)
                local = await switch.open("local")
                [port] = clients_of(switch)
                for each in frames:
                    client.data.send(each)
                client.data.send(frame(EVERYBODY, A))
                passed: list[bytes] = []
                while frame(EVERYBODY, A) not in passed:
                    await asyncio.sleep(0)
                    passed += received(local)
                good = [each for each in frames if len(each) >= 14]
                assert passed == [*good, frame(EVERYBODY, A)]
                bad = len(frames) - len(good)
                assert sum(port.stats.received.drops.values()) == bad
                local.close()

    asyncio.run(main())


async def test_a_talkative_client_is_disconnected(
    switch: Switch, path: Path, clients: Any
) -> None:
    client = clients()
    await client.join(path)
    client.ctl.send(bytes(1000))
    assert await client.hung_up()
    await until(lambda: not switch.ports)


# Clients that do not keep up


async def test_a_client_that_does_not_read(
    switch: Switch, path: Path, clients: Any
) -> None:
    """What its socket does not hold waits; what comes beyond that is dropped."""
    slow, quick, local = clients(), clients(), await switch.open("local")
    await slow.join(path)
    await quick.join(path)
    slow_port, quick_port = clients_of(switch)
    sent = 0
    while not slow_port.stats.sent.drops:
        local.send(frame(EVERYBODY, A, sent.to_bytes(4, "big") + bytes(500)))
        sent += 1
        if len(quick.received()) == 0:
            await asyncio.sleep(0)
    held = slow_port.stats.sent.frames
    assert 0 < held < sent - 1
    assert slow_port.stats.sent.drops == {"queue full": 1}
    assert quick_port.stats.sent.frames == sent
    numbers: list[int] = []
    while len(numbers) < sent - 1:
        data = await slow.receive()
        numbers.append(int.from_bytes(data[14:18], "big"))
    assert numbers == [*range(sent - 1)]
    assert slow_port.stats.sent.frames == sent - 1
    local.send(frame(EVERYBODY, A))
    assert await slow.receive() == frame(EVERYBODY, A)
    local.close()


async def test_what_waits_is_bounded_in_bytes(
    switch: Switch, path: Path, clients: Any
) -> None:
    slow, local = clients(), await switch.open("local")
    await slow.join(path)
    [port] = clients_of(switch)
    data = frame(EVERYBODY, A, bytes(9220))
    sent = 0
    while not port.stats.sent.drops:
        local.send(data)
        sent += 1
    waiting = sent - port.stats.sent.frames - 1
    assert 1.9 * 2**20 < waiting * 9234 <= 2 * 2**20
    local.close()


async def test_nothing_is_watched_once_all_is_written(
    switch: Switch, path: Path, clients: Any, watched: Callable[[], dict[int, int]]
) -> None:
    slow, local = clients(), await switch.open("local")
    await slow.join(path)
    [port] = clients_of(switch)
    sent = 0
    while port.stats.sent.frames == sent:
        local.send(frame(EVERYBODY, A))
        sent += 1
    assert isinstance(port, _vdeserver.ClientPort)
    number = port._data.fileno()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(sent):
        await slow.receive()
    await until(lambda: port.stats.sent.frames == sent)
    await until(lambda: not watched()[number] & 4)  # EPOLLOUT
    local.close()


async def test_a_client_without_its_data_socket_is_disconnected(
    switch: Switch, path: Path, clients: Any
) -> None:
    client, local = clients(), await switch.open("local")
    await client.join(path)
    client.data.close()
    local.send(frame(EVERYBODY, A))
    local.send(frame(EVERYBODY, A))
    assert await client.hung_up()
    assert switch.ports == (local,)
    assert names(path) == {"ctl"}
    local.close()


async def test_a_client_that_turns_to_somebody_else_is_disconnected(
    switch: Switch, path: Path, clients: Any
) -> None:
    """The kernel reports an error at our end, which must not stay there."""
    client, other, local = clients(), clients(), await switch.open("local")
    await client.join(path)
    local.send(frame(EVERYBODY, A))
    client.data.connect(other.name)
    assert await client.hung_up()
    assert switch.ports == (local,)
    local.close()


async def test_a_client_that_takes_frames_from_somebody_else_is_disconnected(
    switch: Switch, path: Path, clients: Any
) -> None:
    client, other, local = clients(), clients(), await switch.open("local")
    await client.join(path)
    client.data.connect(other.name)
    local.send(frame(EVERYBODY, A))
    assert await client.hung_up()
    local.close()


@pytest.mark.parametrize("by_switch", [True, False])
async def test_a_client_is_disconnected(
    switch: Switch, path: Path, clients: Any, by_switch: bool
) -> None:
    client = clients()
    await client.join(path)
    [port] = switch.ports
    if by_switch:
        switch.disconnect(port)
    port.disconnect()
    port.disconnect()
    assert switch.ports == ()
    assert await client.hung_up()
    assert names(path) == {"ctl"}
    with pytest.raises(ConnectionRefusedError):
        client.data.send(frame(EVERYBODY, A))


async def test_a_client_is_disconnected_by_another_thread(
    switch: Switch, path: Path, clients: Any
) -> None:
    client = clients()
    await client.join(path)
    [port] = switch.ports
    await run_in_thread(port.disconnect)
    assert switch.ports == ()
    assert await client.hung_up()
    await until(lambda: names(path) == {"ctl"})


async def test_a_client_that_is_being_disconnected_is_not_learned(
    switch: Switch, path: Path, clients: Any
) -> None:
    client, local = clients(), await switch.open("local")
    await client.join(path)
    port = switch.ports[1]
    client.data.send(frame(EVERYBODY, A))
    thread = threading.Thread(target=port.disconnect)
    thread.start()
    thread.join()
    assert await client.hung_up()
    assert switch.mac_table == ()
    assert received(local) == []
    local.close()


async def test_another_thread_sends_more_than_a_client_takes(
    switch: Switch, path: Path, clients: Any
) -> None:
    client = clients()
    await client.join(path)
    [port] = switch.ports

    def send() -> None:
        async def body() -> None:
            local = await switch.open("elsewhere")
            for number in range(800):
                local.send(frame(EVERYBODY, A, number.to_bytes(4, "big") + bytes(400)))
            local.close()

        asyncio.run(body())

    await run_in_thread(send)
    numbers = [
        int.from_bytes((await client.receive())[14:18], "big") for _ in range(800)
    ]
    assert numbers == [*range(800)]
    assert port.stats.sent.drops == {}


async def run_in_thread(body: Callable[[], None]) -> None:
    await asyncio.to_thread(body)
    await asyncio.get_running_loop().shutdown_default_executor()


# Ways of forwarding


async def test_multi(path: Path, clients: Any) -> None:
    async with Switch(path, forwarding="multi") as switch:
        one, two, local = clients(), clients(), await switch.open("local")
        await one.join(path)
        await two.join(path)
        one.data.send(frame(EVERYBODY, A))
        await until(lambda: received(local) == [frame(EVERYBODY, A)])
        assert two.received() == []
        local.send(frame(A, C))
        assert await one.receive() == await two.receive() == frame(A, C)
        local.close()


async def test_bonding(path: Path, clients: Any) -> None:
    async with Switch(path, forwarding="bonding") as switch:
        one, two, local = clients(), clients(), await switch.open("local")
        local.send(frame(A, C))  # nobody is there
        await one.join(path)
        await two.join(path)
        for number in range(6):
            local.send(frame(EVERYBODY, C, bytes([number]) * 50))
        seen = [[data[14] for data in client.received()] for client in (one, two)]
        assert sorted(seen) == [[0, 2, 4], [1, 3, 5]]
        for client in one, two:
            client.data.send(frame(EVERYBODY, A))
            await until(lambda: received(local) == [frame(EVERYBODY, A)])
        assert one.received() == two.received() == []
        local.close()


# The directory


async def test_who_gets_in_by_default(path: Path, clients: Any) -> None:
    before = os.umask(0)
    try:
        async with Switch(path):
            client = clients()
            await client.join(path)
            assert mode_of(path) == 0o700
            assert {mode_of(each) for each in path.iterdir()} == {0o600}
    finally:
        os.umask(before)
    assert not path.exists()


@pytest.mark.parametrize(
    ("mode", "dirmode", "directory"),
    [
        (0o660, None, 0o2770),
        (0o666, None, 0o2777),
        (0o600, 0o755, 0o755),
        (0o640, None, 0o2750),
    ],
)
async def test_others_are_let_in_if_that_is_asked_for(
    path: Path, clients: Any, mode: int, dirmode: int | None, directory: int
) -> None:
    before = os.umask(0o077)
    try:
        async with Switch(path, mode=mode, dirmode=dirmode):
            client = clients()
            await client.join(path)
            assert mode_of(path) == directory
            assert {mode_of(each) for each in path.iterdir()} == {mode}
    finally:
        os.umask(before)


def a_group_of_ours() -> int:
    return next(iter(set(os.getgroups()) - {os.getegid()}), os.getegid())


async def test_a_group(path: Path, clients: Any) -> None:
    group = 1 if os.geteuid() == 0 else a_group_of_ours()
    async with Switch(path, mode=0o660, group=group):
        client = clients()
        await client.join(path)
        for each in path, *path.iterdir():
            assert each.stat().st_gid == group


async def test_a_group_has_a_name(path: Path) -> None:
    name = grp.getgrgid(os.getegid()).gr_name
    async with Switch(path, group=name):
        assert path.stat().st_gid == os.getegid()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files to any group")
async def test_a_group_that_is_not_ours(path: Path) -> None:
    with pytest.raises(BrokenTransportError, match="member of group 54321"):
        await Switch(path, group=54321).start()
    assert not path.exists()


async def test_an_existing_directory_is_used_and_left(path: Path, clients: Any) -> None:
    path.mkdir(0o755)
    path.chmod(0o755)
    (path / "notes").write_text("mine")
    (path / "fd77").write_text("no socket")
    async with Switch(path):
        client = clients()
        await client.join(path)
        assert mode_of(path) == 0o755
    assert names(path) == {"notes", "fd77"}


async def test_what_others_put_into_our_directory_stays(path: Path) -> None:
    async with Switch(path):
        (path / "notes").write_text("mine")
    assert names(path) == {"notes"}


async def test_what_a_killed_switch_has_left_is_replaced(
    path: Path, clients: Any
) -> None:
    path.mkdir()
    for name, kind in ("ctl", socket.SOCK_STREAM), ("fd5", socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as left:
            left.bind(os.fspath(path / name))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as used:
        used.bind(os.fspath(path / "fd6"))
        async with Switch(path):
            assert names(path) == {"ctl", "fd6"}
            client = clients()
            await client.join(path)


async def test_where_a_switch_is_running(path: Path, switch: Switch) -> None:
    message = f"a switch is running there. Join it with vde://{path}"
    with pytest.raises(BrokenTransportError, match=message) as caught:
        await Switch(path).start()
    assert caught.value.errno == errno.EBUSY
    assert names(path) == {"ctl"}
    with pytest.raises(BusyError, match="running already"):
        await switch.start()
    plug = await VdeTransport(f"{path}").open("me")
    plug.close()


async def test_somebody_who_answers_without_being_listed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in another network namespace would."""
    path.mkdir()
    (path / "real").mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path / "real" / "socket"))
        other.listen()
        os.link(path / "real" / "socket", path / "ctl")
        with pytest.raises(BrokenTransportError, match="is running there"):
            await Switch(path).start()
    async with Switch(path):  # it has gone now
        pass


async def test_a_control_socket_that_is_none(path: Path) -> None:
    path.mkdir()
    (path / "ctl").write_text("precious")
    with pytest.raises(BrokenTransportError, match="ctl: is no socket"):
        await Switch(path).start()
    assert (path / "ctl").read_text() == "precious"


async def test_a_control_socket_that_was_replaced_stays(path: Path) -> None:
    async with Switch(path):
        (path / "ctl").unlink()
        (path / "ctl").write_text("somebody else's")
    assert names(path) == {"ctl"}


async def test_two_that_start_at_the_same_moment(path: Path) -> None:
    import fcntl

    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BrokenTransportError, match="at this moment"):
            await Switch(path).start()
    finally:
        os.close(descriptor)


async def test_directories_that_cannot_be(home: Path) -> None:
    with pytest.raises(
        BrokenTransportError, match=r"No such file.*\. Make .*/no first"
    ):
        await Switch(home / "no" / "sw").start()
    (home / "file").write_text("")
    with pytest.raises(BrokenTransportError, match="Not a directory"):
        await Switch(home / "file").start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_directory_that_we_may_not_write_to(home: Path) -> None:
    home.chmod(0o500)
    with pytest.raises(BrokenTransportError, match="Permission denied"):
        await Switch(home / "sw").start()
    with pytest.raises(BrokenTransportError, match="Permission denied"):
        await Switch(home).start()
    home.chmod(0o700)


async def test_the_longest_path(home: Path, clients: Any) -> None:
    path = home / ("x" * (97 - len(os.fsencode(home)) - 1))
    async with Switch(path):
        client = clients()
        await client.join(path)


async def test_a_relative_path(
    home: Path, monkeypatch: pytest.MonkeyPatch, clients: Any
) -> None:
    monkeypatch.chdir(home)
    switch = Switch("sw")
    monkeypatch.chdir("/")
    async with switch:
        client = clients()
        await client.join(home / "sw")
    assert switch.path == home / "sw"


# The life of the server


async def test_closing_sends_all_away(path: Path, clients: Any) -> None:
    switch = Switch(path)
    await switch.start()
    joined, silent, local = clients(), clients(), await switch.open("local")
    await joined.join(path)
    silent.connect(path)
    await asyncio.sleep(0.01)
    switch.close()
    await switch.aclose()
    assert not path.exists()
    assert await joined.hung_up()
    assert await silent.hung_up()
    assert switch.ports == (local,)
    local.close()


async def test_it_may_be_started_again(path: Path, clients: Any) -> None:
    switch = Switch(path)
    with pytest.raises(BrokenTransportError, match="not running: use 'async with'"):
        await switch.open("me")
    for _ in range(2):
        async with switch:
            assert switch.is_running
            client = clients()
            await client.join(path)
            (await switch.open("me")).close()
        assert not switch.is_running


async def test_closed_by_another_thread(path: Path, clients: Any) -> None:
    switch = Switch(path)
    await switch.start()
    client = clients()
    await client.join(path)
    await run_in_thread(switch.close)
    assert await client.hung_up()
    await until(lambda: not path.exists())


async def test_starting_can_be_cancelled(path: Path) -> None:
    async def life() -> None:
        async with Switch(path):
            await asyncio.sleep(0)

    assert await cancel_everywhere(life) >= 1
    assert not path.exists()


@pytest.mark.parametrize("collected", [True, False])
def test_a_loop_that_ends_first(path: Path, collected: bool) -> None:
    """Nothing is left and nobody complains; a switch that is kept can be closed."""
    kept: list[Switch] = []

    async def main() -> None:
        switch = Switch(path)
        await switch.start()
        await client.join(path)
        silent.connect(path)
        await asyncio.sleep(0.01)
        if not collected:
            kept.append(switch)

    with no_leaks(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with (
            contextlib.closing(Client()) as client,
            contextlib.closing(Client()) as silent,
        ):
            asyncio.run(main())
            for switch in kept:
                assert not switch.is_running
                [port] = switch.ports
                port.disconnect()
                switch.close()
            gc.collect()
            assert client.ctl.recv(100) == b""
    assert not path.exists()


def test_started_on_another_loop_when_the_first_has_ended(path: Path) -> None:
    switch = Switch(path)

    async def main() -> None:
        await switch.start()
        with contextlib.closing(Client()) as client:
            await client.join(path)

    asyncio.run(main())
    asyncio.run(main())
    switch.close()
    assert not path.exists()


async def test_a_forked_child_lets_go(switch: Switch, path: Path, clients: Any) -> None:
    joined, silent = clients(), clients()
    await joined.join(path)
    silent.connect(path)
    await asyncio.sleep(0.01)
    assert switch._server is not None
    sockets = list(switch._server._place._sockets)
    numbers = [sock.fileno() for sock in sockets]
    assert len(numbers) == 4  # one listens, one shakes hands, and two of a client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads, from 3.12 on
        child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            for number in numbers:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(number)
            assert switch.ports == ()
            assert not switch.is_running
            switch.close()
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert names(path) >= {"ctl"}
    local = await switch.open("local")
    local.send(frame(EVERYBODY, A))
    assert await joined.receive() == frame(EVERYBODY, A)
    other = clients()
    await other.join(path)
    local.close()


def test_threads_send_while_clients_come_and_go(path: Path) -> None:
    switch = Switch(path)
    done = threading.Event()
    raised: list[BaseException] = []

    def send() -> None:
        async def body() -> None:
            local = await switch.open("elsewhere")
            while not done.is_set():
                local.send(frame(EVERYBODY, A))
            local.close()

        try:
            asyncio.run(body())
        except BaseException as error:  # noqa: BLE001  (handed on)
            raised.append(error)

    async def main() -> None:
        async with switch:
            sender = threading.Thread(target=send)
            sender.start()
            try:
                for _ in range(50):
                    with contextlib.closing(Client()) as client:
                        await client.join(path)
                        await client.receive()
            finally:
                done.set()
                sender.join()
            await until(lambda: not switch.ports)

    asyncio.run(main())
    assert raised == []
