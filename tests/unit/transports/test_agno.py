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
from aioioth_transports.agno import AgnoTransport
from aioioth_transports.memory import MemoryTransport

if TYPE_CHECKING:
    from pathlib import Path

    from aioioth.abc import Plug


FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 0800") + b"hello"
KEY = "000102030405060708090a0b0c0d0e0f"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
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


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("", b"\xa6\xde"),
        ("[ethtype=4660]", b"\x12\x34"),
        ("[ethtype=0x1234]", b"\x12\x34"),
        ("[ethtype=0XABCD]", b"\xab\xcd"),
        ("[ethtype=copy]", b"\x08\x00"),
        ("[ethtype=ipv4]", b"\x08\x00"),
        ("[ethtype=ipv6]", b"\x86\xdd"),
        ("[ethtype=rand]", None),
    ],
)
async def test_both_ways(key: Path, option: str, shown: bytes | None) -> None:
    transport = AgnoTransport(f"{key}{option}{{memory://x}}")
    assert isinstance(transport, abc.FrameTransport)
    one, two = await transport.open("one"), await transport.open("two")
    plain = await MemoryTransport("x").open("other")
    assert one.mtu == plain.mtu - 31
    one.send(FRAME)
    assert received(two) == [FRAME]
    (wire,) = received(plain)
    assert wire[:12] == FRAME[:12]
    assert b"hello" not in wire
    assert int.from_bytes(wire[12:14], "big") >= 0x600
    if shown is not None:
        assert wire[12:14] == shown
    plain.send(FRAME)
    assert received(one) == []
    assert one.drops == {"undecipherable": 1}
    for plug in (one, two, plain):
        plug.close()


async def test_the_default_key_file(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    key.rename(tmp_path / ".vde_agno_key")
    one = await AgnoTransport("{memory://x}").open("one")
    two = await AgnoTransport("~/.vde_agno_key{memory://x}").open("two")
    one.send(FRAME)
    assert received(two) == [FRAME]
    one.close()
    two.close()


async def test_the_key_file_is_read_at_each_open(key: Path) -> None:
    transport = AgnoTransport(f"{key}{{memory://x}}")
    old = await transport.open("old")
    key.write_text("f" * 32)
    new, newer = await transport.open("new"), await transport.open("newer")
    new.send(FRAME)
    assert received(newer) == [FRAME]
    assert received(old) == []
    for plug in (old, new, newer):
        plug.close()


async def refusal(address: str) -> BrokenTransportError:
    with pytest.raises(BrokenTransportError) as caught:
        await AgnoTransport(address).open("me")
    assert caught.value.vnl == f"agno://{address}"
    return caught.value


async def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    error = await refusal(f"{tmp_path}/none{{null://}}")
    assert error.errno == errno.ENOENT
    text = f"the key file {tmp_path}/none cannot be read: No such file or directory"
    assert text in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_key_file_that_we_may_not_read(key: Path) -> None:
    key.chmod(0)
    error = await refusal(f"{key}{{null://}}")
    assert error.errno == errno.EACCES


async def test_a_home_that_is_not_there() -> None:
    error = await refusal("~no-such-user/key{null://}")
    assert "cannot be read" in str(error)


@pytest.mark.parametrize("text", ["", f"{KEY[:-1]}\n", "none of it"])
async def test_a_key_file_without_a_key(key: Path, text: str) -> None:
    key.write_text(text)
    error = await refusal(f"{key}{{null://}}")
    assert f"the key file {key} has less than 32 hexadecimal digits" in str(error)
    assert not text or text not in str(error)


async def test_a_key_file_that_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in (f"{tmp_path}/fifo", "/dev/zero", str(tmp_path)):
        error = await refusal(f"{name}{{null://}}")
        assert "must be a regular file" in str(error)


async def test_a_key_file_that_others_may_read(
    key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transport = AgnoTransport(f"{key}{{null://}}")
    caplog.set_level(logging.DEBUG)
    (await transport.open("me")).close()
    assert caplog.messages == []
    key.chmod(0o640)
    for _ in range(2):  # said once, not each time the network is lost
        (await transport.open("me")).close()
    (message,) = caplog.messages
    assert message.endswith(f"others may read the key file: chmod go= {key}")


async def test_the_key_is_never_shown(
    key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key.chmod(0o644)
    transport = AgnoTransport(f"{key}{{memory://x}}")
    plug = await transport.open("me")
    plug.send(FRAME)
    shown = f"{transport!r} {plug!r} {plug.drops!r} {caplog.text}"
    assert "AgnoCipher" in shown
    for form in (KEY, str(bytes.fromhex(KEY)), KEY[:8]):
        assert form not in shown
    plug.close()


async def test_cancelled_at_each_await(key: Path) -> None:
    async def life() -> None:
        plug = await AgnoTransport(f"{key}{{memory://x}}").open("me")
        plug.close()

    await cancel_everywhere(life)


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigurationError) as caught:
        AgnoTransport("{null://}")
    assert str(caught.value) == (
        "agno:// needs the package 'cryptography', which is not installed: "
        "pip install 'aioioth[crypto]'"
    )


TYPES = "ethtype: expected copy, ipv4, ipv6, rand, or a number from 0x0600 to 0xffff"


@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("", 0, "expected a network in braces"),
        ("/k[ethtype=]{null://}", 11, TYPES),
        ("/k[ethtype=0x5ff]{null://}", 11, TYPES),
        ("/k[ethtype=0x10000]{null://}", 11, TYPES),
        ("/k[ethtype=1535]{null://}", 11, TYPES),
        ("/k[ethtype=65536]{null://}", 11, TYPES),
        ("/k[ethtype=a6de]{null://}", 11, TYPES),
        ("/k[ethtype=04660]{null://}", 11, TYPES),
        ("/k[ethtype=xyz]{null://}", 11, TYPES),
        ("/k[colour=1]{null://}", 3, "no option 'colour'; known: ethtype"),
        ("/k{vlan://x{null://}}", 10, "expected a VLAN's number"),
    ],
)
def test_what_makes_no_sense(address: str, position: int, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        AgnoTransport(address)
    assert caught.value.position == position
    assert caught.value.reason.startswith(reason)


@given(st.text("[]=ethyp0123xcor'\"%\\{}", max_size=30))
def test_any_text(text: str) -> None:
    with contextlib.suppress(VnlError):
        AgnoTransport(f"{text}{{null://}}")
