"""Every error that aioioth raises itself.

What sockets raise inside streams is never wrapped: a refused connection is
``ConnectionRefusedError`` here as in asyncio. The tree::

    AioiothError
    ├── ClosedError (RuntimeError)            you: the stack is closed or not open yet
    ├── WrongLoopError (RuntimeError)         you: the stack belongs to another loop
    ├── LeakError (RuntimeError)              you: a guard saw a socket outside
    ├── BusyError (OSError, EBUSY)            you: something is still in use
    ├── BrokenTransportError (OSError)        outside: the virtual network is gone
    │   └── HandshakeTimeoutError (TimeoutError)
    ├── KeeperError (OSError)                 outside: the helper process failed
    ├── ConfigurationError (ValueError)       you: an argument cannot be right
    │   ├── VnlError                          ... and the place in the VNL
    │   ├── ConfigStringError                 ... and the place in the string
    │   └── UnknownPluginError
    │       └── UnknownSchemeError
    ├── NotConfiguredError (TimeoutError)     outside: no server told us our addresses
    ├── MissingPrivilegeError (PermissionError)   the kernel refused; says what to do
    └── NetlinkError (OSError)                the kernel refused a configuration request

    UnclosedCableWarning (RuntimeWarning)     a cable was left open when its loop ended
    UnclosedStackWarning (RuntimeWarning)     a stack was left open when its loop ended
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AioiothError",
    "BrokenTransportError",
    "BusyError",
    "ClosedError",
    "ConfigStringError",
    "ConfigurationError",
    "HandshakeTimeoutError",
    "KeeperError",
    "LeakError",
    "MissingPrivilegeError",
    "NetlinkError",
    "NotConfiguredError",
    "UnclosedCableWarning",
    "UnclosedStackWarning",
    "UnknownPluginError",
    "UnknownSchemeError",
    "VnlError",
    "WrongLoopError",
]

# Characters of a VNL to each side of what is wrong with it.
_SHOWN = 60


class AioiothError(Exception):
    """Base of all errors that are aioioth's own."""


class ClosedError(AioiothError, RuntimeError):
    """The object was closed before, or was never opened.

    Attributes:
        what: The object in words, for example ``stack 'web'``.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        self.what = what
        super().__init__(f"{what} is {hint or 'closed: make a new one'}")


class WrongLoopError(AioiothError, RuntimeError):
    """A stack or cable was used from an event loop that it does not belong to.

    What opens a stack's sockets works on any loop.
    """

    def __init__(
        self, what: str, *, forked: bool = False, sockets: bool = True
    ) -> None:
        where = "in the parent process" if forked else "on another event loop"
        if not sockets:
            super().__init__(f"{what} was opened {where}: use it there")
            return
        here = "connected from and served on"
        if forked:
            here = "connected from, served on and closed"
        super().__init__(
            f"{what} was opened {where}: it is configured there, and here it can only "
            f"be {here}"
        )


class LeakError(AioiothError, RuntimeError):
    """A guard saw something use the network outside of its stacks.

    Not an `OSError`, which libraries take for bad luck and try again.

    Attributes:
        place: The line of the program or library, ``FILE:LINE``.
        what: What it did.
        stacks: Names of the stacks that may be used.
    """

    def __init__(self, place: str, what: str, stacks: Sequence[str]) -> None:
        self.place = place
        self.what = what
        self.stacks: tuple[str, ...] = tuple(stacks)
        where = ", ".join(repr(name) for name in stacks) or "any stack"
        super().__init__(
            f"{place} {what} outside of {where}. Use the stack's own calls there, or "
            f"run it on a loop of aioioth.run() under stack.activate(patch=True)"
        )


class BusyError(AioiothError, OSError):
    """Something is still in use, so it cannot be taken away or taken twice.

    Attributes:
        errno: Always ``EBUSY``.
        users: What is still in use, one readable line each.
    """

    def __init__(self, message: str, users: Sequence[str] = ()) -> None:
        self.users: tuple[str, ...] = tuple(users)
        listed = "".join(f"\n  {user}" for user in self.users)
        super().__init__(errno.EBUSY, f"{message}{':' if listed else ''}{listed}")


class BrokenTransportError(AioiothError, OSError):
    """The virtual network could not be reached, or went away.

    Attributes:
        errno: The system's reason where there is one, otherwise ``EIO``.
        vnl: The virtual network's locator.
    """

    def __init__(self, vnl: str, reason: str, *, errno: int | None = None) -> None:
        self.vnl = vnl
        super().__init__(5 if errno is None else errno, f"{vnl}: {reason}")


class HandshakeTimeoutError(BrokenTransportError, TimeoutError):
    """The other side of a transport accepted us and then said nothing."""

    def __init__(self, vnl: str, reason: str) -> None:
        super().__init__(vnl, reason, errno=errno.ETIMEDOUT)


class KeeperError(AioiothError, OSError):
    """The helper process that owns the namespaces could not be started or asked."""

    def __init__(self, reason: str, *, errno: int | None = None) -> None:
        super().__init__(5 if errno is None else errno, f"the keeper {reason}")


class ConfigurationError(AioiothError, ValueError):
    """An argument cannot be right; nothing was done."""


class VnlError(ConfigurationError):
    """A VNL makes no sense; the message shows where.

    Attributes:
        vnl: The text, or the part of it that was looked at.
        position: Where in it, from 0.
        reason: What was expected, in words.
    """

    def __init__(self, vnl: str, position: int, reason: str) -> None:
        self.vnl = vnl
        self.position = position
        self.reason = reason
        super().__init__(f"{reason}\n{_pointed_at(vnl, position)}")

    def inside(self, before: str, after: str = "") -> VnlError:
        """Return the same error, told of a longer text that this one is a part of."""
        return VnlError(
            before + self.vnl + after, len(before) + self.position, self.reason
        )


def _pointed_at(text: str, position: int) -> str:
    """Return a text, or what is around the place, with a caret below the place."""
    start = max(0, position - _SHOWN)
    before = ("..." if start else "") + text[start:position]
    after = text[position : position + _SHOWN]
    if position + _SHOWN < len(text):
        after += "..."
    before, after = (
        "".join(char if char.isprintable() else "?" for char in part)
        for part in (before, after)
    )
    # Letters of the Far East are two columns wide.
    columns = sum(1 + (east_asian_width(char) in "WF") for char in before)
    return f"  {before}{after}\n  {' ' * columns}^"


class ConfigStringError(ConfigurationError):
    """A configuration string makes no sense; the message shows where.

    Attributes:
        text: All of it.
        position: Where in it, from 0.
        reason: What was expected, in words.
    """

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.text = text
        self.position = position
        self.reason = reason
        super().__init__(f"{reason}\n{_pointed_at(text, position)}")


class UnknownPluginError(ConfigurationError):
    """No installed distribution registers the wanted name.

    Attributes:
        group: Entry-point group that was searched.
        name: Name that was asked for.
        known: Names that are registered, sorted.
        hint: What else was tried, in words, or "".
    """

    def __init__(
        self, group: str, name: str, known: Sequence[str], *, hint: str = ""
    ) -> None:
        self.group = group
        self.name = name
        self.known: tuple[str, ...] = tuple(known)
        self.hint = hint
        tried = f"; {hint}" if hint else ""
        super().__init__(
            f"{self._sentence()}{tried}. "
            f"Check the spelling, or install the distribution that provides it."
        )

    def _sentence(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"no {self.group!r} plug-in is named {self.name!r}; installed: {known}"


class UnknownSchemeError(UnknownPluginError):
    """A VNL begins with a scheme that no installed transport serves."""

    @override
    def _sentence(self) -> str:
        known = ", ".join(f"{scheme}://" for scheme in self.known) or "none"
        return f"no transport serves {self.name}://; known are {known}"


class MissingPrivilegeError(AioiothError, PermissionError):
    """The kernel refused something that a stack needs.

    Attributes:
        errno: What the kernel answered.
        action: What was tried, as a gerund: "making a user namespace".
        advice: The sysctl, device or profile to change, one sentence.
    """

    def __init__(self, action: str, advice: str, *, errno: int) -> None:
        self.action = action
        self.advice = advice
        super().__init__(errno, f"{action}: {os.strerror(errno)}. {advice}")


class NetlinkError(AioiothError, OSError):
    """The kernel refused a configuration request.

    Attributes:
        errno: What the kernel answered.
        request: The request in iproute2's words.
    """

    def __init__(self, errno: int, request: str, detail: str = "") -> None:
        self.request = request
        reason = os.strerror(errno) + (f" ({detail})" if detail else "")
        super().__init__(errno, f"{request}: {reason}")


class NotConfiguredError(AioiothError, TimeoutError):
    """Nobody on the network told a stack its addresses in time.

    Attributes:
        sources: Who was asked and did not answer, as ``dhcp on vde0``.
    """

    def __init__(self, stack: str, sources: Sequence[str], seconds: float) -> None:
        self.sources: tuple[str, ...] = tuple(sources)
        super().__init__(
            f"{stack}: no answer within {seconds:g} s to {', '.join(sources)}. "
            f"Is there a server on the network? timeout=0 does not wait for it"
        )


class UnclosedCableWarning(RuntimeWarning):
    """A cable was still open when its event loop ended, and was closed then.

    The warning points at the line that made the cable.
    """


class UnclosedStackWarning(RuntimeWarning):
    """A stack was still open when its event loop ended, and was closed then.

    The warning points at the line that made the stack.
    """
