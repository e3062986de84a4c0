"""The hidden namespaces of bridges: who has joined which, and where they are.

A bridge is alone in a network namespace of its own, which lives as long as somebody has
its descriptor. So nothing has to be taken away at any time: the kernel does it when the
last program that has joined leaves, or is killed.

The kernel connects a stack to a bridge only inside one user namespace. Programs that
share a bridge therefore make their stacks in the same one: that of the first of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth import _iproute, _rendezvous
from aioioth._fork import forget_in_children
from aioioth._iproute import Request
from aioioth._keeper import messages
from aioioth._manager import running_manager
from aioioth._namespace import Namespace
from aioioth.wire import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aioioth._manager import Manager
    from aioioth._namespace import Home

_log = logging.getLogger("aioioth")

# Of the bridge in its namespace.
BRIDGE = "bridge"
BRIDGE_INDEX = 1000

# What all programs of the user share that have a bridge: the user namespace. The names
# of bridges end differently.
_TOGETHER = "user-namespace"
_BRIDGE_NAME = "{}.bridge"

# What `_rendezvous.join` introduces in front of what was met for.
_BEFORE = 3

_SYSCTLS = (
    # A bridge of ours is a switch, not a firewall (br_netfilter).
    "?net/bridge/bridge-nf-call-iptables=0",
    "?net/bridge/bridge-nf-call-ip6tables=0",
    "?net/bridge/bridge-nf-call-arptables=0",
    "?net/ipv6/conf/all/disable_ipv6=1",
    "?net/ipv6/conf/default/disable_ipv6=1",
)

# <linux/if_link.h>, Linux 6.1
_IFLA_BR_FORWARD_DELAY = 1
_IFLA_BR_STP_STATE = 5
_IFLA_BR_MCAST_SNOOPING = 23


class Joined:
    """A bridge that one event loop has joined, until its last user leaves.

    Attributes:
        home: The user namespace that it is in.
        namespace: The network namespace that it is in.
        users: How many interfaces and cables there are on it here.
    """

    def __init__(
        self, home: Home, namespace: Namespace, release: Callable[[], None]
    ) -> None:
        self.home = home
        self.namespace = namespace
        self.users = 0
        self._release = release
        self._loop = asyncio.get_running_loop()
        forget_in_children(self)

    def tell(self, request: Request) -> None:
        """Have the kernel do something soon, for which nobody waits.

        One thing at a time: if the kernel refuses, as its interface is gone already,
        that is no reason to leave out another's.
        """
        if not self._loop.is_closed():
            order = request.where, request.what, request.payload
            self.namespace.tell([order])

    def close(self) -> None:
        """Let the bridge go."""
        self.namespace.close()
        self._release()

    def forget_in_child(self) -> None:
        """Let a forked child's copy go: the bridge is there for its parent's stacks."""
        self.namespace.close()
        self._release()


class Seat:
    """Somebody's use of a bridge; a forked child has none."""

    def __init__(self, joined: Joined, leave: Callable[[], None]) -> None:
        self.joined = joined
        self._leave: Callable[[], None] | None = leave
        self._process = os.getpid()

    def tell(self, request: Request) -> None:
        """Have the kernel do something there; never waits, never raises."""
        if self._leave is not None and self._process == os.getpid():
            self.joined.tell(request)

    def leave(self) -> None:
        """Use it no more. Idempotent, never waits, never raises."""
        leave, self._leave = self._leave, None
        if leave is not None and self._process == os.getpid():
            leave()


class Bridges:
    """The bridges that one event loop has joined."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._joined: dict[tuple[str, bool], Joined] = {}
        self._joining = asyncio.Lock()

    async def enter(self, name: str, *, private: bool) -> Seat:
        """Join a bridge, or become one more user of it here.

        Args:
            name: Its name.
            private: Whether it is this process's alone.

        Raises:
            BrokenTransportError: The others cannot be met.
            MissingPrivilegeError: The kernel refuses; the message says what to do.

        Cancellation:
            Nothing is left behind.
        """
        key = name, private
        async with self._joining:
            joined = self._joined.get(key)
            if joined is None:
                join = _join_private if private else _join_shared
                joined = self._joined[key] = await join(self._manager, name)
            joined.users += 1
        return Seat(joined, lambda: self._leave(key))

    def _leave(self, key: tuple[str, bool]) -> None:
        """Have one user less; with the last one here the bridge is let go."""
        joined = self._joined[key]
        joined.users -= 1
        if not joined.users:
            del self._joined[key]
            joined.close()


_bridges: weakref.WeakKeyDictionary[Manager, Bridges] = weakref.WeakKeyDictionary()


async def running_bridges() -> Bridges:
    """Return the bridges of the running event loop."""
    manager = await running_manager()
    return _bridges.setdefault(manager, Bridges(manager))


# Shared between programs


async def _join_shared(manager: Manager, name: str) -> Joined:
    with ExitStack() as undo:
        together = _Membership(_TOGETHER, manager.home)

        async def introduce(descriptors: list[int], body: bytes) -> None:
            user_namespaces = descriptors[_BEFORE:]
            if user_namespaces:
                together.home = manager.enter_home(user_namespaces[0], undo, adopt=True)
            await together.introduce(descriptors, body)

        async def make_together() -> list[int]:
            home = await manager.settle()
            own = home.keeper.user_namespace
            return [] if own is None else [os.dup(own)]

        await together.join(make_together, introduce)
        undo.callback(together.close)
        home = together.home
        here = _Membership(_BRIDGE_NAME.format(name), home)

        async def make_here() -> list[int]:
            namespace = await _make(home, name)
            try:
                return [os.dup(namespace.fileno())]
            finally:
                namespace.close()

        await here.join(make_here, here.introduce)
        undo.callback(here.close)
        [descriptor] = here.descriptors
        namespace = Namespace(os.dup(descriptor), _label(name), home)
        release = undo.pop_all()
    return Joined(home, namespace, release.close)


class _Membership:
    """A rendezvous of this program, kept when the keeper has to be replaced."""

    def __init__(self, name: str, home: Home) -> None:
        self.home = home
        self._name = name
        self._meeting: _rendezvous.Meeting | None = None
        self._joining: asyncio.Task[None] | None = None
        forget_in_children(self)

    @property
    def descriptors(self) -> Sequence[int]:
        assert self._meeting is not None
        return self._meeting.descriptors

    async def introduce(self, descriptors: list[int], body: bytes) -> None:
        """Have our keeper answer for us from now on."""
        await self.home.channel.ask(messages.MEETING, body, descriptors, wanted=0)

    async def join(
        self,
        make: Callable[[], Awaitable[Sequence[int]]],
        introduce: Callable[[list[int], bytes], Awaitable[None]],
    ) -> None:
        """Meet the others; see `aioioth._rendezvous.join`."""
        self._meeting = await _rendezvous.join(self._name, make, introduce)
        self._meeting.on_lost(self._rejoin)

    def close(self) -> None:
        """Leave."""
        if self._joining is not None and not self._joining.get_loop().is_closed():
            self._joining.cancel()
        if self._meeting is not None:
            self._meeting.close()

    def forget_in_child(self) -> None:
        """Forget the parent's task; the meeting itself lets go of all else."""
        self._joining = self._meeting = None

    def _rejoin(self) -> None:
        what = f"aioioth: join {self._name} again"
        self._joining = asyncio.get_running_loop().create_task(self._again(), name=what)

    async def _again(self) -> None:
        lost = self._meeting
        assert lost is not None
        try:
            self._meeting = await _rendezvous.join(
                self._name, _never, self.introduce, have=lost.descriptors
            )
        except OSError as error:
            _log.warning("%s: other programs do not find us: %s", self._name, error)
            return
        self._joining = None
        self._meeting.on_lost(self._rejoin)
        lost.close()


async def _never() -> list[int]:
    msg = "not asked for what there is"
    raise AssertionError(msg)


# This process's alone


@dataclass
class _Private:
    """A bridge of this process, which several of its event loops may join.

    Attributes:
        descriptor: Its network namespace.
        users: How many loops have joined.
    """

    descriptor: int
    users: int = 0


class _Privates:
    """The bridges of this process, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Private] = {}

    def enter(self, name: str, made: int | None = None) -> int | None:
        """Become a user of a bridge.

        Args:
            name: Its name.
            made: A new one's namespace, copied if there is none of that name.

        Returns:
            A descriptor of its namespace, the caller's to close. None: there is none.
        """
        with self._lock:
            private = self._known.get(name)
            if private is None:
                if made is None:
                    return None
                private = self._known[name] = _Private(os.dup(made))
            descriptor = os.dup(private.descriptor)
            private.users += 1
            return descriptor

    def leave(self, name: str) -> None:
        """Have one user less; with the last one the bridge is let go."""
        with self._lock:
            private = self._known.get(name)
            if private is None:
                return  # in a forked child
            private.users -= 1
            if not private.users:
                del self._known[name]
                os.close(private.descriptor)

    def forget_in_child(self) -> None:
        """Close our copies in a forked child."""
        self._lock = threading.Lock()  # its owner may be a thread that is not here
        while self._known:
            os.close(self._known.popitem()[1].descriptor)


_privates = _Privates()
forget_in_children(_privates)


async def _join_private(manager: Manager, name: str) -> Joined:
    home = await manager.settle()
    descriptor = _privates.enter(name)
    if descriptor is None:
        made = await _make(home, name)
        try:
            descriptor = _privates.enter(name, made.fileno())
        finally:
            made.close()
        assert descriptor is not None
    namespace = Namespace(descriptor, _label(name), home)
    return Joined(home, namespace, lambda: _privates.leave(name))


# Both


async def _make(home: Home, name: str) -> Namespace:
    """Make a bridge in a new network namespace."""
    namespace = await home.namespace(_label(name), _SYSCTLS)
    try:
        # No spanning tree and no waiting; no snooping, which without somebody who asks
        # (a querier) would only forget groups.
        info = rtnetlink.link_info(
            "bridge",
            rtnetlink.attribute(_IFLA_BR_FORWARD_DELAY, 0),
            rtnetlink.attribute(_IFLA_BR_STP_STATE, 0),
            rtnetlink.attribute(_IFLA_BR_MCAST_SNOOPING, b"\0"),
        )
        body = rtnetlink.link_body(info, index=BRIDGE_INDEX, up=True, name=BRIDGE)
        request = Request(f"ip link add {BRIDGE} type bridge", rtnetlink.new_link(body))
        await _iproute.carry_out(namespace, [request])
    except BaseException:
        namespace.close()
        raise
    return namespace


def _label(name: str) -> str:
    return f"bridge {name!r}"
