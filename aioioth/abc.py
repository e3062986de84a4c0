"""What plug-ins implement.

A *transport* serves one VNL scheme. It is registered as an entry point in the group
``aioioth.transports``: the scheme is the name, the value a callable that takes the part
of the VNL after ``://`` and returns a `FrameTransport`. It should raise
`aioioth.errors.ConfigurationError` there and then if it cannot make sense of it.

A *kind* of stack is registered in the group ``aioioth.stacks``; its value is a
`StackKind`.

Plug-ins may import this module, `aioioth.errors`, `aioioth.vnl`, `aioioth.networks`,
`aioioth.plugs`, `aioioth.nested`, `aioioth.learning`, `aioioth.switch` and
`aioioth.wire`; the rest of aioioth is none of their business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import socket

    from typing_extensions import Buffer

__all__ = [
    "CarriesOffloads",
    "CountsDrops",
    "FrameSocket",
    "FrameTransport",
    "Junction",
    "KernelTransport",
    "NewInterface",
    "Plug",
    "SignalsRoom",
    "Space",
    "StackKind",
    "TransportFactory",
]


@runtime_checkable
class Plug(Protocol):
    """The open end of a virtual network: whole Ethernet frames in and out.

    A frame is destination, source, EtherType and payload, 14 to ``mtu + 18`` bytes (4
    of them for a VLAN tag); no preamble and no frame check sequence. Frames may be lost
    or reordered, never split or merged. All methods are called on one event loop's
    thread, and none may wait.
    """

    @property
    def mtu(self) -> int:
        """Largest payload in bytes, as in ``ip link``: headers not counted."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that is readable when a frame waits.

        It is also the one that becomes writable again after `send` was refused.
        """
        ...

    def hangup_fileno(self) -> int:
        """Return a descriptor that is readable once the other side is gone.

        -1 if there is none, because `recv_into` and `send` raise then.
        """
        ...

    def recv_into(self, buffer: memoryview, /) -> int | None:
        """Copy the next frame into ``buffer``, which has room for 65554 bytes.

        Returns:
            Length of the frame in bytes. Not 0 at the end of file: raise. None if no
            frame is waiting, as files do it.

        Raises:
            BlockingIOError: No frame is waiting.
            OSError: The other side is gone; the plug will be closed.
        """
        ...

    def send(self, frame: Buffer, /) -> int | None:
        """Send one frame, copying it if it has to wait.

        Returns:
            Length of the frame in bytes. None if the way is full, as files do it.

        Raises:
            BlockingIOError: The way is full; sent again when `fileno` is writable, or
                what `SignalsRoom` names.
            OSError: This frame is dropped and counted: ENOBUFS, ENOMEM, EMSGSIZE,
                ENOMSG (not to be sent), ENETDOWN, ENETUNREACH, EHOSTUNREACH,
                EADDRNOTAVAIL, EPERM. Anything else: the other side is gone; the plug
                will be closed.
        """
        ...

    def close(self) -> None:
        """Release everything at once. Idempotent, never waits, never raises.

        Also called in a forked child, for its copies of the descriptors.
        """
        ...


@runtime_checkable
class CountsDrops(Protocol):
    """What a plug has besides, if it knows what its network lost on the way to us."""

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames lost, by cause, since the plug was opened."""
        ...


@runtime_checkable
class SignalsRoom(Protocol):
    """What a plug has besides, if `Plug.fileno` does not tell that there is room."""

    def room_fileno(self) -> int:
        """Return the descriptor that is writable again after `send` was refused."""
        ...


@runtime_checkable
class CarriesOffloads(Protocol):
    """What a plug has besides, if it can carry what was left to the hardware.

    The kernel hands over segments of up to 64 KiB then, and leaves checksums to be
    computed, as it does with a network card: see `aioioth.wire.offload`. It pays where
    nobody has to cut them before they reach the kernel of another stack.
    """

    def carry_offloads(self, deliver: Callable[[Buffer], bool], /) -> bool:
        """Have a struct virtio_net_hdr in front of each frame from now on, both ways.

        Called once at most, before the first frame, on the plug's event loop. A length
        that `Plug.recv_into` or `Plug.send` returns includes the header.

        Args:
            deliver: May be called with a frame for the stack, on this event loop only,
                instead of waking it up. False if the frame cannot be taken right now:
                it has to wait for `Plug.recv_into`, and all others behind it.

        Returns:
            False if frames stay as they are, since that serves better here.
        """
        ...


@runtime_checkable
class FrameSocket(Protocol):
    """What a plug has besides, if its frames are a socket's messages as they are.

    Its `Plug.recv_into` and `Plug.send` are then this socket's, with nothing that would
    have to be known of a frame. Many can be moved at once, and are if
    ``aioioth-speedups`` is installed.
    """

    def frame_socket(self) -> int:
        """Return the descriptor of a socket, connected, that keeps frames whole.

        It is the one that `Plug.fileno` returns. An empty message is the end if it is a
        SOCK_SEQPACKET socket.
        """
        ...


@runtime_checkable
class FrameTransport(Protocol):
    """A way to one virtual network, opened as often as it is lost."""

    async def open(self, label: str) -> Plug:
        """Plug into the network.

        Args:
            label: Who is plugging in, for the network's own listings.

        Raises:
            BrokenTransportError: The network cannot be reached.

        Cancellation:
            Must leave nothing behind.
        """
        ...


@dataclass(frozen=True, slots=True)
class NewInterface:
    """An interface that a `Junction` shall make in a stack.

    Attributes:
        name: Its name in the stack.
        index: Its number there, as in ``ip link``; free.
        mtu: In bytes, headers not counted.
        mac: As ``02:00:00:00:00:01``; None for one that the kernel makes up.
        namespace: Descriptor of the stack's network namespace. It stays the stack's.
        open_socket: Opens a socket in the stack; see `Space.socket`.
    """

    name: str
    index: int
    mtu: int
    mac: str | None
    namespace: int
    open_socket: Callable[[int, int, int], socket.socket]


class Junction(Protocol):
    """The open end of a network inside the kernel, good for one interface."""

    @property
    def kind(self) -> str:
        """What its interface is for the kernel: ``veth``, ``macvlan``, ..."""
        ...

    @property
    def mtu(self) -> int:
        """Largest payload in bytes, as in ``ip link``: headers not counted."""
        ...

    async def make(self, wanted: NewInterface, /) -> None:
        """Make the interface in the stack, up and on the network. Called once.

        Raises:
            NetlinkError: The kernel refused.

        Cancellation:
            The interface may be there; whoever called takes it away.
        """
        ...

    async def set_carrier(self, *, on: bool) -> None:
        """Pull the cable out of the interface, or plug it in again.

        Raises:
            ConfigurationError: This kind of interface cannot do that.
        """
        ...

    def close(self) -> None:
        """Leave the network at once. Idempotent, never waits, never raises.

        The interface goes with its stack, or is deleted by whoever called.
        """
        ...


@runtime_checkable
class KernelTransport(FrameTransport, Protocol):
    """A way to a network that leads through the kernel: no frame enters the program.

    `open` gives the same network as frames, to cables and whatever else needs them; it
    raises BrokenTransportError if that cannot be had.
    """

    async def join(self, label: str, /) -> Junction:
        """Reach the network, for one interface of a stack.

        Args:
            label: Who is plugging in.

        Raises:
            BrokenTransportError: The network cannot be reached.

        Cancellation:
            Must leave nothing behind.
        """
        ...


class Space(Protocol):
    """Where the sockets of one stack are made."""

    def socket(self, family: int, kind: int, protocol: int, /) -> socket.socket:
        """Open a non-blocking socket, from any thread.

        Raises:
            OSError: What ``socket()`` raises.
            ClosedError: The space was closed before.
        """
        ...

    def sockets(self) -> list[int]:
        """Return the descriptors of this process that are sockets here."""
        ...

    def close(self) -> None:
        """Release everything at once. Idempotent, never waits, never raises."""
        ...


class StackKind(Protocol):
    """Makes the space of a new stack, called as ``await kind(label)``."""

    async def __call__(self, label: str, /) -> Space:
        """Make a space.

        Raises:
            AioiothError: It cannot be made; the message says what to do.
        """
        ...


TransportFactory = Callable[[str], FrameTransport]
"""Makes a transport from the part of a VNL after ``://``."""
