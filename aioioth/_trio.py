"""aioioth inside trio: waiting for an asyncio loop, and the default stack's hooks.

Only imported where trio is. A run of trio has one socket factory and one resolver, so
they are set by the first activation in the run and taken back by the last.

Source: trio 0.35, ``trio.lowlevel``, ``trio.socket``, ``trio.abc``.
"""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from typing_extensions import override

from aioioth._background import Errand
from aioioth._context import FAMILIES, current_stack

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    from collections.abc import Callable, Coroutine
    from typing import NoReturn

_T = TypeVar("_T")

# Waiting for an asyncio loop


# Ctrl-C may come where trio waits, and not before somebody does.
@trio.lowlevel.enable_ki_protection
async def run_on(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]
) -> _T:
    """Await ``make()`` on an asyncio loop that runs in another thread.

    Cancellation:
        The coroutine is cancelled where it waits, once, and waited for. If it returns
        or raises all the same, so does this.
    """
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    cancelled: list[Callable[[], NoReturn]] = []

    def abort(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        cancelled.append(raise_cancel)
        errand.cancel()
        return trio.lowlevel.Abort.FAILED

    resume = functools.partial(token.run_sync_soon, trio.lowlevel.reschedule, task)
    errand = Errand(loop, make, resume)
    errand.start()
    await trio.lowlevel.wait_task_rescheduled(abort)
    if cancelled and errand.was_cancelled:
        cancelled[0]()
    return errand.result()


async def wait_for(future: concurrent.futures.Future[None]) -> None:
    """Wait until a future is done.

    Cancellation:
        Waits on: it is for what takes milliseconds and must be over.
    """
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    with trio.CancelScope(shield=True):
        await done.wait()


# The hooks


def install() -> Callable[[], None]:
    """Make trio's sockets and name lookups heed the default stack, in this run.

    Returns:
        A function that takes it back, to be called once.
    """
    hook = _hook.get(None)
    if hook is None:
        hook = _Hook()
        hook.install()
    hook.users += 1
    return hook.release


class _Hook(trio.abc.SocketFactory, trio.abc.HostnameResolver):
    """Decides at each call: the default stack's, or what was there before."""

    def __init__(self) -> None:
        self.users = 0
        self._factory: trio.abc.SocketFactory | None = None
        self._resolver: trio.abc.HostnameResolver | None = None

    def install(self) -> None:
        """Take the places of the run's factory and resolver."""
        self._factory = trio.socket.set_custom_socket_factory(self)
        self._resolver = trio.socket.set_custom_hostname_resolver(self)
        _hook.set(self)

    def release(self) -> None:
        """Give the places back if nobody needs it any more."""
        self.users -= 1
        # A block that is left when the run is over has nothing to give back.
        if self.users or not trio.lowlevel.in_trio_run():
            return
        _hook.set(None)
        # Whoever came after us may still call us, which does no harm.
        factory = trio.socket.set_custom_socket_factory(self._factory)
        if factory is not self:
            trio.socket.set_custom_socket_factory(factory)
        resolver = trio.socket.set_custom_hostname_resolver(self._resolver)
        if resolver is not self:
            trio.socket.set_custom_hostname_resolver(resolver)

    @override
    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> trio.socket.SocketType:
        stack = current_stack()
        if stack is not None and family in FAMILIES:
            made = stack.socket(family, type, proto)
        elif self._factory is not None:
            return self._factory.socket(family, type, proto)
        else:
            made = socket.socket(family, type, proto)
        return trio.socket.from_stdlib_socket(made)

    @override
    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        if (stack := current_stack()) is not None:
            service = port.decode() if isinstance(port, bytes) else port
            return await stack.getaddrinfo(
                host, service, family=family, type=type, proto=proto, flags=flags
            )
        if self._resolver is not None:
            return await self._resolver.getaddrinfo(
                host, port, family, type, proto, flags
            )
        return await _in_thread(
            socket.getaddrinfo, host, port, family, type, proto, flags
        )

    @override
    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        if (stack := current_stack()) is not None:
            return await stack.getnameinfo(sockaddr, flags)
        if self._resolver is not None:
            return await self._resolver.getnameinfo(sockaddr, flags)
        return await _in_thread(socket.getnameinfo, sockaddr, flags)


_hook: trio.lowlevel.RunVar[_Hook | None] = trio.lowlevel.RunVar("aioioth_hook")


async def _in_thread(function: Callable[..., _T], *args: Any) -> _T:
    """Do as trio does where it has no resolver."""
    call = functools.partial(function, *args)
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
