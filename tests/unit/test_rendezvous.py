"""Joining a name: who founds, who finds, what is refused, what is left."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
import stat
import tempfile
import threading
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, strategies as st

from aioioth import _meetingplace, _rendezvous
from aioioth._keeper import meeting
from aioioth._meetingplace import Place, directory_path, file_name
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aioioth._rendezvous import Meeting

pytestmark = pytest.mark.usefixtures("_loop_is_content")


@pytest.fixture(autouse=True)
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of names, which is gone at the end of each test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "aioioth"
    meeting.end_all(10)
    assert not meeting._members
    assert os.listdir(tmp_path) == []


def identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


async def make() -> list[int]:
    """What programs meet for: here files in memory, each one different."""
    await asyncio.sleep(0)
    return [os.memfd_create("one"), os.memfd_create("other")]


async def introduce(descriptors: list[int], body: bytes) -> None:
    """Our keeper: threads of this process."""
    await asyncio.sleep(0)
    meeting.start(descriptors, body.decode())
    await asyncio.sleep(0)


async def never() -> list[int]:
    raise AssertionError


async def join(name: str = "lan", **more: Any) -> Meeting:
    return await _rendezvous.join(name, make, introduce, **more)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def joined(name: str = "lan", **more: Any) -> AsyncIterator[Meeting]:
    met = await join(name, **more)
    try:
        yield met
    finally:
        met.close()


@contextmanager
def impostor(
    names: Path, kind: socket.SocketKind = socket.SOCK_SEQPACKET
) -> Iterator[socket.socket]:
    """Something else that listens where "lan" should be."""
    names.mkdir(mode=0o700)
    path = names / "lan"
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            sock.listen()
        try:
            yield sock
        finally:
            path.unlink()
            names.rmdir()


# --- names


@given(st.text())
@example("")
@example(".")
@example("..")
@example("a/b")
@example("\0")
@example("\ud800")
@example("~")
@example("x" * 1000)
def test_any_name_is_a_file_name(name: str) -> None:
    file = file_name(name)
    assert 0 < len(file.encode()) <= meeting.MAX_NAME
    assert not set(file) & set("/\0 \n")
    assert not file.startswith(".")
    assert file.isascii()
    assert len(meeting.address(2**31 - 1, file)) <= 107  # sun_path, less its NUL


@given(st.lists(st.text(max_size=150), unique=True))
@example(["", "~", "%", "%7E"])
@example(["a/b", "a%2Fb", "a_b"])
@example(["x" * 64, "x" * 65, "x" * 66])
def test_different_names_are_different_files(texts: list[str]) -> None:
    assert len({file_name(text) for text in texts}) == len(texts)


def test_file_names_can_be_read() -> None:
    assert file_name("lan") == "lan"
    assert file_name("My-Net_1.test") == "My-Net_1.test"
    assert file_name("a b/c") == "a%20b%2Fc"
    assert file_name(".x") == "%2Ex"
    long = file_name("x" * 100)
    assert long.startswith("x" * 31 + "~")


@given(st.integers(0, 255))
def test_packets_are_understood(count: int) -> None:
    assert meeting.unpack(meeting.pack(count)) == (meeting.VERSION, count)


@given(st.binary())
def test_any_packet_is_refused_or_understood(packet: bytes) -> None:
    if packet.startswith(meeting.MAGIC) and len(packet) >= 16:
        version, count = meeting.unpack(packet)
        assert packet[14:16] == bytes([version, count])
    else:
        with pytest.raises(ValueError, match="no answer of aioioth's"):
            meeting.unpack(packet)


# --- meeting


async def test_one_founds_and_the_others_find(names: Path) -> None:
    async with joined() as first:
        assert first.founded
        assert first.is_member
        assert stat.S_IMODE(names.stat().st_mode) == 0o700
        assert stat.S_IMODE((names / "lan").stat().st_mode) == 0o600
        found = [identity(each) for each in first.descriptors]
        assert len(set(found)) == 2
        async with joined() as second, joined() as third:
            for later in second, third:
                assert not later.founded
                assert later.is_member
                assert [identity(each) for each in later.descriptors] == found
                assert not any(map(os.get_inheritable, later.descriptors))
    await until(lambda: not names.exists())


async def test_other_names_are_other_things() -> None:
    async with joined("lan") as one, joined("") as two, joined("../lan") as three:
        assert one.founded
        assert two.founded
        assert three.founded
        assert len({identity(each.descriptors[0]) for each in (one, two, three)}) == 3


async def test_the_founder_may_leave_first(names: Path) -> None:
    first = await join()
    found = identity(first.descriptors[0])
    second = await join()
    first.close()
    first.close()
    await until(lambda: len(meeting._members) == 1)
    async with joined() as third:
        assert identity(third.descriptors[0]) == found
    second.close()
    await until(lambda: not names.exists())
    async with joined() as anew:
        assert anew.founded


@pytest.mark.parametrize("count", range(4))
async def test_any_number_of_descriptors(count: int) -> None:
    async def make() -> list[int]:
        return [os.memfd_create(str(each)) for each in range(count)]

    one = await _rendezvous.join("lan", make, introduce)
    two = await _rendezvous.join("lan", never, introduce)
    assert list(map(identity, one.descriptors)) == list(map(identity, two.descriptors))
    assert len(two.descriptors) == count
    one.close()
    two.close()


async def test_many_at_once_agree() -> None:
    async with asyncio.timeout(30):
        met = await asyncio.gather(*(join() for _ in range(30)))
    assert sum(each.founded for each in met) == 1
    assert len({identity(each.descriptors[0]) for each in met}) == 1
    for each in met:
        each.close()


async def test_coming_and_going_never_fails_and_leaves_nothing(names: Path) -> None:
    async def come_and_go() -> None:
        for _ in range(15):
            async with joined():
                await asyncio.sleep(0)

    async with asyncio.timeout(50):
        await asyncio.gather(*(come_and_go() for _ in range(6)))
    await until(lambda: not names.exists())


async def test_threads_with_loops_of_their_own_meet() -> None:
    def other() -> tuple[int, int]:
        async def main() -> tuple[int, int]:
            async with joined() as met:
                return identity(met.descriptors[0])

        return asyncio.run(main())

    async with joined() as met:
        assert await asyncio.to_thread(other) == identity(met.descriptors[0])
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_leaver_answers_the_comer_who_has_the_lock(
    names: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rendezvous, "_PATIENCE_SECONDS", 30.0)
    monkeypatch.setattr(meeting, "_LOCK_PATIENCE_SECONDS", 30.0)
    first = await join()
    found = identity(first.descriptors[0])
    with await Place.enter() as place:
        first.close()  # its keeper's thread cannot get the lock
        answer = await _rendezvous._ask(place, "lan")
        assert answer is not None, "the leaver went without the lock"
        assert identity(answer[0]) == found
        for each in answer:
            os.close(each)
    await until(lambda: not names.exists())


# --- crashes


async def test_a_dead_socket_is_replaced(names: Path) -> None:
    names.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(names / "lan"))
        dead.listen()
    async with joined() as met:
        assert met.founded


async def test_who_is_left_of_the_members_goes_on_after_the_directory() -> None:
    async with joined() as one:
        path = Path(directory_path())
        (path / "lan").unlink()
        path.rmdir()
        async with joined() as two:  # somebody has cleared up by hand
            assert two.founded
            assert identity(one.descriptors[0]) != identity(two.descriptors[0])


class MortalKeeper:
    """Holds what it is given, answers nobody, and can die."""

    def __init__(self) -> None:
        self.held = ExitStack()

    async def introduce(self, descriptors: list[int], body: bytes) -> None:
        for each in descriptors:
            self.held.callback(os.close, os.dup(each))


async def test_a_lost_keeper_is_told_and_replaced_by_another(names: Path) -> None:
    keeper = MortalKeeper()
    old = await _rendezvous.join("lan", make, keeper.introduce)
    lost = asyncio.Event()
    old.on_lost(lost.set)
    await asyncio.sleep(0)
    assert not lost.is_set()
    keeper.held.close()
    await asyncio.wait_for(lost.wait(), 10)

    new = await _rendezvous.join("lan", never, introduce, have=old.descriptors)
    assert new.founded
    assert list(map(identity, new.descriptors)) == list(map(identity, old.descriptors))
    old.close()
    async with joined() as other:
        assert identity(other.descriptors[0]) == identity(new.descriptors[0])
    new.close()
    await until(lambda: not names.exists())


async def test_joining_again_where_others_went_on() -> None:
    async with joined() as other:
        keeper = MortalKeeper()
        old = await _rendezvous.join("lan", never, keeper.introduce)
        keeper.held.close()
        new = await _rendezvous.join("lan", never, introduce, have=old.descriptors)
        old.close()
        assert not new.founded
        assert new.is_member
        assert identity(new.descriptors[0]) == identity(other.descriptors[0])
        new.close()


async def test_joining_again_where_others_have_founded_anew(
    names: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = MortalKeeper()
    old = await _rendezvous.join("lan", make, keeper.introduce)
    keeper.held.close()
    async with joined() as other:
        assert other.founded
        with caplog.at_level(logging.WARNING, "aioioth"):
            alone = await _rendezvous.join("lan", never, never, have=old.descriptors)  # type: ignore[arg-type]
        assert "founded it anew" in caplog.text
        assert not alone.is_member
        assert identity(alone.descriptors[0]) == identity(old.descriptors[0])
        alone.on_lost(lambda: pytest.fail("has no keeper to lose"))
        alone.close()
    old.close()


async def test_closing_after_the_loop_has_ended() -> None:
    def other() -> None:
        async def main() -> Meeting:
            met = await join()
            met.on_lost(lambda: None)
            return met

        asyncio.run(main()).close()

    await asyncio.to_thread(other)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_member_without_descriptors_answers_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with joined() as first:
        accept, failures = socket.socket.accept, 3

        def scarce(self: socket.socket) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return accept(self)

        monkeypatch.setattr(meeting, "_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(socket.socket, "accept", scarce)
        async with joined() as second:
            assert not failures
            assert identity(second.descriptors[0]) == identity(first.descriptors[0])


async def test_another_user_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rendezvous, "_PATIENCE_SECONDS", 0.2)
    async with joined():
        monkeypatch.setattr(meeting, "peer", lambda sock: (1, 12345))
        monkeypatch.setattr(_rendezvous, "_check_peer", lambda sock, path: 4711)
        with pytest.raises(HandshakeTimeoutError, match="process 4711 has only hung"):
            await join()


# --- refusals


async def test_a_listener_of_another_user_is_refused(
    names: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with impostor(names):
        monkeypatch.setattr(meeting, "peer", lambda sock: (1, 12345))
        with pytest.raises(BrokenTransportError, match="belongs to user id 12345"):
            await join()


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o500, 0o770])
async def test_a_directory_that_is_not_private(names: Path, mode: int) -> None:
    names.mkdir()
    names.chmod(mode)
    with pytest.raises(BrokenTransportError, match=f"'chmod 0700 {names}'") as caught:
        await join()
    assert caught.value.errno == errno.EACCES
    names.chmod(0o700)
    async with joined():
        pass


async def test_a_directory_of_another_user(
    names: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.mkdir(mode=0o700)
    uid = os.geteuid()
    (names / "other").mkdir()
    monkeypatch.setattr(_meetingplace, "directory_path", lambda: str(names))
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(BrokenTransportError, match=f"belongs to user id {uid}, and"):
        await join()
    (names / "other").rmdir()
    names.rmdir()


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
async def test_something_else_than_a_directory(
    names: Path, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if kind == "file":
        names.write_text("")
    else:
        names.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    with pytest.raises(BrokenTransportError, match="is no directory") as caught:
        await join()
    assert caught.value.errno == errno.ENOTDIR
    assert os.listdir(tmp_path / "elsewhere") == []
    names.unlink()
    (tmp_path / "elsewhere").rmdir()


async def test_a_place_that_cannot_be_made(
    names: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_meetingplace, "directory_path", lambda: f"{names}/no/where")
    with pytest.raises(BrokenTransportError, match="Set XDG_RUNTIME_DIR") as caught:
        await join()
    assert caught.value.errno == errno.ENOENT


def test_where_the_names_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/temporary")
    fallback = f"/temporary/aioioth-{os.geteuid()}"
    for bad in ("", "relative", "/does/not/exist", "/dev/null", "/a\0b"):
        monkeypatch.setattr(os, "environ", {"XDG_RUNTIME_DIR": bad})
        assert directory_path() == fallback
    monkeypatch.setattr(os, "environ", {"XDG_RUNTIME_DIR": f"{tmp_path}/"})
    assert directory_path() == f"{tmp_path}/aioioth"
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert directory_path() == f"/temporary/aioioth-{uid + 1}"


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
async def test_something_in_the_place_of_the_socket(names: Path, kind: str) -> None:
    names.mkdir(mode=0o700)
    path = names / "lan"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/nowhere")
    else:
        os.mkfifo(path)
    with pytest.raises(
        BrokenTransportError, match=r"in the way.*take it away"
    ) as caught:
        await join()
    assert str(path) in str(caught.value)
    assert caught.value.errno == errno.ENOTSOCK
    if kind == "directory":
        path.rmdir()
    else:
        path.unlink()
    names.rmdir()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_socket_of_another_kind(names: Path, kind: socket.SocketKind) -> None:
    with impostor(names, kind):
        with pytest.raises(BrokenTransportError, match="in the way"):
            await join()


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"HTTP/1.1 400", "somebody else answers there"),
        (meeting.MAGIC, "somebody else answers there"),
        (meeting.MAGIC + b"\x02\x00", "another version of aioioth"),
    ],
)
async def test_foreign_answers(names: Path, packet: bytes, reason: str) -> None:
    with impostor(names) as listener:

        def answer() -> None:
            with listener.accept()[0] as comer, Path("/dev/null").open() as file:
                socket.send_fds(comer, [packet], [file.fileno()])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(BrokenTransportError, match=reason) as caught:
            await join()
        assert caught.value.errno == errno.EPROTO
        thread.join()


async def test_descriptors_that_did_not_fit_in(names: Path) -> None:
    with impostor(names) as listener:

        def answer() -> None:
            with listener.accept()[0] as comer, Path("/dev/null").open() as file:
                socket.send_fds(comer, [meeting.pack(1)], [file.fileno()])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            await join()
        thread.join()


async def test_nobody_answers(names: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rendezvous, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(_rendezvous, "_PATIENCE_SECONDS", 0.15)
    with impostor(names):
        with pytest.raises(HandshakeTimeoutError, match=f"-CONT {os.getpid()}'"):
            await join()
    with impostor(names) as listener, ExitStack() as undo:
        listener.listen(0)
        asking = undo.enter_context(meeting.new_socket())
        asking.connect(str(names / "lan"))
        with pytest.raises(HandshakeTimeoutError, match="-CONT PID'"):
            await join()


async def test_who_has_the_lock_is_named(
    names: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_meetingplace, "_LOCK_PATIENCE_SECONDS", 0.05)
    names.mkdir()
    names.chmod(0o700)
    descriptor = os.open(names, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(HandshakeTimeoutError, match=f"process {os.getpid()} has had"):
        await join()
    os.close(descriptor)
    async with joined():
        pass


async def test_errors_of_the_callbacks_leave_nothing(names: Path) -> None:
    async def refuse(*_: object) -> list[int]:
        raise PermissionError(errno.EPERM, "no namespaces for you")

    with pytest.raises(PermissionError):
        await _rendezvous.join("lan", refuse, introduce)
    assert not names.exists()
    with pytest.raises(PermissionError):
        await _rendezvous.join("lan", make, refuse)
    assert not names.exists()
    async with joined() as met:
        with pytest.raises(PermissionError):
            await _rendezvous.join("lan", never, refuse)
        async with joined() as other:
            assert identity(met.descriptors[0]) == identity(other.descriptors[0])


async def test_a_keeper_without_descriptors_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scarce(descriptors: list[int], body: bytes) -> None:
        meeting.start([*descriptors, 1 << 20], body.decode())  # one is no descriptor

    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await _rendezvous.join("lan", make, scarce)

    def start(self: threading.Thread) -> None:
        raise RuntimeError(reason)

    reason = "can't start new thread"
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match=reason):
            await join()


# --- cancellation


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("way", ["founding", "finding", "again", "waiting"])
async def test_cancelled_anywhere(names: Path, way: str, times: int) -> None:
    async def close(met: Meeting) -> None:
        met.close()

    async def join_again() -> Meeting:
        keeper = MortalKeeper()
        old = await _rendezvous.join("lan", never, keeper.introduce)
        try:
            keeper.held.close()
            return await join(have=old.descriptors)
        finally:
            old.close()

    async def wait_and_join() -> Meeting:
        locked = os.open(names, os.O_RDONLY)
        fcntl.flock(locked, fcntl.LOCK_EX)
        asyncio.get_running_loop().call_later(0.02, os.close, locked)
        return await join()

    first = None if way == "founding" else await join()
    what = {"again": join_again, "waiting": wait_and_join}.get(way, join)
    assert await cancel_everywhere(what, undo=close, times=times) >= 2
    if first is not None:
        async with joined() as other:
            assert identity(other.descriptors[0]) == identity(first.descriptors[0])
        first.close()
    await until(lambda: not names.exists())
