"""What servers on a stack have in common: when they begin, and how they end."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from aioioth._background import Resident, carried, carried_call
from aioioth._opening import Opening
from aioioth._receiver import Receiver
from aioioth.errors import BusyError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from aioioth._receiver import Datagram
    from aioioth.stack import Stack


class Server(Resident, Opening):
    """Something that answers on a stack, from `open` to `aclose`.

    It runs on the stack's event loop (with ``pump_thread`` in that thread), and ends
    with the stack at the latest. It can be opened again.

    Args:
        stack: Where it listens.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._undo: ExitStack | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def stack(self) -> Stack:
        """Where it listens."""
        return self._stack

    @property
    @override
    def _in_thread(self) -> bool:
        return self._stack._in_thread  # noqa: SLF001  (it lives where its stack does)

    @override
    @carried
    async def open(self) -> Self:
        """Start to answer; returns itself.

        Raises:
            BusyError: It is open already.
            ClosedError: The stack is not open.
            ConfigurationError: There is no such interface, or it lacks an address.
            OSError: A port is taken (EADDRINUSE), ...

        Cancellation:
            Nothing is left behind.
        """
        self._stack.check_usable()
        if self._undo is not None:
            msg = f"{self} is open already"
            raise BusyError(msg)
        self._undo = ExitStack()
        try:
            running = self._stack._own_parts()  # noqa: SLF001  (it ends with them)
            running.belongings.append(self)
            self._undo.callback(running.belongings.remove, self)
            await self._start()
        except BaseException:
            self.close()
            raise
        return self

    @override
    @carried
    async def aclose(self) -> None:
        """Stop answering; what is being answered is given up. Idempotent.

        Cancellation:
            It is closed all the same.
        """
        tasks = list(self._tasks)
        self.close()
        if tasks:
            await asyncio.wait(tasks)

    @carried_call
    def close(self) -> None:
        """Stop at once; its tasks end in the loop's next turn. Idempotent."""
        undo, self._undo = self._undo, None
        for task in self._tasks:
            task.cancel()
        if undo is not None:
            undo.close()

    @abstractmethod
    async def _start(self) -> None:
        """Open sockets and start tasks, by way of the methods below."""

    def _listen(
        self, sock: socket.socket, take: Callable[[Datagram], None]
    ) -> Receiver:
        """Have ``take`` called with each datagram until it is closed; owns ``sock``."""
        receiver = Receiver(sock, take)
        self._at_end(receiver.close)
        return receiver

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        """Run a coroutine until it returns, or until it is closed.

        It may be cancelled before it begins, and reach no ``finally`` then: what has to
        be undone in any case belongs to `_at_end`.
        """
        task = asyncio.get_running_loop().create_task(work, name=f"aioioth: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _at_end(self, callback: Callable[[], object]) -> None:
        """Have something called when it is closed; must not raise."""
        assert self._undo is not None, "only while it is open"
        self._undo.callback(callback)
