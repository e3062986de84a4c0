"""Starting programs, and waiting for them, cancelled at each await, once and twice."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.testing import cancel_everywhere, no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.parametrize("times", [1, 2])

LONG = "/bin/sleep 1000"


@pytest.fixture
async def stack() -> AsyncIterator[aioioth.Stack]:
    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24") as opened:
        # libuv keeps a descriptor after a loop's first pipe.
        first = await opened.create_subprocess_exec("true", stdin=PIPE)
        await first.communicate()
        yield opened


async def end(process: Any) -> None:
    if process is not None:
        process.kill()
        await process.communicate()


async def test_create_subprocess_exec(stack: aioioth.Stack, times: int) -> None:
    def start() -> Any:
        return stack.create_subprocess_exec(*LONG.split(), stdin=PIPE, stdout=PIPE)

    assert await cancel_everywhere(start, undo=end, times=times) >= 2


async def test_create_subprocess_shell(stack: aioioth.Stack, times: int) -> None:
    def start() -> Any:
        return stack.create_subprocess_shell(f"exec {LONG}", stderr=PIPE)

    assert await cancel_everywhere(start, undo=end, times=times) >= 2


async def test_a_program_that_is_not_there(stack: aioioth.Stack, times: int) -> None:
    async def start() -> None:
        with pytest.raises(FileNotFoundError):
            await stack.create_subprocess_exec("/no/such", stdin=PIPE, stdout=PIPE)

    assert await cancel_everywhere(start, times=times) >= 3


async def test_run(stack: aioioth.Stack, times: int) -> None:
    async def commands() -> None:
        assert await stack.run("/bin/true; /bin/true") == 0

    assert await cancel_everywhere(commands, times=times) >= 4


async def test_run_kills_what_runs(
    stack: aioioth.Stack, times: int, tmp_path: Path
) -> None:
    said = tmp_path / "pid"
    with no_leaks():
        command = f"/bin/sh -c 'echo $$ > {said}; exec {LONG}'"
        running = asyncio.create_task(stack.run(command))
        async with asyncio.timeout(30):
            while not (said.exists() and said.read_text().endswith("\n")):
                await asyncio.sleep(0.002)
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await running
        # Cancelled twice it does not wait for the end of what it has killed.
        async with asyncio.timeout(30):
            while Path(f"/proc/{said.read_text().strip()}").exists():
                await asyncio.sleep(0.002)


async def test_wait_listening(stack: aioioth.Stack, times: int) -> None:
    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with aioioth.Stack("memory://lan", ip="10.0.0.2/24") as other:

        async def nobody() -> None:
            with pytest.raises(TimeoutError):
                await other.wait_listening("10.0.0.1", 7, 0.02)

        assert await cancel_everywhere(nobody, times=times) >= 1
        async with await stack.start_server(serve, "10.0.0.1", 7):

            def somebody() -> Any:
                return other.wait_listening("10.0.0.1", 7)

            assert await cancel_everywhere(somebody, times=times) >= 2
