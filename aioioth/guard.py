"""A guard against sockets outside of a stack.

A library that opens a socket behind a program's back uses the host's network, and
nobody notices. Under a guard it fails, and the error says where:

    with aioioth.guard(stack):
        await test_the_client(stack)

What is watched: internet sockets being opened, bound, connected or given an address to
send to by Python's socket module; the calls of asyncio's and uvloop's loops that open
sockets or are given some; and questions to the host's resolver. C libraries with
sockets of their own (libpq, gRPC) are out of its sight: run the program in an empty
network namespace to be sure of them, as in ``unshare -Urn``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from aioioth import _loophooks, _sockethooks, _watch
from aioioth._linux.sockets import identity
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioioth.stack import Stack

__all__ = ["guard"]


@contextmanager
def guard(*stacks: Stack, everywhere: bool = False) -> Generator[None]:
    """Raise where anything opens or uses an internet socket outside of ``stacks``.

    Of nested guards the innermost decides; one for the context comes before one that is
    everywhere.

    Args:
        stacks: Those that may be used; none at all forbids every internet socket.
        everywhere: In the whole process, all tasks and threads. Otherwise in the
            current context: this task, tasks started in the block, and threads that
            these start with `asyncio.to_thread`. Other threads (an executor's, a
            library's own) have contexts of their own.

    Raises:
        ConfigurationError: A stack of kind ``kernel`` cannot be told from the outside.
        ClosedError: A stack is not open.
    """
    allowed = {}
    for stack in stacks:
        namespace = stack.namespace
        if namespace is None:
            msg = f"{stack} is the host's own: a guard has nothing to tell it by"
            raise ConfigurationError(msg)
        allowed[identity(namespace)] = stack.name
    with (
        _sockethooks.installed(),
        _loophooks.installed(),
        _watch.watching(allowed, everywhere=everywhere),
    ):
        yield
