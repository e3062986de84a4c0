"""The default stack: what code uses that knows nothing of aioioth.

``with stack.activate():`` makes a stack the default one of the current context: of the
running task, of tasks started in the block, and of threads that these start with
`asyncio.to_thread`. Each task can have its own. In that context the stack is used by

* `aioioth.open_connection`, `aioioth.start_server`
* the event loop's calls: ``create_connection``, ``create_server``,
  ``create_datagram_endpoint``, ``sock_connect``, ``getaddrinfo``, ``getnameinfo``, and
  so by `asyncio.open_connection` and by libraries that build on these. The loop that
  runs where a stack is activated learns it then; others, in threads, have to come from
  `aioioth.run`, `aioioth.Runner` or `aioioth.new_event_loop`
* trio's sockets, inside `trio.run`
* with ``patch=True`` also plain `socket.socket`, `socket.create_connection`,
  `socket.getaddrinfo` and their kin, on any loop and in threads without one

A stack that was closed stays the default: what uses it then fails, and does not fall
back to the host's. `aioioth.Stack` with ``kind="kernel"`` is a way out to the host.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth import _loophooks, _sockethooks
from aioioth._context import current, current_stack, patching
from aioioth._loops import make_running_aware
from aioioth.guard import guard

if TYPE_CHECKING:
    from contextvars import ContextVar
    from types import TracebackType
    from typing import TypeVar

    from aioioth.stack import Stack

    _T = TypeVar("_T")

__all__ = ["Activation", "current_stack"]


class Activation:
    """What `aioioth.Stack.activate` returns, for one ``with`` block at a time.

    Raises:
        RuntimeError: It is in use already.
        ConfigurationError: The event loop that runs here cannot be made to use stacks.
    """

    def __init__(self, stack: Stack, *, patch: bool, guard: bool) -> None:
        self._stack = stack
        self._patch, self._guard = patch, guard
        self._undo: ExitStack | None = None

    def __enter__(self) -> Stack:
        if self._undo is not None:
            msg = f"this activation of {self._stack} is in use: call activate() again"
            raise RuntimeError(msg)
        make_running_aware()
        with ExitStack() as undo:
            _set(undo, current, self._stack)
            _set(undo, patching, self._patch)
            if self._patch:
                undo.enter_context(_sockethooks.installed())
                undo.enter_context(_loophooks.installed())
            if self._guard:
                undo.enter_context(guard(self._stack))
            trio = sys.modules.get("trio")
            if trio is not None and trio.lowlevel.in_trio_run():
                from aioioth import _trio

                undo.callback(_trio.install())
            self._undo = undo.pop_all()
        return self._stack

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()


def _set(undo: ExitStack, variable: ContextVar[_T], value: _T) -> None:
    undo.callback(variable.reset, variable.set(value))
