"""One manager for each event loop: what the loop owns, and its orderly end."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import warnings
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from aioioth._fork import forget_in_children
from aioioth._keeper import messages
from aioioth._keeper.client import Channel, Keeper
from aioioth._linux.sockets import identity
from aioioth._namespace import Home, Namespace
from aioioth._pump import BUFFER_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioioth._linux.sockets import Identity
    from aioioth._owned import Owned

_PACKAGE = str(Path(__file__).parent)

# The program's own keeper. It runs while any loop has a manager, or a stack is open.
_keeper = Keeper()
forget_in_children(_keeper)

# Those in the user namespaces of other programs, while stacks are attached there.
_foreign: weakref.WeakValueDictionary[Identity, Keeper] = weakref.WeakValueDictionary()

_managers: dict[asyncio.AbstractEventLoop, Manager] = {}
_managers_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
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
    """Owns the stacks and cables of one event loop and holds the keeper for them.

    Get it with `running_manager`. It ends with its loop: `asyncio.run` and
    `asyncio.Runner` close asynchronous generators when everything else is over, after
    Ctrl-C too, and one of those is ours.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.buffer: memoryview = memoryview(bytearray(BUFFER_SIZE))
        # In the order of opening, with the warning if it is never closed.
        self._owned: dict[Owned[Any], type[Warning]] = {}
        _keeper.hold()
        self.home: Home = Home(_keeper, Channel(_keeper))
        forget_in_children(self.home.channel)
        # In other programs' user namespaces. Kept: a stack outlives its place on the
        # bridge that it was made there for. A channel alone keeps no keeper alive.
        self._homes: dict[Keeper, Home] = {}
        self._lifetime = self._until_loop_ends()

    @property
    def owned(self) -> tuple[Owned[Any], ...]:
        """The open stacks and cables, oldest first."""
        return tuple(self._owned)

    async def watch_loop(self) -> None:
        """Arrange to be closed when the loop ends."""
        await anext(self._lifetime)

    async def settle(self) -> Home:
        """Return the program's own home, when there is a user namespace.

        Raises:
            MissingPrivilegeError: The kernel refused; the message says what to do.
            KeeperError: The keeper cannot be started.
        """
        if not _keeper.remembers:
            # Without it, a keeper that has to be replaced could not go on with our
            # namespaces. There is none where privileges make it unnecessary.
            ask = self.home.channel.ask
            for user_namespace in await ask(messages.USER_NAMESPACE, b"", (), wanted=0):
                _keeper.remember(user_namespace)
        return self.home

    async def attach(
        self,
        label: str,
        namespace: int,
        user_namespace: int | None,
        undo: ExitStack,
    ) -> Namespace:
        """Return another program's network namespace, with a keeper for it.

        Args:
            label: Whose it is, for messages.
            namespace: Its descriptor; copied.
            user_namespace: Descriptor of the user namespace that owns it; copied. None
                if that is the host's.
            undo: Gets what the namespace needs as long as it is open.

        Raises:
            MissingPrivilegeError: The kernel does not let us into the user namespace.
            KeeperError: The keeper cannot be started.
        """
        with ExitStack() as meanwhile:
            home = self.home
            if user_namespace is not None:
                home = self.enter_home(user_namespace, meanwhile)
            # Starts the keeper without holding up the loop, as a socket would.
            ask = home.channel.ask
            found = await ask(messages.USER_NAMESPACE, b"", (), wanted=0)
            for descriptor in found:
                os.close(descriptor)
            space = Namespace(os.dup(namespace), label, home)
            undo.push(meanwhile.pop_all())
        undo.callback(space.close)
        return space

    def enter_home(
        self, user_namespace: int, undo: ExitStack, *, adopt: bool = False
    ) -> Home:
        """Return the way into a user namespace: the program's own, or another's.

        Args:
            user_namespace: Its descriptor; copied.
            undo: Gets what the home needs as long as it is used.
            adopt: Whether it becomes the program's own, if that has none yet.
        """
        keeper = _hold_keeper(user_namespace, adopt=adopt)
        undo.callback(keeper.release)
        if keeper is self.home.keeper:
            return self.home
        home = self._homes.get(keeper)
        if home is None:
            home = self._homes[keeper] = Home(keeper, Channel(keeper))
            forget_in_children(home.channel)
        return home

    def add(self, owned: Owned[Any], unclosed: type[Warning]) -> None:
        """Own an open stack or cable until `discard`.

        Args:
            owned: What it is.
            unclosed: Warned of if it is still open when the loop ends.
        """
        self._owned[owned] = unclosed

    def discard(self, owned: Owned[Any]) -> None:
        """Forget a stack or cable that was closed."""
        self._owned.pop(owned, None)

    def forget(self) -> None:
        """Own nothing any more, in a forked child: the loop is the parent's."""
        self._owned.clear()
        _keeper.release()

    def close(self) -> None:
        """Close all that is left, newest first, and warn about it."""
        forgotten = dict(self._owned)
        for owned in reversed(forgotten):
            owned.close()
        for home in (self.home, *self._homes.values()):
            home.channel.close()
        self._homes.clear()
        _keeper.release()
        for owned, unclosed in forgotten.items():
            warnings.warn_explicit(
                f"{owned} was never closed: use 'async with', or aclose() it",
                unclosed,
                owned.place.file,
                owned.place.line,
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


def owned() -> tuple[Owned[Any], ...]:
    """Return the open stacks and cables of the running event loop, oldest first.

    Raises:
        RuntimeError: No event loop is running.
    """
    manager = _managers.get(asyncio.get_running_loop())
    return () if manager is None else manager.owned


def _hold_keeper(user_namespace: int, *, adopt: bool) -> Keeper:
    """Return the keeper in a user namespace, held; the descriptor is copied."""
    wanted = identity(user_namespace)
    copy = os.dup(user_namespace)
    with _managers_lock:
        ours = _keeper.user_namespace
        is_free = adopt and ours is None and _keeper.pid is None
        if is_free or (ours is not None and identity(ours) == wanted):
            keeper = _keeper
        else:
            keeper = _foreign.get(wanted) or Keeper()
            _foreign[wanted] = keeper
            forget_in_children(keeper)
        keeper.hold()
        # Before anybody else finds it: without a user namespace it would make one.
        keeper.remember(copy)
    return keeper


# Managers of the parent's loops, in a forked child. Kept, because an asynchronous
# generator that is collected would tell its loop.
_of_parents: list[Manager] = []


def _forget_managers() -> None:
    global _managers_lock
    _managers_lock = threading.Lock()  # its owner may be a thread that is not here
    for manager in _managers.values():
        manager.forget()
        _of_parents.append(manager)
    _managers.clear()


# After what `aioioth._fork` runs: the keeper is no longer the parent's then.
os.register_at_fork(after_in_child=_forget_managers)


@atexit.register
def _close_orphans() -> None:
    """Close what loops have left that were closed without `shutdown_asyncgens`."""
    with _managers_lock:
        closed = [loop for loop in _managers if loop.is_closed()]
        orphans = [_managers.pop(loop) for loop in closed]
    for manager in orphans:
        manager.close()
