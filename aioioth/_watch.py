"""What the guards of the program allow; `aioioth.guard` is the public face."""

from __future__ import annotations

import asyncio
import socket
import sys
import sysconfig
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohappyeyeballs

from aioioth._linux.sockets import namespace_of
from aioioth._literals import is_name
from aioioth._manager import Place
from aioioth.errors import LeakError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from types import FrameType

    from aioioth._linux.sockets import Identity

    # Network namespaces that may be used, and the names of their stacks.
    Allowed = Mapping[Identity, str]

_INTERNET = {socket.AF_INET, socket.AF_INET6}
_ADDRESSED = {"socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"}

# Where the culprit is not: what carries out calls for others.
_OURS = f"{Path(__file__).parent}/"
_STDLIB = (sysconfig.get_path("stdlib") + "/", "<frozen")
# Often a directory inside of the standard library's.
_LIBRARIES = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
# Connects for others, us too. It is named only in tasks of its own, where nobody else
# can be: below them is the event loop.
_HELPERS = f"{Path(aiohappyeyeballs.__file__).parent}/"
_LOOPS = {asyncio.Handle._run.__code__, asyncio.Runner.run.__code__}  # noqa: SLF001

_in_context: ContextVar[Allowed | None] = ContextVar("aioioth_guard", default=None)
_everywhere: list[Allowed] = []
_active = 0
_hooked = False
_lock = threading.Lock()


@contextmanager
def watching(allowed: Allowed, *, everywhere: bool) -> Generator[None]:
    """Allow internet sockets in some namespaces only, here or in the whole process."""
    global _active, _hooked  # there is one hook for each process
    with _lock:
        _active += 1
        if everywhere:
            _everywhere.append(allowed)
        if not _hooked:
            # Hooks stay for the life of the process; without guards it does nothing.
            sys.addaudithook(_audit)
            _hooked = True
    token = None if everywhere else _in_context.set(allowed)
    try:
        yield
    finally:
        if token is not None:
            _in_context.reset(token)
        with _lock:
            _active -= 1
            if everywhere:
                _everywhere.remove(allowed)


def _allowed() -> Allowed | None:
    """Return the stacks that may be used here; None: whatever you like."""
    if not _active:
        return None
    here = _in_context.get()
    if here is None and _everywhere:
        return _everywhere[-1]
    return here


def opened_on_host(what: str) -> None:
    """Raise if a guard forbids ``what``, which is done on the host's stack.

    Raises:
        LeakError: A guard forbids it.
    """
    if (allowed := _allowed()) is not None:
        raise _leak(what, allowed)


def asked_host(name: object) -> None:
    """Raise if a guard forbids to look ``name`` up at the host's resolver.

    Raises:
        LeakError: A guard forbids it.
    """
    opened_on_host(f"asks the host's resolver for {name!r}")


def used(sock: socket.socket, what: str) -> None:
    """Raise if a guard forbids to use ``sock``.

    Raises:
        LeakError: It is an internet socket outside of the stacks that are allowed.
    """
    allowed = _allowed()
    if allowed is None or sock.family not in _INTERNET or sock.fileno() < 0:
        return
    if namespace_of(sock.fileno()) not in allowed:
        raise _leak(what, allowed)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _active or not event.startswith("socket."):
        return
    if event in _ADDRESSED:
        sock, address = args
        used(sock, f"uses a socket to reach or to bind {address!r}")
        if (
            sock.family in _INTERNET
            and isinstance(address, tuple)
            and address
            and is_name(address[0])
        ):
            asked_host(address[0])
    elif event == "socket.gethostbyaddr" or (
        event == "socket.gethostbyname" and is_name(args[0])
    ):
        asked_host(args[0])


def _leak(what: str, allowed: Allowed) -> LeakError:
    place = _culprit(sys._getframe(1))  # noqa: SLF001  (no traceback exists yet)
    return LeakError(str(place), what, list(allowed.values()))


def _culprit(frame: FrameType | None) -> Place:
    """Return the innermost line that is neither ours nor the standard library's."""
    helper = innermost = None
    while frame is not None and not (helper and frame.f_code in _LOOPS):
        place = Place(frame.f_code.co_filename, frame.f_lineno)
        innermost = innermost or place
        if place.file.startswith(_HELPERS):
            helper = helper or place
        elif not _carries(place.file):
            return place
        frame = frame.f_back
    found = helper or innermost
    assert found is not None
    return found


def _carries(file: str) -> bool:
    if file.startswith(_OURS):
        return True
    return file.startswith(_STDLIB) and not file.startswith(_LIBRARIES)
