"""What unit tests share: hypothesis's profile, sockets, and eyes on the loop."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.unit.steps import Compiled, CompiledCutter, Ends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Pair = tuple[socket.socket, socket.socket]
    Watched = Callable[[], dict[int, int]]

_WATCHED = re.compile(r"^tfd:\s+(\d+) events:\s+([0-9a-f]+)", re.MULTILINE)

settings.register_profile("aioioth", database=None, deadline=None, max_examples=200)
settings.load_profile("aioioth")


@pytest.fixture
async def _loop_is_content() -> AsyncIterator[None]:
    """Fail if anything is raised into the event loop."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    loop.set_exception_handler(None)
    assert complaints == []


@pytest.fixture
def watched() -> Watched:
    """Say what the event loops watch: descriptors, and EPOLL* for each.

    uvloop's `remove_reader` does not tell, but the kernel does (proc(5), epoll(7)).
    """

    def look() -> dict[int, int]:
        found: dict[int, int] = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                kind = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue  # the directory's own
            if kind == "anon_inode:[eventpoll]":
                information = Path(f"/proc/self/fdinfo/{name}").read_text()
                for match in _WATCHED.finditer(information):
                    found[int(match[1])] = int(match[2], 16)
        return found

    return look


@pytest.fixture
def make_pair() -> Iterator[Callable[..., Pair]]:
    """Make connected, non-blocking UNIX sockets that keep the borders of frames."""
    with ExitStack() as undo:

        def make(kind: int = socket.SOCK_SEQPACKET) -> Pair:
            pair = socket.socketpair(socket.AF_UNIX, kind)
            for sock in pair:
                undo.enter_context(sock)
                sock.setblocking(False)
            return pair

        yield make


@pytest.fixture
def make_ends() -> Iterator[Callable[..., Ends]]:
    with ExitStack() as undo:
        yield lambda *kind: Ends(undo, *kind)


@pytest.fixture
def receiving(make_ends: Callable[[], Ends]) -> Compiled:
    return Compiled(make_ends(), make_ends())


@pytest.fixture
def sending(make_ends: Callable[[], Ends]) -> CompiledCutter:
    return CompiledCutter(make_ends(), make_ends())
