"""The sources of a stack's configuration: started, asked again, and undone."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from aioioth._autoconf import byhand, ether
from aioioth._autoconf.findings import NOTHING, Findings
from aioioth._autoconf.ground import Ground
from aioioth._autoconf.holdings import Holdings
from aioioth._autoconf.jobs import Job, make_source
from aioioth._autoconf.link_local import ensure_link_local
from aioioth._autoconf.wanted import (
    DHCP,
    DHCP6,
    ETH,
    RA,
    SOURCES,
    STATIC,
    Items,
    Wanted,
)
from aioioth._autoconf.watching import Watcher
from aioioth._iproute import control_socket
from aioioth._linux import netdevice
from aioioth._namespace import Namespace
from aioioth.configuration import Achieved
from aioioth.errors import (
    ClosedError,
    ConfigurationError,
    NotConfiguredError,
)
from aioioth.events import (
    Configured,
    Unconfigured,
)
from aioioth.hashes import hash_mac
from aioioth.wire.ethernet import packed_mac

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from ipaddress import IPv6Network

    from aioioth._ip import IPAddress
    from aioioth._netstate import Monitor
    from aioioth.abc import Space
    from aioioth.events import Event
    from aioioth.names import Resolver

_log = logging.getLogger("aioioth")

_BITS = {
    STATIC: Achieved.STATIC,
    ETH: Achieved.ETH,
    DHCP: Achieved.DHCP,
    DHCP6: Achieved.DHCP6,
    RA: Achieved.RA,
}

# Above the kernel's own for IPv6 (1024): what is given by hand wins. The first
# interface wins over the second; the routers of each are told apart, too.
_METRIC = 2000
# Of several routers each has a metric of its own.
_METRICS = 64


class Sources:
    """The configuration of one stack.

    Args:
        label: Whose, for messages.
        space: The stack's.
        own: Its interfaces that aioioth made.
        monitor: Follows what the kernel has in it.
        resolver: Learns of DNS servers.
        notify: Called with each event.
    """

    def __init__(
        self,
        label: str,
        *,
        space: Space,
        own: Mapping[str, object],
        monitor: Monitor,
        resolver: Resolver,
        notify: Callable[[Event], None],
    ) -> None:
        self._label = label
        self._space = space
        self._own = own
        self._monitor = monitor
        self._resolver = resolver
        self._notify = notify
        self._holdings = Holdings(space, own, monitor, self._learn)
        self._jobs: dict[tuple[str, str], Job] = {}
        self._set_up_ones: set[str] = set()  # interfaces, by `eth`
        self._fqdn: dict[str, str] = {}
        self._hostname: dict[str, str] = {}
        self._lock = asyncio.Lock()  # one change after the other
        self._news = asyncio.Event()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._watcher = Watcher(label, space, self._holdings, self.refresh)
        self._closed = False

    @property
    def filenos(self) -> tuple[int, ...]:
        """Descriptors of the sockets that we have in the stack."""
        return tuple(sock.fileno() for sock in self._sockets)

    @property
    def achieved(self) -> Mapping[str, Achieved]:
        """What holds now, by interface."""
        done = [key for key, job in self._jobs.items() if job.is_true]
        done += [(dev, ETH) for dev in self._set_up_ones]
        done += [(dev, STATIC) for dev in self._holdings.given_by_hand()]
        found = dict.fromkeys(self._own, Achieved.NOTHING)
        for dev, source in done:
            found[dev] = found.get(dev, Achieved.NOTHING) | _BITS[source]
        return found

    def take_over(self, dev: str, items: Items) -> None:
        """Hold what the stack was given by hand, and has already."""
        self._holdings.take_over(dev, byhand.findings_of(dev, items))

    def prefixes(self, dev: str | None) -> tuple[IPv6Network, ...]:
        """Return the networks that were delegated to us by way of an interface."""
        dev = dev or next(iter(self._own), "")
        return self._holdings.of(dev, DHCP6).prefixes

    @property
    def unanswered(self) -> list[tuple[str, str]]:
        """Interface and source of all that is not known, or not known any more."""
        return [key for key, job in self._jobs.items() if not job.has_answered]

    async def until_answered(self) -> None:
        """Wait until everybody who is asked has answered.

        Raises:
            ClosedError: The stack was closed.
        """
        while self.unanswered and not self._closed:
            self._news.clear()
            await self._news.wait()
        if self._closed:
            raise ClosedError(self._label)

    # Changing it

    def introduce(self, fqdn: str | None, hostname: str | None) -> None:
        """Have the stack's first interface known by the stack's names."""
        dev = next(iter(self._own), None)
        if dev is not None and fqdn is not None:
            self._fqdn[dev] = fqdn
        if dev is not None and hostname is not None:
            self._hostname[dev] = hostname

    def refresh(self, dev: str) -> None:
        """Have all that is known of an interface's network asked again.

        Its cable was out: who is there now may be somebody else.
        """
        for (name, _), job in self._jobs.items():
            if name == dev and job.is_running:
                job.source.refresh()

    async def configure(self, wanted: Wanted, timeout: float) -> Achieved:
        """Do what is wanted of one interface: undo, then start, then wait.

        Args:
            wanted: What.
            timeout: Seconds to wait for answers from the network; 0: none.

        Returns:
            What of it was achieved.

        Raises:
            ConfigurationError: There is no such interface.
            NetlinkError: The kernel refused something.
            OSError: A source could not start.
        """
        done, jobs = await self._begin(wanted)
        await self._until_answered(jobs.values(), timeout)
        for (_, source), job in jobs.items():
            job.raise_failure()
            if job.has_answered:
                done |= _BITS[source]
        self._log_if_wanted([wanted])
        return done

    async def configure_all(self, wanted: Sequence[Wanted], timeout: float) -> None:
        """Do all that is wanted of a new stack.

        Args:
            wanted: For one interface each.
            timeout: As in `configure`.

        Raises:
            NotConfiguredError: Somebody did not answer in time.
            NetlinkError: The kernel refused something.
            OSError: A source could not start.
        """
        jobs: dict[tuple[str, str], Job] = {}
        for each in wanted:
            jobs.update((await self._begin(each))[1])
        await self._until_answered(jobs.values(), timeout)
        for job in jobs.values():
            job.raise_failure()
        self._log_if_wanted(wanted)
        silent = [
            f"{source} on {dev}"
            for (dev, source), job in jobs.items()
            if not job.has_answered
        ]
        if silent and timeout:
            raise NotConfiguredError(self._label, silent, timeout)

    async def _begin(
        self, wanted: Wanted
    ) -> tuple[Achieved, dict[tuple[str, str], Job]]:
        """Do what is wanted, and return what it is, and who was asked for more."""
        async with self._lock:
            return await self._begin_now(wanted)

    async def _begin_now(
        self, wanted: Wanted
    ) -> tuple[Achieved, dict[tuple[str, str], Job]]:
        dev = self._interface(wanted)
        if wanted.fqdn is not None:
            self._fqdn[dev] = wanted.fqdn
        for source in reversed(SOURCES):
            if source in wanted.clear:
                await self._clear(dev, source)
        done = Achieved.NOTHING
        if ETH in wanted.start:
            await self._set_up(dev, wanted.mac)
            done |= Achieved.ETH
        jobs = {
            (dev, source): await self._ask(dev, source, wanted)
            for source in (RA, DHCP6, DHCP)
            if source in wanted.start
        }
        if wanted.add or wanted.remove:
            await self._change_static(dev, wanted.add, wanted.remove)
        if wanted.add:
            done |= Achieved.STATIC
        return done, jobs

    def _interface(self, wanted: Wanted) -> str:
        dev = wanted.interface or next(iter(self._own), None)
        try:
            with control_socket(self._space) as control:
                if wanted.index is not None:
                    return netdevice.interface_name(control, wanted.index)
                if dev is not None:
                    netdevice.interface_index(control, dev)
                    return dev
        except OSError:
            what = dev if wanted.index is None else f"number {wanted.index}"
            known = ", ".join(self._own) or "none"
            msg = f"{self._label} has no interface {what}; there are: {known}"
            raise ConfigurationError(msg) from None
        msg = f"{self._label} has no interface to configure: give it a VNL"
        raise ConfigurationError(msg)

    def _log_if_wanted(self, wanted: Sequence[Wanted]) -> None:
        if any(each.debug for each in wanted):
            for line in self._holdings.describe():
                _log.info("%s: %s", self._label, line)

    async def _until_answered(self, jobs: Iterable[Job], timeout: float) -> None:
        if not timeout:
            return
        try:
            async with asyncio.timeout(timeout):
                while not all(job.has_answered or job.task.done() for job in jobs):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass  # what was not achieved is not among what is returned
        if self._closed:
            raise ClosedError(self._label)

    # eth

    async def _set_up(self, dev: str, mac: str | None) -> None:
        if mac is None and dev in self._fqdn:
            mac = hash_mac(self._fqdn[dev])
        # Who made his identity of the old address begins anew.
        restarted: dict[str, Wanted] = {}
        if mac not in {None, ether.mac_of(self._space, dev)}:
            jobs = {
                what: job for (name, what), job in self._jobs.items() if name == dev
            }
            restarted = {source: job.wanted for source, job in jobs.items()}
            for source in restarted:
                await self._clear(dev, source)
        await ether.set_up(self._space, dev, mac)
        by_hand = self._holdings.of(dev, STATIC)
        if by_hand:
            # When it was down, the kernel has taken its routes away.
            await self._holdings.apply(dev, STATIC, by_hand)
        for source, wanted in restarted.items():
            await self._ask(dev, source, wanted)
        self._set_up_ones.add(dev)
        self._notify(Configured(dev, ETH))

    async def _set_down(self, dev: str) -> None:
        await ether.set_down(self._space, dev)
        if dev in self._set_up_ones:
            self._set_up_ones.discard(dev)
            self._notify(Unconfigured(dev, ETH, "undone"))

    # What is given by hand

    async def _change_static(self, dev: str, add: Items, remove: Items) -> None:
        held = self._holdings.of(dev, STATIC)
        kept = byhand.merged(byhand.without(held, remove), byhand.findings_of(dev, add))
        await self._holdings.apply(dev, STATIC, kept)
        if kept:
            self._notify(Configured(dev, STATIC))
        elif held:
            self._notify(Unconfigured(dev, STATIC, "removed"))

    # What is asked for on the network

    async def _ask(self, dev: str, source: str, wanted: Wanted) -> Job:
        if source != DHCP:
            await self._prepare_ipv6(dev)
        job = self._jobs.get((dev, source))
        if job is not None and job.is_running:
            job.was_asked = True
            job.source.refresh()
            return job
        # An address that is another's may be gone before somebody waits to hear of it.
        self._watcher.start(self._monitor)
        job = Job(wanted)
        name = self._fqdn.get(dev)
        if source != RA:  # which would make addresses of it
            name = name or self._hostname.get(dev)
        with control_socket(self._space) as control:
            ground = Ground(
                space=self._space,
                dev=dev,
                index=netdevice.interface_index(control, dev),
                mac=packed_mac(netdevice.interface_mac(control, dev)),
                label=self._label,
                fqdn=name,
                apply=partial(self._apply, dev, source, job),
                sockets=self._sockets,
            )
        found = await make_source(source, ground, wanted, self._metric(dev))
        if self._closed:  # meanwhile
            raise ClosedError(self._label)
        job.begin(found, f"{source} on {dev} of {self._label}")
        job.task.add_done_callback(partial(self._ended, dev, source, job))
        self._jobs[dev, source] = job
        return job

    def _metric(self, dev: str) -> int:
        known = list(self._own)
        return _METRIC + _METRICS * (known.index(dev) if dev in known else len(known))

    async def _prepare_ipv6(self, dev: str) -> None:
        """Give an interface what these protocols need, and look for duplicates."""
        if isinstance(self._space, Namespace):
            settings = {"accept_dad": 1, "router_solicitation_delay": 0}
            for name, value in settings.items():
                await self._space.sysctl(f"net/ipv6/conf/{dev}/{name}", value)
        await ensure_link_local(self._space, dev)

    async def _apply(
        self,
        dev: str,
        source: str,
        job: Job,
        findings: Findings | None,
        cause: str = "",
    ) -> Collection[IPAddress]:
        before = self._holdings.of(dev, source), job.is_true
        taken = await self._holdings.apply(dev, source, findings or NOTHING)
        held = self._holdings.of(dev, source)
        # A router is one also without an address for us.
        has_lost_all = bool(taken) and not held.addresses and source != RA
        job.is_true = findings is not None and not has_lost_all
        if job.is_true:
            job.was_asked = False
            if before != (held, True):
                self._notify(Configured(dev, source))
        elif before[1]:
            self._notify(Unconfigured(dev, source, cause or "address in use"))
        self._news.set()
        return taken

    def _ended(self, dev: str, source: str, job: Job, task: asyncio.Task[None]) -> None:
        self._news.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.warning("%s: %s", task.get_name(), error)
        if job.is_true:  # until its time is over, but nobody renews it
            job.is_true = False
            self._notify(Unconfigured(dev, source, str(error)))

    async def _clear(self, dev: str, source: str) -> None:
        """Undo what came from a source, and do not ask it any more."""
        if source == ETH:
            await self._set_down(dev)
            return
        job = self._jobs.pop((dev, source), None)
        if job is not None:
            await job.stop()
        was_there = bool(self._holdings.of(dev, source)) if job is None else job.is_true
        await self._holdings.apply(dev, source, NOTHING)
        if was_there:
            self._notify(Unconfigured(dev, source, "undone"))

    def _learn(self) -> None:
        self._resolver.learn(self._holdings.servers(), self._holdings.domains())

    # Another name for an interface

    def check_renaming(self, dev: str) -> None:
        """Refuse it while the network is being asked about the interface.

        Raises:
            ConfigurationError: It is.
        """
        active = [source for name, source in self._jobs if name == dev]
        if active:
            undo = ",".join(f"-{'rd' if each == RA else each}" for each in active)
            msg = (
                f"{dev} of {self._label} configures itself by {' and '.join(active)}: "
                f"configure('{undo}') first, and ask again under its new name"
            )
            raise ConfigurationError(msg)

    def rename(self, old: str, new: str) -> None:
        """Know an interface by its new name."""
        self._holdings.rename(old, new)
        self._set_up_ones = {new if d == old else d for d in self._set_up_ones}
        for names in (self._fqdn, self._hostname):
            if old in names:
                names[new] = names.pop(old)

    # Ending it

    async def forget(self, dev: str) -> None:
        """Stop all that goes on on an interface that is about to be taken away."""
        for name, source in list(self._jobs):
            if name == dev:
                await self._jobs.pop((name, source)).stop()
        self._set_up_ones.discard(dev)
        for names in (self._fqdn, self._hostname):
            names.pop(dev, None)
        self._holdings.forget(dev)

    async def drain(self) -> None:
        """Give leases back, and end."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.release()
        self.close()
        if tasks := [*(job.task for job in jobs), *self._watcher.tasks]:
            await asyncio.wait(tasks)

    def close(self) -> None:
        """End at once. Idempotent, never waits; tasks end in the loop's next turn."""
        self._closed = True
        self._news.set()
        self._watcher.close()
        for job in self._jobs.values():
            job.task.cancel()
