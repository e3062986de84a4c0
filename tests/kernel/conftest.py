"""A client for the echo server, and which tests asyncio's own calls get."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aioioth

    Ask = Callable[[aioioth.Stack, str, bytes], Awaitable[bytes]]


@pytest.fixture
def ask() -> Ask:
    """Ask the echo server at HOST, port 7, from a stack; returns the answer."""

    async def question(stack: aioioth.Stack, host: str, text: bytes) -> bytes:
        async with asyncio.timeout(20):
            reader, writer = await stack.open_connection(host, 7)
            writer.write(text)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer

    return question


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """asyncio is the specification; uvloop's own calls fall short of it."""
    pointless = [item for item in items if "[uvloop-asyncio's" in item.name]
    config.hook.pytest_deselected(items=pointless)
    items[:] = [item for item in items if item not in pointless]
