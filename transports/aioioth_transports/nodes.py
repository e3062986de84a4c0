"""``switch://[DIRECTORY][[OPTIONS]]``: a VDE node in this program.

``hub://``, ``multi://`` and ``bonding://`` are others. VDE programs join it in its
directory as if it were a switch's; without one that is ``/tmp/vdenode_USER``.
``switch`` learns who is where; ``hub`` repeats each frame to everybody; ``multi`` takes
our frames to all VDE programs and theirs to us only; ``bonding`` does so too, but takes
each frame of ours to one of them, by turns.

Options, separated by ``/``: ``mode=OCTAL`` (of the sockets, 0600), ``dirmode=OCTAL``
(of the directory; what goes with ``mode``) and ``grp=NAME``. ``switch`` has also
``hashsize=N`` (the most addresses, 8192), ``hashseed=N`` (without effect) and
``expiretime=SECONDS`` (120).

All who open the same directory on one event loop share the node, and it ends with the
last of them.

Source: the nodes of vde_plug 4.0.1; `aioioth.switch`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from aioioth.errors import BrokenTransportError, ConfigurationError
from aioioth.switch import Switch
from aioioth.vnl import parse_bracket
from aioioth_transports._groups import find_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth.switch import Forwarding, SwitchPort
    from aioioth.vnl import Address

_OPTIONS = ("mode", "dirmode", "grp")
_AGEING_SECONDS = 120
_TABLE_ENTRIES = 8192
_LARGEST = 1 << 24


@dataclass(frozen=True)
class _Settings:
    """What a node is like; who shares it must want the same."""

    forwarding: Forwarding
    mode: int
    dirmode: int | None
    group: int | None
    ageing: int
    capacity: int

    @classmethod
    def read(cls, forwarding: Forwarding, address: Address) -> _Settings:
        dirmode = address.octal("dirmode", 0)
        ageing = address.integer("expiretime", _AGEING_SECONDS, low=1, high=_LARGEST)
        capacity = address.integer("hashsize", _TABLE_ENTRIES, low=1, high=_LARGEST)
        address.integer("hashseed", 0, low=0, high=_LARGEST)
        return cls(
            forwarding,
            address.octal("mode", 0o600),
            dirmode if "dirmode" in address.options else None,
            find_group(address, "grp"),
            ageing,
            capacity,
        )

    def make(self, directory: str) -> Switch:
        return Switch(
            directory,
            forwarding=self.forwarding,
            mode=self.mode,
            dirmode=self.dirmode,
            group=self.group,
            ageing=self.ageing,
            capacity=self.capacity,
        )


class NodeTransport:
    """See `aioioth.abc.FrameTransport`; what all nodes have in common.

    Args:
        address: ``[DIRECTORY][[OPTIONS]]``.

    Raises:
        ConfigurationError: An option is unknown or has a bad value, or the path is too
            long.
    """

    _forwarding: ClassVar[Forwarding]
    _options: ClassVar[tuple[str, ...]] = _OPTIONS

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, options=self._options)
        self._directory = parsed.base or _default_directory()
        self._may_be_anybodys = bool(parsed.base)
        self._settings = _Settings.read(self._forwarding, parsed)
        try:
            self._switch = self._settings.make(self._directory)
        except ConfigurationError as error:
            parsed.refuse("", str(error))

    async def open(self, label: str) -> NodePlug:
        """Plug into the node, and start it if it is not there.

        Raises:
            BrokenTransportError: The directory cannot be made or used, or another
                process or event loop has a switch there.
        """
        key = _real_path(self._directory)
        node = _nodes.get(key)
        if node is None or not node.switch.is_running:
            await self._switch.start()
            if not self._may_be_anybodys and not _is_ours(self._directory):
                # In /tmp, anybody could have made it first.
                self._switch.close()
                reason = f"{self._directory} belongs to somebody else: name another"
                raise self._broken(errno.EPERM, reason)
            node = _nodes[key] = _Node(key, self._switch, self._settings)
        elif node.loop is not asyncio.get_running_loop():
            reason = (
                f"it runs on another event loop of this program. Join it with "
                f"vde://{self._directory}"
            )
            raise self._broken(errno.EBUSY, reason)
        elif node.settings != self._settings:
            reason = f"{node.switch} is running there, with other options"
            raise self._broken(errno.EBUSY, reason)
        port = await node.switch.open(label)
        node.users += 1
        return NodePlug(port, node.leave)

    def _broken(self, code: int, reason: str) -> BrokenTransportError:
        return BrokenTransportError(str(self._switch), reason, errno=code)


class SwitchTransport(NodeTransport):
    """``switch://``: a node that learns; see `NodeTransport`."""

    _forwarding: ClassVar[Forwarding] = "switch"
    _options: ClassVar[tuple[str, ...]] = (
        *_OPTIONS,
        "hashsize",
        "hashseed",
        "expiretime",
    )


class HubTransport(NodeTransport):
    """``hub://``: a node that repeats to all but the sender; see `NodeTransport`."""

    _forwarding: ClassVar[Forwarding] = "hub"


class MultiTransport(NodeTransport):
    """``multi://``: from us to all, and from all to us; see `NodeTransport`."""

    _forwarding: ClassVar[Forwarding] = "multi"


class BondingTransport(NodeTransport):
    """``bonding://``: from us to one at a time, from all to us; see `NodeTransport`."""

    _forwarding: ClassVar[Forwarding] = "bonding"


class _Node:
    """A node that somebody in this program uses, on the event loop that is running."""

    def __init__(self, key: str, switch: Switch, settings: _Settings) -> None:
        self.switch = switch
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.users = 0
        self._key = key

    def leave(self) -> None:
        """Have one user less; the last one ends it."""
        self.users -= 1
        if not self.users:
            if _nodes.get(self._key) is self:
                del _nodes[self._key]
            self.switch.close()


# By the real path of the directory. One whose event loop has ended is not running.
_nodes: dict[str, _Node] = {}


class NodePlug:
    """See `aioioth.abc.Plug`: our own port of a node.

    Args:
        port: The port. Taken over.
        leave: Called once when it is closed.

    Attributes:
        mtu: See `aioioth.abc.Plug.mtu`.
        drops: See `aioioth.abc.CountsDrops.drops`.
    """

    def __init__(self, port: SwitchPort, leave: Callable[[], None]) -> None:
        self.mtu: int = port.mtu
        self.drops: Mapping[str, int] = port.drops
        # Straight to the port; there is nothing to add for a frame.
        self.fileno: Callable[[], int] = port.fileno
        self.recv_into: Callable[[memoryview], int] = port.recv_into
        self.send: Callable[[Buffer], int] = port.send
        self._port = port
        self._leave: Callable[[], None] | None = leave

    def carry_offloads(self, deliver: Callable[[Buffer], bool], /) -> bool:
        """See `aioioth.abc.CarriesOffloads.carry_offloads`."""
        carries = self._port.carry_offloads(deliver)
        self.send = self._port.send
        return carries

    def hangup_fileno(self) -> int:
        """Return -1: the node is ours."""
        return -1

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`; the last one ends the node."""
        self._port.close()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


def _real_path(directory: str) -> str:
    return os.path.realpath(directory)


def _default_directory() -> str:
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"u{user}"
    return f"/tmp/vdenode_{name}"  # noqa: S108  (VDE's own default)


def _is_ours(directory: str) -> bool:
    return Path(directory).lstat().st_uid == os.geteuid()
