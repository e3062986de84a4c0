"""A client for the echo server, hosts, and which tests asyncio's own calls get."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioioth_transports import _hostlink
from tests.kernel.hosts import leave_nothing_to_hardware, program_and_stack, two_stacks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import aioioth
    from aioioth.abc import NewInterface
    from tests.kernel.hosts import Host

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


@pytest.fixture(params=["program", "stacks"])
async def hosts(request: pytest.FixtureRequest) -> AsyncIterator[list[Host]]:
    """Two hosts on one Ethernet, 192.168.0.1 and .2, fd01::1 and ::2."""
    make = program_and_stack if request.param == "program" else two_stacks
    async with make() as found:
        for host in found:
            leave_nothing_to_hardware(host)
        yield found


@pytest.fixture(params=["directly", "moved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How links get into stacks; they are moved there by kernels before 6.15."""

    def make_elsewhere(
        recipe: _hostlink.Recipe, wanted: NewInterface, *, up: bool
    ) -> None:
        with _hostlink.host_socket() as sock:
            _hostlink.make_elsewhere(sock, recipe, wanted, up=up)

    param: str = request.param
    if param == "moved":
        monkeypatch.setattr(_hostlink, "make_link", make_elsewhere)
    return param


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """asyncio is the specification; uvloop's own calls fall short of it."""
    pointless = [item for item in items if "[uvloop-asyncio's" in item.name]
    config.hook.pytest_deselected(items=pointless)
    items[:] = [item for item in items if item not in pointless]
