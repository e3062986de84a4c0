from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import VnlError
from aioioth.networks import find_network
from aioioth_transports.memory import MemoryTransport
from aioioth_transports.vlan import VlanTransport

if TYPE_CHECKING:
    from aioioth.abc import Plug

MACS = bytes.fromhex("ffffffffffff 020000000001")
REST = bytes.fromhex("0800") + b"payload"
PLAIN = MACS + REST


def tagged(*tags: int, kind: int = 0x8100, rest: bytes = REST) -> bytes:
    for tag in reversed(tags):
        rest = kind.to_bytes(2, "big") + tag.to_bytes(2, "big") + rest
    return MACS + rest


def received(plug: Plug) -> list[bytes]:
    buffer = memoryview(bytearray(2000))
    frames: list[bytes] = []
    while True:
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            return frames
        frames.append(bytes(buffer[:length]))


# How it is written, a frame of the stack's, and the same on the network.
TABLE = [
    ("4{memory://x}", PLAIN, tagged(4)),
    ("{memory://x}", PLAIN, PLAIN),
    ("0{memory://x}", PLAIN, PLAIN),
    ("4/qinq{memory://x}", PLAIN, tagged(4, kind=0x88A8)),
    ("4/q{memory://x}", PLAIN, tagged(4, kind=0x88A8)),
    ("4/ad{memory://x}", PLAIN, tagged(4, kind=0x88A8)),
    ("4/untag=7{memory://x}", tagged(7), PLAIN),
    ("/u=7{memory://x}", tagged(7), PLAIN),
    ("/tag=5{memory://x}", tagged(5), tagged(5)),
    ("/t=5{memory://x}", tagged(5), tagged(5)),
    ("/tag=5-6{memory://x}", tagged(5), tagged(6)),
    ("/tag=5-6:6-5.9{memory://x}", tagged(6), tagged(5)),
    ("/tag=5-6:6-5.9{memory://x}", tagged(9), tagged(9)),
    ("/trunk{memory://x}", tagged(9), tagged(9)),
    ("/x{memory://x}", tagged(9), tagged(9)),
    ("3/untag=4/trunk/tag=10:11-12:12-11{memory://x}", tagged(12), tagged(11)),
    ("3/untag=4/trunk/tag=10:11-12:12-11{memory://x}", PLAIN, tagged(3)),
    ("3/untag=4/trunk/tag=10:11-12:12-11{memory://x}", tagged(4), PLAIN),
    ("/untag=0/tag={memory://x}", PLAIN, PLAIN),
    (
        "4{vlan://5/qinq{memory://x}}",
        PLAIN,
        tagged(5, kind=0x88A8, rest=tagged(4)[12:]),
    ),
    ("'4'{memory://x}", PLAIN, tagged(4)),
]


@pytest.mark.parametrize(
    ("address", "here", "there"), TABLE, ids=[address for address, *_ in TABLE]
)
async def test_both_ways(address: str, here: bytes, there: bytes) -> None:
    transport = VlanTransport(address)
    assert isinstance(transport, abc.FrameTransport)
    plug = await transport.open("me")
    plain = await MemoryTransport("x").open("other")
    plug.send(here)
    assert received(plain) == [there]
    plain.send(there)
    assert received(plug) == [here]
    assert plug.drops == {}
    plug.close()
    plain.close()


async def test_the_mtu_leaves_room_for_each_tag() -> None:
    plain = await MemoryTransport("x").open("plain")
    plug = await VlanTransport("4{vlan://5/qinq{memory://x}}").open("me")
    assert plug.mtu == plain.mtu - 8
    plug.close()
    plain.close()


async def test_vlans_are_apart() -> None:
    four, five = VlanTransport("4{memory://x}"), VlanTransport("5{memory://x}")
    plugs = [await each.open("me") for each in (four, four, five)]
    plugs[0].send(PLAIN)
    assert [received(plug) for plug in plugs] == [[], [PLAIN], []]
    assert plugs[2].drops == {"other VLAN": 1}
    for plug in plugs:
        plug.close()


REFUSED = [
    ("{null://}x", 9, "nothing may follow the nested VNL"),
    ("4", 1, "expected a network in braces: {VNL}"),
    ("4095{null://}", 0, "expected a VLAN's number up to 4094, or '/' and options"),
    ("-1{null://}", 0, "expected a VLAN's number up to 4094, or '/' and options"),
    ("²{null://}", 0, "expected a VLAN's number up to 4094, or '/' and options"),
    ("4[trunk]{null://}", 1, "options follow a '/' here"),
    ("4/untag=x{null://}", 8, "untag: expected a number from 0 to 4094"),
    ("4/u=4095{null://}", 4, "u: expected a number from 0 to 4094"),
    ("/tag=1:x{null://}", 7, "tag: expected VLANs, such as 5 or 5-6, with ':' between"),
    ("/tag=1:2-{null://}", 7, "tag: expected VLANs"),
    ("/tag=1:4095{null://}", 7, "tag: VLANs go up to 4094"),
    ("/tag=1-4095{null://}", 5, "tag: VLANs go up to 4094"),
    ("/tag=5:0{null://}", 7, "tag: 0 is no VLAN"),
    ("/tag=5-0{null://}", 5, "tag: 0 is no VLAN"),
    ("/tag=5:6:5-7{null://}", 9, "tag: 5 is listed twice"),
    ("/tag=5:6-5{null://}", 7, "tag: 5 is listed twice"),
    ("/tag='5:6-5'{null://}", 5, "tag: 5 is listed twice"),
    ("4/tag=5-4{null://}", 6, "tag: 4 is the VLAN that is untagged here"),
    ("/untag=4/tag=4-5{null://}", 13, "tag: 4 is what 'untag' stands for here"),
    ("4/colour=1{null://}", 2, "no option 'colour'"),
    ("4/trunk=1{null://}", 7, "trunk takes no value"),
    ("4{vlan://5/tag=x{null://}}", 15, "tag: expected VLANs"),
    ("4{eth0:null://}", 2, "interface 'eth0'"),
]


@pytest.mark.parametrize(("address", "position", "reason"), REFUSED)
def test_what_makes_no_sense(address: str, position: int, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        VlanTransport(address)
    assert caught.value.vnl == address
    assert caught.value.position == position
    assert caught.value.reason.startswith(reason)


def test_the_error_shows_the_whole_vnl() -> None:
    with pytest.raises(VnlError) as caught:
        find_network("vlan://4{vlan://5000{null://}}")
    assert str(caught.value).splitlines()[1:] == [
        "  vlan://4{vlan://5000{null://}}",
        "                  ^",
    ]


@given(st.text("0123456789/=:.-'\"%\\{}tagunrkqix", max_size=40))
def test_any_text(text: str) -> None:
    with contextlib.suppress(VnlError):
        VlanTransport(f"{text}{{null://}}")
