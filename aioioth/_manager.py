"""One manager for each event loop: what the loop owns, and its orderly end."""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._fork import forget_in_children
from aioioth._keeper import messages
from aioioth._keeper.client import Channel, Keeper
from aioioth._namespace import Namespace
from aioioth._pump import BUFFER_SIZE
from aioioth.errors import UnclosedStackWarning

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aioioth.stack import Stack

_PACKAGE = str(Path(__file__).parent)

# The program's one keeper. It runs while any loop has a manager.
_keeper = Keeper()
forget_in_children(_keeper)

_managers: dict[asyncio.AbstractEventLoop, Manager] = {}
_managers_lock = threading.Lock()


@dataclass(frozen=True)
class Place:
    """A line of the user's program."""

    file: str
    line: int

    @override
    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def calling_place() -> Place:
    """Return the innermost line on the call stack that is not ours."""
    frame = sys._getframe(1)  # noqa: SLF001  (the only way that does not cost a traceback)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


class Manager:
    """Owns the stacks of one event loop and holds the keeper for them.

    Get it with `running_manager`. It ends with its loop: `asyncio.run` and
    `asyncio.Runner` close asynchronous generators when everything else is over, after
    Ctrl-C too, and one of those is ours.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        self._stacks: dict[Stack, None] = {}  # in the order of opening
        _keeper.hold()
        self._channel = Channel(_keeper)
        forget_in_children(self._channel)
        self._lifetime = self._until_loop_ends()

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The open stacks, oldest first."""
        return tuple(self._stacks)

    async def watch_loop(self) -> None:
        """Arrange to be closed when the loop ends."""
        await anext(self._lifetime)

    async def namespace(self, label: str, sysctls: Sequence[str]) -> Namespace:
        """Make a network namespace; see `Namespace.make`."""
        if not _keeper.remembers:
            # Without it, a keeper that has to be replaced could not go on with our
            # namespaces. There is none where privileges make it unnecessary.
            found = await self._channel.ask(messages.USER_NAMESPACE, b"", (), wanted=0)
            for user_namespace in found:
                _keeper.remember(user_namespace)
        return await Namespace.make(label, sysctls, _keeper, self._channel)

    def add(self, stack: Stack) -> None:
        """Own an open stack until `discard`."""
        self._stacks[stack] = None

    def discard(self, stack: Stack) -> None:
        """Forget a stack that was closed."""
        self._stacks.pop(stack, None)

    def close(self) -> None:
        """Close all that is left, newest first, and warn about it."""
        forgotten = self.stacks
        for stack in reversed(forgotten):
            stack.close()
        self._channel.close()
        _keeper.release()
        for stack in forgotten:
            warnings.warn_explicit(
                f"{stack} was never closed: use 'async with', or aclose() it",
                UnclosedStackWarning,
                stack.place.file,
                stack.place.line,
            )

    async def _until_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with _managers_lock:
                mine = _managers.pop(self.loop, None)
            if mine is not None:
                self.close()


async def running_manager() -> Manager:
    """Return the running loop's manager, made on first use."""
    loop = asyncio.get_running_loop()
    manager = _managers.get(loop)
    if manager is not None:
        return manager
    _close_orphans()
    manager = Manager()
    with _managers_lock:
        _managers[loop] = manager
    await manager.watch_loop()
    return manager


def stacks() -> tuple[Stack, ...]:
    """Return the open stacks of the running event loop, oldest first.

    Raises:
        RuntimeError: No event loop is running.
    """
    manager = _managers.get(asyncio.get_running_loop())
    return () if manager is None else manager.stacks


@atexit.register
def _close_orphans() -> None:
    """Close what loops have left that were closed without `shutdown_asyncgens`."""
    with _managers_lock:
        closed = [loop for loop in _managers if loop.is_closed()]
        orphans = [_managers.pop(loop) for loop in closed]
    for manager in orphans:
        manager.close()
