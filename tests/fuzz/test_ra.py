"""A router and a host on one network with somebody who says anything at all."""

from __future__ import annotations

import asyncio
import random
import socket
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import aioioth
from aioioth._autoconf.advertised import Host
from aioioth._autoconf.ra_machine import RaMachine
from aioioth.hashes import eui64_address
from aioioth.iproute import Address, Route
from aioioth.servers.ra import RouterAdvertiser
from aioioth.wire import nd
from tests.kernel.routers import hurry, listening

PATIENCE = 20.0
MAC = "02:00:00:00:00:01"
ROUTER = eui64_address(MAC)

# Options as they are on the wire, each with something in it that may be right.
NUMBERS = st.sampled_from([0, 1, 64, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
NUMBER = NUMBERS.map(lambda number: number.to_bytes(4, "big"))
BYTE = st.integers(0, 255).map(lambda number: bytes([number]))
FIRST = st.sampled_from(["fd00", "2001", "fe80", "ff02", "0000", "0064"])
PACKED = st.builds(
    lambda first, rest: bytes.fromhex(first) + rest,
    FIRST,
    st.binary(min_size=14, max_size=14),
)


def option(kind: int, *parts: Any) -> Any:
    """Return a strategy for options, padded to whole units of 8 bytes."""

    def build(*each: bytes) -> bytes:
        body = b"".join(each)
        body += bytes(-(len(body) + 2) % 8)
        return bytes([kind, (len(body) + 2) // 8]) + body

    return st.builds(build, *parts)


OPTIONS = st.one_of(
    option(1, st.binary(min_size=6, max_size=6)),
    option(3, BYTE, BYTE, NUMBER, NUMBER, st.just(bytes(4)), PACKED),
    option(5, st.just(bytes(2)), NUMBER),
    option(24, BYTE, BYTE, NUMBER, st.just(b"") | PACKED),
    option(25, st.just(bytes(2)), NUMBER, PACKED, st.just(b"") | PACKED),
    option(31, st.just(bytes(2)), NUMBER, st.binary(max_size=40)),
    option(31, st.just(bytes(2)), NUMBER, st.just(b"\3lab\0")),
    st.builds(
        lambda kind, size, body: bytes([kind, size]) + body,
        st.integers(0, 255),
        st.integers(0, 3),
        st.binary(max_size=30),
    ),
)
MESSAGES = st.builds(
    lambda kind, rest, options: bytes([kind, 0]) + rest + b"".join(options),
    st.sampled_from([133, 134]),
    st.binary(min_size=14, max_size=14),
    st.lists(OPTIONS, max_size=8),
)
SOURCES = st.integers(1, 100).map(lambda number: IPv6Address((0xFE80 << 112) + number))


@settings(max_examples=200)
@given(st.lists(st.tuples(MESSAGES, SOURCES, st.floats(0, 1e5)), max_size=30))
def test_a_host_and_what_it_would_do(
    messages: list[tuple[bytes, IPv6Address, float]],
) -> None:
    machine = RaMachine(
        Host("vde0", bytes(6), fqdn="a.lab"), lambda least, most: (least + most) / 2
    )
    now = 0.0
    for message, source, wait in messages:
        now += wait
        try:
            machine.receive(message, source, 255, now)
        except ValueError:
            continue
        machine.solicit_due(now)
        if (change := machine.take_change(now)) is None or change.findings is None:
            continue
        for thing in (*change.findings.addresses, *change.findings.routes):
            assert isinstance(thing, (Address, Route))
            assert str(thing)
        assert machine.deadline(now) > now


def say(sock: socket.socket, message: bytes, to: str) -> None:
    # A raw socket takes no less than ICMPv6's header.
    sock.sendto(message[:1200].ljust(8, b"\0"), (to, 0))


@pytest.mark.parametrize("seed", range(3))
async def test_both_on_a_network(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel is told is from the network, too."""
    hurry(monkeypatch)
    chance = random.Random(seed)
    context: dict[str, Any] = {}
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, told: context.update(told))
    texts = _samples(chance)
    async with (
        aioioth.Stack("memory://lan", ip="fd00::1/64", mac=MAC) as one,
        aioioth.Stack("memory://lan") as two,
        aioioth.Stack("memory://lan", ip="fd00::66/64") as bad,
    ):
        with bad.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"vde0")
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            async with RouterAdvertiser(one), listening(two) as host:
                await host.until(lambda found: found.addresses)
                for text in texts:
                    say(raw, text, "ff02::1")
                    say(raw, text, "ff02::2")
                    await asyncio.sleep(0)
                told = len(host.said)
                host.source.refresh()
                async with asyncio.timeout(PATIENCE):
                    while len(host.said) == told:
                        assert not host.task.done(), host.task.exception()
                        await asyncio.sleep(0.01)
                # He has added what he wanted, and taken nothing away.
                assert ROUTER in {each.via for each in host.now.routes}
                assert "fd00::/64" in {
                    str(each.address.network) for each in host.now.addresses
                }
    assert not context, context


def _samples(chance: random.Random) -> list[bytes]:
    """Return messages of which some are nearly right."""
    found = []
    for _ in range(200):
        told = nd.RouterAdvertisement(
            lifetime=chance.choice([0, 1, 1800, 65535]),
            mtu=chance.choice([None, 0, 1280, 1400, 70000]),
            prefixes=tuple(
                nd.Prefix(
                    IPv6Network(
                        (chance.getrandbits(128), chance.randint(0, 128)), strict=False
                    ),
                    chance.choice([0, 1, 86400, None]),
                    chance.choice([0, 1, 86400, None]),
                    on_link=chance.random() < 0.5,
                )
                for _ in range(chance.randint(0, 3))
            ),
            routes=tuple(
                nd.RouteTo(
                    IPv6Network(
                        (chance.getrandbits(128), chance.randint(0, 128)), strict=False
                    ),
                    chance.choice([0, 1, 86400, None]),
                )
                for _ in range(chance.randint(0, 3))
            ),
        )
        message = bytearray(told.pack())
        if chance.random() < 0.5:
            message[chance.randrange(2, len(message))] = chance.randrange(256)
        if chance.random() < 0.2:
            message = message[: chance.randrange(len(message))]
        if chance.random() < 0.2:
            message[:1] = b"\x85"
        found.append(bytes(message))
    return found
