from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, ConfigurationError, VnlError
from aioioth.testing import cancel_everywhere
from aioioth_transports.memory import MemoryTransport
from aioioth_transports.seal import SealTransport

if TYPE_CHECKING:
    from pathlib import Path

    from aioioth.abc import Plug

pytest.importorskip("cryptography")

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 0800") + b"hello"
KEY = bytes(range(32)).hex()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return a_key(tmp_path / "key", KEY)


def a_key(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(f"{text}\n")
    file.chmod(mode)
    return file


def received(plug: Plug) -> list[bytes]:
    buffer = memoryview(bytearray(2000))
    frames: list[bytes] = []
    while True:
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            return frames
        frames.append(bytes(buffer[:length]))


async def test_those_with_the_key_are_among_themselves(
    tmp_path: Path, key: Path
) -> None:
    transport = SealTransport(f"{key}{{memory://x}}")
    assert isinstance(transport, abc.FrameTransport)
    stranger = SealTransport(f"{a_key(tmp_path / 'other', '00' * 32)}{{memory://x}}")
    one, two = await transport.open("one"), await transport.open("two")
    three = await stranger.open("three")
    plain = await MemoryTransport("x").open("plain")
    assert one.mtu == plain.mtu - 47
    for _ in range(3):
        one.send(FRAME)
    assert received(two) == [FRAME] * 3
    assert received(three) == []
    assert three.drops == {"forged": 3}
    wires = received(plain)
    assert len(set(wires)) == 3
    for wire in wires:
        assert wire[:14] == FRAME[:12] + b"\x88\xb6"
        assert b"hello" not in wire
        plain.send(wire)
    plain.send(FRAME)
    assert received(two) == received(one) == []
    assert two.drops == one.drops == {"replayed": 3, "not sealed": 1}
    # To a newcomer they are new: see the documentation.
    four = await transport.open("four")
    plain.send(wires[0])
    plain.send(wires[0])
    assert received(four) == [FRAME]
    for plug in (one, two, three, four, plain):
        plug.close()


async def test_the_key_file_is_read_at_each_open(key: Path) -> None:
    transport = SealTransport(f"{key}{{memory://x}}")
    old = await transport.open("old")
    key.write_text("f" * 64)
    new, newer = await transport.open("new"), await transport.open("newer")
    new.send(FRAME)
    assert received(newer) == [FRAME]
    assert received(old) == []
    for plug in (old, new, newer):
        plug.close()


async def refusal(file: object) -> BrokenTransportError:
    with pytest.raises(BrokenTransportError) as caught:
        await SealTransport(f"{file}{{null://}}").open("me")
    assert caught.value.vnl == f"seal://{file}{{null://}}"
    return caught.value


async def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    error = await refusal(tmp_path / "none")
    assert error.errno == errno.ENOENT
    assert f"the key file {tmp_path}/none cannot be read" in str(error)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o620, 0o666])
async def test_a_key_file_that_others_may_use(tmp_path: Path, mode: int) -> None:
    file = a_key(tmp_path / "key", KEY, mode)
    error = await refusal(file)
    assert error.errno == errno.EACCES
    assert str(error).endswith(f"others may use the key file: chmod go= {file}")


@pytest.mark.parametrize("text", ["", KEY[1:], KEY + "00", f"{KEY} my key", "x" * 64])
async def test_a_key_file_without_a_key(tmp_path: Path, text: str) -> None:
    file = a_key(tmp_path / "key", text)
    told = str(await refusal(file))
    assert told.endswith(
        f"key file {file} must hold 64 hexadecimal digits and nothing else"
    )
    assert KEY[1:] not in told


async def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    error = await refusal(tmp_path / "fifo")
    assert "must be a regular file" in str(error)


async def test_the_key_is_never_shown(
    key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    transport = SealTransport(f"{key}{{memory://x}}")
    plug = await transport.open("me")
    plug.send(FRAME)
    shown = f"{transport!r} {plug!r} {plug.drops!r} {caplog.text}"
    assert "Sealer" in shown
    for form in (KEY, str(bytes.fromhex(KEY)), KEY[:8]):
        assert form not in shown
    plug.close()


async def test_cancelled_at_each_await(key: Path) -> None:
    async def life() -> None:
        plug = await SealTransport(f"{key}{{memory://x}}").open("me")
        plug.close()

    await cancel_everywhere(life)


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigurationError) as caught:
        SealTransport("/key{null://}")
    assert str(caught.value) == (
        "seal:// needs the package 'cryptography', which is not installed: "
        "pip install 'aioioth[crypto]'"
    )


@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("/k", 2, "expected a network in braces"),
        ("{null://}", 0, "expected a key file: seal://KEYFILE{VNL}"),
        ("/k[x=1]{null://}", 3, "no option 'x': there are none"),
        ("/k{vlan://x{null://}}", 10, "expected a VLAN's number"),
    ],
)
def test_what_makes_no_sense(address: str, position: int, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        SealTransport(address)
    assert caught.value.position == position
    assert caught.value.reason.startswith(reason)


@given(st.text("[]=ab/'\"%\\{}", max_size=30))
def test_any_text(text: str) -> None:
    with contextlib.suppress(VnlError):
        SealTransport(f"{text}{{null://}}")
