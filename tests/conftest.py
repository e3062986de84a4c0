"""The loop matrix, the leak check around every test, devices, an echo server."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from aioioth.testing import no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# What is no test file, but asserts as one.
pytest.register_assert_rewrite(
    "tests.kernel.bridges",
    "tests.kernel.children",
    "tests.kernel.dhcp4_hosts",
    "tests.kernel.dhcp6_hosts",
    "tests.kernel.hosts",
    "tests.kernel.routers",
    "tests.kernel.traffic",
    "tests.unit.segments",
    "tests.unit.steps",
)

# Shells have what they start in the background ignore Ctrl-C; some tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# libuv opens one pipe per process, for signals; open it before leaks are counted.
uvloop.new_event_loop().close()


def _debugging_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    # Debug mode reports what holds the loop for long; a loaded machine does it too.
    loop.slow_callback_duration = 5.0
    return loop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], Any]]:
    return {"asyncio": _debugging_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True, scope="session")
def _runtime_directory() -> Iterator[None]:
    """A directory of this run's own, where its programs meet and nobody else's."""
    with (
        tempfile.TemporaryDirectory(prefix="aioioth-run-") as path,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", path)
        yield


def _names_left() -> list[str]:
    """Return what programs that are gone have left for others to find."""
    place = Path(os.environ["XDG_RUNTIME_DIR"], "aioioth")
    try:
        return [os.fspath(place), *os.listdir(place)]
    except FileNotFoundError:
        return []


@pytest.fixture(autouse=True)
def _leak_check(_runtime_directory: None) -> Iterator[None]:
    """Around the test and its loop: nothing is left behind."""
    with no_leaks():
        yield
    deadline = time.monotonic() + 2.0
    while left := _names_left():
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
async def _task_check() -> AsyncIterator[None]:
    """Inside the test's loop: no task is left running."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


def _tap_refusal() -> str | None:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    return None


@pytest.fixture(params=["tap", "packet"])
def device(request: pytest.FixtureRequest) -> str:
    """Each way that frames can take between a stack and aioioth."""
    if request.param == "tap" and (reason := _tap_refusal()):
        pytest.skip(reason)
    param: str = request.param
    return param


@pytest.fixture
def tap_opens() -> bool:
    """Whether this user may open /dev/net/tun."""
    return _tap_refusal() is None


@pytest.fixture
def echo() -> Serve:
    """A callback for start_server that sends back what comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return serve
