"""``stream://``: both ends ours, or the other one a plain socket."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import socket
import ssl
import stat
import struct
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioioth import abc
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError, VnlError
from aioioth.wire.vdestream import VDESTREAM
from aioioth_transports import _listener, stream
from aioioth_transports.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aioioth_transports._framed import StreamPlug

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
PATIENCE = 10
BUFFER = memoryview(bytearray(65554))

pytestmark = pytest.mark.usefixtures("_loop_is_content")


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, since the kernel takes 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="st"))
    yield made
    shutil.rmtree(made)


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[StreamPlug]:
    plug = await StreamTransport(address).open("me")
    try:
        yield plug
    finally:
        plug.close()


async def readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def frame_from(plug: abc.Plug) -> bytes:
    while True:
        try:
            length = plug.recv_into(BUFFER)
        except BlockingIOError:
            await readable(plug.fileno())
        else:
            assert length is not None
            return bytes(BUFFER[:length])


async def delivered(left: abc.Plug, right: abc.Plug, frame: bytes = FRAME) -> None:
    """Send until it is through: the other side may not be there yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                left.send(frame)
                break
            except OSError as error:
                if error.errno != errno.ENETUNREACH:
                    raise
                await asyncio.sleep(0.001)
    assert await frame_from(right) == frame


async def both_ways(left: abc.Plug, right: abc.Plug) -> None:
    await delivered(left, right)
    await delivered(right, left, FRAME[::-1])


@contextmanager
def connected(place: str | tuple[str, int]) -> Iterator[socket.socket]:
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(place)
        yield sock


# What there is to write


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "expected HOST:PORT"),
        ("host", "expected HOST:PORT"),
        (":5", "expected HOST:PORT"),
        ("host:", "a port from 1 to 65535, not ''"),
        ("host:0[listen]", "a port from 1"),
        ("host:65536", "a port from 1"),
        ("host:²", "a port from 1"),
        ("-[listen]", "standard input has no options"),
        ("h:1[tls/listen]", "a listener needs cert=FILE"),
        ("h:1[tls/listen/cert='/c']", "a listener needs ca=FILE"),
        ("h:1[tls/listen/cert='/c'/ca='/a'/anyone]", "one of the two"),
        ("h:1[tls/key='/k']", "belongs to a cert=FILE"),
        ("h:1[tls/anyone]", "anyone: only with listen"),
        ("h:1[tls/listen/cert=c/ca=a/name=x]", "name: only without listen"),
        ("h:1[ca='/a']", "ca: only with tls"),
        ("/path[tls]", "say name=HOST"),
        ("h:1[listen/mode=0600]", "only for a UNIX socket"),
        ("/path[mode=0600]", "only for a UNIX socket"),
        ("/path[listen/mode=9]", "octal permissions"),
        ("h:1[colour=red]", "no option 'colour'"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        StreamTransport(address)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("address", "host"), [("h:1", "h"), ("::1:1", "::1"), ("'[::1]:1'", "::1")]
)
def test_hosts(address: str, host: str) -> None:
    assert (StreamTransport(address)._host, StreamTransport(address)._port) == (host, 1)


# Frames


@pytest.mark.parametrize(
    ("listening", "calling"),
    [
        (":5000[listen]", "127.0.0.1:5000"),
        (":5000[listen]", "'[::1]:5000'"),
        ("127.0.0.1:5000[listen]", "127.0.0.1:5000"),
        ("::1:5000[listen]", "::1:5000"),
        ("localhost:5000[listen]", "localhost:5000"),
        ("{home}/s[listen]", "{home}/s"),
    ],
)
async def test_frames_go_both_ways(home: Path, listening: str, calling: str) -> None:
    async with opened(listening.format(home=home)) as left:
        async with opened(calling.format(home=home)) as right:
            for plug in left, right:
                assert isinstance(plug, abc.Plug)
                assert isinstance(plug, abc.CountsDrops)
                assert isinstance(plug, abc.SignalsRoom)
                assert plug.mtu == 9216
                with pytest.raises(BlockingIOError):
                    plug.recv_into(BUFFER)
            await both_ways(left, right)
            for size in (14, 1514, 9234):
                await delivered(right, left, os.urandom(size))
            with pytest.raises(OSError) as caught:
                right.send(bytes(9237))
            assert caught.value.errno == errno.EMSGSIZE


async def test_frames_of_one_turn_come_in_order(home: Path) -> None:
    async with opened(f"{home}/s[listen]") as left, opened(f"{home}/s") as right:
        await both_ways(left, right)
        frames = [FRAME + bytes([number]) * number for number in range(200)]
        for frame in frames:
            right.send(frame)
        assert [await frame_from(left) for _ in frames] == frames


async def test_the_last_frames_of_a_plug_go(home: Path) -> None:
    async with opened(f"{home}/s[listen]") as left:
        async with opened(f"{home}/s") as right:
            await both_ways(left, right)
            for _ in range(10):
                right.send(FRAME)
        assert [await frame_from(left) for _ in range(10)] == [FRAME] * 10


async def test_a_full_way_is_refused_and_opens_again(home: Path) -> None:
    """Neither end keeps more and more, and nothing is lost."""
    frame = bytes(9000)
    async with opened(f"{home}/s[listen]") as left, opened(f"{home}/s") as right:
        await both_ways(left, right)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                for _ in range(64):
                    right.send(frame)
                    sent += 1
                # Until reading has stopped over there, and the socket is full.
                await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        room = asyncio.Event()
        loop.add_writer(right.room_fileno(), room.set)
        for _ in range(5):
            await asyncio.sleep(0)
        if len(left._inbox) > 512:
            assert not room.is_set()
        for _ in range(sent):
            assert len(await frame_from(left)) == len(frame)
        async with asyncio.timeout(PATIENCE):
            await room.wait()
        loop.remove_writer(right.room_fileno())
        await both_ways(right, left)
        assert not left.drops
        assert not right.drops


async def test_a_listener_without_a_peer_drops() -> None:
    async with opened(":5000[listen]") as plug:
        with pytest.raises(OSError) as caught:
            plug.send(FRAME)
        assert caught.value.errno == errno.ENETUNREACH


async def test_one_peer_at_a_time(home: Path) -> None:
    path = f"{home}/s"
    async with opened(f"{path}[listen]") as plug:
        with connected(path) as first:
            first.sendall(VDESTREAM.pack(FRAME))
            assert await frame_from(plug) == FRAME
            with connected(path) as second:
                assert await asyncio.to_thread(second.recv, 1) == b""
            plug.send(FRAME)
            assert await asyncio.to_thread(first.recv, 99) == VDESTREAM.pack(FRAME)
        async with opened(path) as third:
            await both_ways(third, plug)


async def test_one_who_comes_back_before_he_is_known_to_have_gone(home: Path) -> None:
    path = f"{home}/s"
    async with opened(f"{path}[listen]") as plug:
        with connected(path) as first:
            first.sendall(VDESTREAM.pack(FRAME))
            assert await frame_from(plug) == FRAME
            with connected(path) as second:
                await asyncio.sleep(0)
                assert plug.has_channel
                first.close()
                second.sendall(VDESTREAM.pack(FRAME[::-1]))
                assert await frame_from(plug) == FRAME[::-1]


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_the_end_is_told_after_the_frames(end: str) -> None:
    with socket.create_server(("127.0.0.1", 5000)) as server:
        async with opened("127.0.0.1:5000") as plug:
            peer, _ = server.accept()
            peer.sendall(VDESTREAM.pack(FRAME))
            if end == "reset":
                assert await frame_from(plug) == FRAME
                linger = struct.pack("ii", 1, 0)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            peer.close()
            if end == "close":
                assert await frame_from(plug) == FRAME
            with pytest.raises(BrokenTransportError) as caught:
                await frame_from(plug)
            expected = {"close": errno.EPIPE, "reset": errno.ECONNRESET}[end]
            assert caught.value.errno == expected
            with pytest.raises(BrokenTransportError):
                plug.send(FRAME)


async def test_a_peer_that_reads_no_more_and_goes() -> None:
    """The writer learns it, too, when it waits for room."""
    with socket.create_server(("127.0.0.1", 5000)) as server:
        async with opened("127.0.0.1:5000") as plug:
            peer, _ = server.accept()
            with pytest.raises(BlockingIOError):
                while True:
                    plug.send(bytes(9000))
                    await asyncio.sleep(0)
            peer.close()
            with pytest.raises(BrokenTransportError):
                await frame_from(plug)
            assert not plug._gate.is_shut


@pytest.mark.parametrize("data", [b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n" * 999])
async def test_what_is_no_stream_of_frames(home: Path, data: bytes) -> None:
    async with opened(f"{home}/s[listen]") as plug:
        with connected(f"{home}/s") as stranger:
            stranger.sendall(data)
            assert await asyncio.to_thread(hung_up, stranger)
        async with opened(f"{home}/s") as peer:
            await both_ways(peer, plug)


def hung_up(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:  # it had not read all
        return True


async def test_short_frames_are_counted(home: Path) -> None:
    async with opened(f"{home}/s[listen]") as plug:
        with connected(f"{home}/s") as peer:
            peer.sendall(VDESTREAM.pack(b"x" * 13) + VDESTREAM.pack(FRAME))
            assert await frame_from(plug) == FRAME
    assert plug.drops == {"malformed": 1}


async def test_nobody_is_there(home: Path) -> None:
    for address in "127.0.0.1:5000", f"{home}/none":
        with pytest.raises(BrokenTransportError) as caught:
            await StreamTransport(address).open("me")
        assert caught.value.vnl == f"stream://{address}"
        assert caught.value.errno in {errno.ECONNREFUSED, errno.ENOENT}
    with pytest.raises(BrokenTransportError, match="host 'no-such-host'"):
        await StreamTransport("no-such-host:1").open("me")


async def test_a_port_that_is_taken() -> None:
    async with opened("127.0.0.1:5000[listen]"):
        with pytest.raises(BrokenTransportError) as caught:
            await StreamTransport("127.0.0.1:5000[listen]").open("me")
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_unix_socket_that_is_silent(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HANDSHAKE_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as full, connected_all(full, f"{home}/s"):
        with pytest.raises(HandshakeTimeoutError):
            await StreamTransport(f"{home}/s").open("me")


@contextmanager
def connected_all(server: socket.socket, path: str) -> Iterator[None]:
    """Fill the queue of those who wait to be accepted."""
    server.bind(path)
    server.listen(0)
    with connected(path):
        yield


# Files


async def test_the_file_of_a_listener(home: Path) -> None:
    path = home / "s"
    async with opened(f"{path}[listen]"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(BrokenTransportError) as caught:
            await StreamTransport(f"{path}[listen]").open("me")
        assert caught.value.errno == errno.EADDRINUSE
    assert not path.exists()
    async with opened(f"{path}[listen/mode=0660]"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_a_file_that_was_left_is_replaced(home: Path) -> None:
    path = home / "s"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(os.fspath(path))
    async with opened(f"{path}[listen]") as left, opened(f"{path}") as right:
        await both_ways(left, right)


async def test_a_file_of_another_kind_is_not(home: Path) -> None:
    path = home / "s"
    path.write_text("precious")
    with pytest.raises(BrokenTransportError):
        await StreamTransport(f"{path}[listen]").open("me")
    assert path.read_text() == "precious"


async def test_a_file_that_was_replaced_is_not_removed(home: Path) -> None:
    path = home / "s"
    async with opened(f"{path}[listen]"):
        path.unlink()
        path.write_text("precious")
    assert path.read_text() == "precious"


# Forks


async def test_a_forked_child_lets_go(home: Path) -> None:
    """The parent goes on, with its loop; the child does not hold the stream open."""
    path = home / "s"
    async with opened(f"{path}[listen]") as left, opened(f"{path}") as right:
        await both_ways(left, right)
        go, gone = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                left.close()
                right.close()
                os.close(gone)
                os.read(go, 1)
            finally:
                os._exit(0)
        os.close(go)
        await both_ways(left, right)
        left.close()
        with pytest.raises(BrokenTransportError):
            await frame_from(right)
        assert not path.exists()
        os.close(gone)
        os.waitpid(pid, 0)


# TLS


@pytest.fixture
def ca() -> Any:
    return pytest.importorskip("trustme", reason="makes certificates").CA()


@pytest.fixture
def papers(home: Path, ca: Any) -> Path:
    """PEM files of two authorities, a server and a client."""
    ca.cert_pem.write_to_path(home / "ca.pem")
    type(ca)().cert_pem.write_to_path(home / "other.pem")
    for name in ("localhost", "client"):
        ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(
            home / f"{name}.pem"
        )
    return home


SERVER = ":5000[listen/tls/cert='{0}/localhost.pem'/ca='{0}/ca.pem']"
ANYONE = ":5000[listen/tls/cert='{0}/localhost.pem'/anyone]"
CLIENT = "localhost:5000[tls/cert='{0}/client.pem'/ca='{0}/ca.pem']"
STRANGER = "localhost:5000[tls/ca='{0}/ca.pem']"


@pytest.mark.parametrize(
    ("listening", "calling"), [(SERVER, CLIENT), (ANYONE, STRANGER)]
)
async def test_tls(papers: Path, listening: str, calling: str) -> None:
    async with opened(listening.format(papers)) as left:
        for _ in range(2):
            async with opened(calling.format(papers)) as right:
                await both_ways(left, right)
                for _ in range(100):
                    right.send(bytes(9234))
                for _ in range(100):
                    assert len(await frame_from(left)) == 9234


async def test_tls_on_a_unix_socket(papers: Path) -> None:
    listening = f"{papers}/s[listen/tls/cert='{papers}/localhost.pem'/anyone]"
    calling = f"{papers}/s[tls/ca='{papers}/ca.pem'/name=localhost]"
    async with opened(listening) as left, opened(calling) as right:
        await both_ways(left, right)


@pytest.mark.parametrize(
    ("calling", "reason"),
    [
        ("localhost:5000[tls/ca='{0}/other.pem']", "certificate is not accepted"),
        ("localhost:5000[tls]", "certificate is not accepted"),
        ("127.0.0.1:5000[tls/ca='{0}/ca.pem']", "certificate is not accepted"),
        ("localhost:5000[tls/ca='{0}/ca.pem'/name=x.org]", "is not accepted"),
    ],
)
async def test_a_server_that_is_not_who_it_should_be(
    papers: Path, calling: str, reason: str
) -> None:
    async with opened(ANYONE.format(papers)):
        with pytest.raises(BrokenTransportError, match=reason) as caught:
            await StreamTransport(calling.format(papers)).open("me")
        assert caught.value.errno == errno.EPROTO


async def test_a_client_without_a_certificate_is_not_let_in(papers: Path) -> None:
    async with opened(SERVER.format(papers)) as left:
        # It learns it after the handshake (RFC 8446, section 4.4.2.4).
        async with opened(STRANGER.format(papers)) as right:
            with pytest.raises(BrokenTransportError):
                await frame_from(right)
        assert not left.has_channel
        async with opened(CLIENT.format(papers)) as right:
            await both_ways(left, right)


async def test_silent_strangers_keep_nobody_out(papers: Path) -> None:
    async with opened(SERVER.format(papers)) as left:
        strangers = [socket.create_connection(("127.0.0.1", 5000)) for _ in range(40)]
        async with opened(CLIENT.format(papers)) as right:
            await both_ways(left, right)
        for each in strangers:
            each.close()


async def test_a_handshake_that_is_never_finished(
    papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listener, "HANDSHAKE_SECONDS", 0.01)
    async with opened(SERVER.format(papers)):
        with connected(("127.0.0.1", 5000)) as stranger:
            assert await asyncio.to_thread(stranger.recv, 1) == b""


async def test_no_tls_at_the_other_end(
    papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(SERVER.format(papers)):
        with connected(("127.0.0.1", 5000)) as stranger:
            stranger.sendall(VDESTREAM.pack(FRAME))
            data = await asyncio.to_thread(stranger.recv, 100)
            assert data[:1] in {b"\x15", b""}  # an alert
    # What TLS begins with looks like the length of a frame.
    monkeypatch.setattr(stream, "HANDSHAKE_SECONDS", 0.1)
    async with opened(":5001[listen]"):
        with pytest.raises(HandshakeTimeoutError):
            await StreamTransport("localhost:5001[tls]").open("me")


async def test_a_server_that_never_answers(
    papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HANDSHAKE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 5000)):
        with pytest.raises(HandshakeTimeoutError, match="no answer within"):
            await StreamTransport("localhost:5000[tls]").open("me")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("cert='{0}/none.pem'/anyone", "cert or key: .*none.pem cannot be read"),
        ("cert='{0}/ca.pem'/anyone", "cert or key: .*ca.pem is not what is needed"),
        ("cert='{0}/localhost.pem'/ca='{0}/none'", "ca: .*none cannot be read"),
    ],
)
async def test_files_that_are_wrong(papers: Path, options: str, reason: str) -> None:
    address = f":5000[listen/tls/{options.format(papers)}]"
    with pytest.raises(BrokenTransportError, match=reason):
        await StreamTransport(address).open("me")


def test_a_context_is_strict(papers: Path) -> None:
    for address, server in (SERVER, True), (CLIENT, False):
        tls = StreamTransport(address.format(papers))._tls
        assert tls is not None
        context = tls.make_context()
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.check_hostname != server


# Cancellation


@pytest.mark.parametrize("calling", [STRANGER, "{0}/s"])
async def test_cancelled(papers: Path, calling: str) -> None:
    """At whatever await: nothing is left, says the check around each test."""
    async with opened(ANYONE.format(papers)), opened(f"{papers}/s[listen]"):
        for turns in range(12):
            task = asyncio.create_task(
                StreamTransport(calling.format(papers)).open("me")
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                plug = await task
            except asyncio.CancelledError:
                continue
            plug.close()
        gc.collect()
