"""A cable: joins any two virtual networks, frame by frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from typing_extensions import override

from aioioth._background import carried
from aioioth._joint import Joint
from aioioth._owned import Owned
from aioioth.errors import ConfigurationError, UnclosedCableWarning, WrongLoopError
from aioioth.networks import find_network

if TYPE_CHECKING:
    import os

    from aioioth._manager import Manager
    from aioioth._pump import Counters
    from aioioth.abc import FrameTransport
    from aioioth.networks import Network

__all__ = ["Cable", "CableStats"]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class CableStats:
    """What went through a cable. Drops of the network that a frame came from count too.

    Attributes:
        a_to_b: From the first network to the second.
        b_to_a: From the second to the first.
    """

    a_to_b: Counters
    b_to_a: Counters


class Cable(Owned[Joint]):
    """Joins two virtual networks, as ``vde_plug VNL VNL`` does.

    Use it as ``async with Cable("memory://lan", "vde:///tmp/sw"):``, or call `open` and
    `aclose`. Every frame of one network goes into the other. A network that goes away
    is tried again until it is back; what is for it meanwhile is dropped and counted as
    ``no carrier``, and so is, as ``too long``, what one network carries and the other
    does not. Two cables between the same two networks are a loop, in which a broadcast
    never ends.

    Args:
        a: The first network: a VNL, a path, a `Switch`, or another transport.
        b: The second one.
        name: Shown in messages and by switches.
        pump_thread: Whether its frames are moved by a thread; see `aioioth.Stack`.

    Raises:
        ConfigurationError: An argument cannot be right, or both are the same network.
        UnknownSchemeError: A VNL's scheme is not known; the message names the known.
    """

    _unclosed: ClassVar[type[Warning]] = UnclosedCableWarning

    def __init__(
        self,
        a: str | os.PathLike[str] | FrameTransport,
        b: str | os.PathLike[str] | FrameTransport,
        *,
        name: str | None = None,
        pump_thread: bool = False,
    ) -> None:
        super().__init__(
            name if name is not None else f"cable{next(_numbers)}",
            pump_thread=pump_thread,
        )
        self._a, self._b = _find(a), _find(b)
        same = a is b or (_is_named(a) and _is_named(b) and self._a.vnl == self._b.vnl)
        if same:
            msg = (
                f"both ends of a cable in {self._a.vnl} make a loop, in which a "
                f"broadcast never ends: name two networks"
            )
            raise ConfigurationError(msg)

    @property
    def attached(self) -> bool:
        """Whether both of its ends are in their networks right now.

        Raises:
            ClosedError: The cable is not open.
        """
        return self._own_parts().attached

    def stats(self) -> CableStats:
        """Return what went through it so far.

        Raises:
            ClosedError: The cable is not open.
        """
        return CableStats(*self._own_parts().stats())

    @override
    async def open(self) -> Self:
        """Plug into both networks.

        Returns:
            The cable itself.

        Raises:
            BrokenTransportError: A network cannot be reached.
            BusyError: The cable is open already.
            ClosedError: The cable was closed; make a new one.

        Cancellation:
            Safe anywhere. Nothing is left behind; `open` may be called again.
        """
        return await self._open()

    @override
    @carried
    async def aclose(self) -> None:
        """Leave the networks. Idempotent.

        What was taken from one network is given to the other first.

        Raises:
            WrongLoopError: The cable belongs to another event loop.

        Cancellation:
            The cable is closed all the same; the last frames may be lost.
        """
        await self._aclose()

    @override
    def __str__(self) -> str:
        return f"cable {self._name!r}"

    @override
    def __repr__(self) -> str:
        between = f"between {self._a.vnl} and {self._b.vnl}"
        return f"<Cable {self._name!r} {between}, {self._state.name.lower()}>"

    @override
    async def _start(self, manager: Manager) -> Joint:
        transports = self._a.transport, self._b.transport
        return await Joint.open(
            f"aioioth {self._name}", transports, manager, self._notify
        )

    @override
    def _wrong_loop(self, *, forked: bool = False) -> WrongLoopError:
        return WrongLoopError(str(self), forked=forked, sockets=False)


def _find(vnl: object) -> Network:
    found = find_network(vnl)
    if found.interface is not None:
        msg = (
            f"{found.interface}:{found.vnl}: a cable has no interface that could be "
            f"named {found.interface!r}; leave the name out"
        )
        raise ConfigurationError(msg)
    return found


def _is_named(vnl: object) -> bool:
    """Whether it was given by name: objects of the same name are not the same."""
    return isinstance(vnl, str) or hasattr(vnl, "__fspath__")
