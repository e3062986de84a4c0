"""The VNL itself is used here, so the distribution has to be installed."""

from __future__ import annotations

import asyncio

import pytest
from aioioth_lossy import LossyTransport

import aioioth
from aioioth.errors import VnlError
from aioioth.testing import no_leaks


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("many{memory://x}", 0),
        ("101{memory://x}", 0),
        ("5", 1),
        ("5[seed=x]{null://}", 7),
    ],
)
def test_what_makes_no_sense_is_pointed_at(address: str, place: int) -> None:
    with pytest.raises(VnlError) as caught:
        LossyTransport(address)
    assert caught.value.position == place


def test_it_loses_frames_and_tcp_does_not_care() -> None:
    async def main() -> None:
        async with (
            aioioth.Stack("lossy://10[seed=1]{memory://lab}", ip="10.0.0.1/24") as one,
            aioioth.Stack("memory://lab", ip="10.0.0.2/24") as two,
            await two.start_server(_shout, "10.0.0.2", 7),
        ):
            reader, writer = await one.open_connection("10.0.0.2", 7)
            for _ in range(20):
                writer.write(b"hello\n")
                assert await reader.readline() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()
            stats = one.stats()["vde0"]
            assert stats.sent.drops["filtered"] > 0
            assert stats.received.drops["lost on purpose"] > 0

    with no_leaks():
        asyncio.run(main())


async def _shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()
