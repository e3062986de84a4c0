"""Which address a DHCPv4 server has given to whom: the books, without the network."""

from __future__ import annotations

import enum
import heapq
import math
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Moment = tuple[float, IPv4Address]

# A client answers an offer within seconds, or took another server's.
OFFER_SECONDS = 15.0
# Somebody has it without having asked, and may have it for long.
DECLINED_SECONDS = 600.0


@dataclass(frozen=True)
class Pool:
    """Addresses to be given out, from the first to the last one.

    Attributes:
        first: The lowest.
        last: The highest.
        without: Those in between that are somebody's.
    """

    first: IPv4Address
    last: IPv4Address
    without: frozenset[IPv4Address] = frozenset()

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last and address not in self.without

    def __iter__(self) -> Iterator[IPv4Address]:
        for number in range(int(self.first), int(self.last) + 1):
            address = IPv4Address(number)
            if address not in self.without:
                yield address


class Standing(enum.Enum):
    """How it is with an address."""

    OFFERED = enum.auto()
    LEASED = enum.auto()
    DECLINED = enum.auto()  # somebody else has it
    FREE = enum.auto()  # but remembered: its client gets it again


@dataclass
class Entry:
    """One address, and the client that has or had it.

    Attributes:
        address: The address.
        key: What tells the client from others.
        standing: How it is with it.
        until: When that is over; infinity for never. Of a free one: since when it is.
        mac: The client's, 6 bytes.
        client_id: What the client says of itself; None if it does not.
        name: The client's, or None.
    """

    address: IPv4Address
    key: bytes
    standing: Standing
    until: float
    mac: bytes = b""
    client_id: bytes | None = None
    name: str | None = None


class Books:
    """Addresses and their clients. There are never more entries than addresses.

    Every method is given the time, in seconds of any clock.

    Args:
        pool: What may be given to anybody.
        reserved: Addresses that one client alone gets, by its key.
    """

    def __init__(self, pool: Pool, reserved: Mapping[bytes, IPv4Address]) -> None:
        self._pool = pool
        self._reserved = dict(reserved)
        self._kept_back = frozenset(reserved.values())
        self._fresh = iter(pool)
        self._entries: dict[IPv4Address, Entry] = {}
        self._by_key: dict[bytes, Entry] = {}
        # When entries are over, and since when they are free. What is not true any more
        # stays in there until it comes up, or there is more of it than of the rest.
        self._due: list[Moment] = []
        self._idle: list[Moment] = []

    @property
    def leased(self) -> list[Entry]:
        """The entries of clients that have an address; may be asked in any thread."""
        entries = list(self._entries.values())
        return [entry for entry in entries if entry.standing is Standing.LEASED]

    @property
    def size(self) -> int:
        """How many addresses it has something to say of."""
        return len(self._entries)

    @property
    def next_due(self) -> float:
        """When `expire` has something to do; it may turn out to be nothing."""
        return self._due[0][0] if self._due else math.inf

    def expire(self, now: float) -> list[Entry]:
        """Free what is over, and return the leases that were among it."""
        ended = []
        while self._due and self._due[0][0] <= now:
            until, address = heapq.heappop(self._due)
            entry = self._entries.get(address)
            if entry is None or entry.until != until:
                continue
            if entry.standing is Standing.LEASED:
                ended.append(entry)
            if entry.standing is not Standing.FREE:
                self.free(entry, until)
        return ended

    def of(self, key: bytes) -> Entry | None:
        """Return a client's entry; of an address that it has or had."""
        return self._by_key.get(key)

    def at(self, address: IPv4Address) -> Entry | None:
        """Return an address's entry."""
        return self._entries.get(address)

    def may_have(self, key: bytes, address: IPv4Address) -> bool:
        """Whether a client can be given an address, now."""
        wanted = self._reserved.get(key)
        if wanted is not None:
            free = address == wanted
        else:
            free = address in self._pool and address not in self._kept_back
        entry = self._entries.get(address)
        return free and (
            entry is None or entry.key == key or entry.standing is Standing.FREE
        )

    def choose(self, key: bytes, asked: IPv4Address | None) -> IPv4Address | None:
        """Return an address for a client; None if there is none left.

        What it has or had, what it asks for, one that nobody ever had, and the one that
        has been free for the longest time.
        """
        if (reserved := self._reserved.get(key)) is not None:
            return reserved if self.may_have(key, reserved) else None
        known = self._by_key.get(key)
        if known is not None and self.may_have(key, known.address):
            return known.address
        if asked is not None and self.may_have(key, asked):
            return asked
        for address in self._fresh:
            if address not in self._entries and self.may_have(key, address):
                return address
        return self._longest_free()

    def offer(self, key: bytes, address: IPv4Address, now: float) -> Entry:
        """Keep an address for a client that was told of it."""
        entry = self._entry(key, address)
        if entry.standing is not Standing.LEASED:
            entry.standing = Standing.OFFERED
            self._set_until(entry, now + OFFER_SECONDS)
        return entry

    def lease(self, key: bytes, address: IPv4Address, until: float) -> Entry:
        """Give a client an address, or more time."""
        entry = self._entry(key, address)
        entry.standing = Standing.LEASED
        self._set_until(entry, until)
        return entry

    def decline(self, entry: Entry, now: float) -> None:
        """Set an address aside that its client has found to be somebody else's."""
        self._by_key.pop(entry.key, None)
        entry.standing = Standing.DECLINED
        entry.key = b""
        self._set_until(entry, now + DECLINED_SECONDS)

    def free(self, entry: Entry, now: float) -> None:
        """Take an address back; its client is remembered until somebody else asks."""
        entry.standing = Standing.FREE
        entry.until = now
        self._push(self._idle, now, entry.address, self._idle_since)

    def forget(self, entry: Entry) -> None:
        """Take an address back as if its client had never been there."""
        # It may still be in use until then: others come first.
        self.free(entry, entry.until)
        self._by_key.pop(entry.key, None)
        entry.key = b""

    def _entry(self, key: bytes, address: IPv4Address) -> Entry:
        """Return a client's entry for an address, which is the only one it has."""
        before = self._by_key.get(key)
        if before is not None and before.address != address:
            self.forget(before)
        entry = self._entries.get(address)
        if entry is None:
            entry = Entry(address, key, Standing.FREE, 0.0)
            self._entries[address] = entry
        elif entry.key != key:
            self._by_key.pop(entry.key, None)
            entry.key = key
        self._by_key[key] = entry
        return entry

    def _set_until(self, entry: Entry, until: float) -> None:
        entry.until = until
        if until != math.inf:
            self._push(self._due, until, entry.address, self._due_at)

    def _push(
        self,
        heap: list[Moment],
        when: float,
        address: IPv4Address,
        all_true: Callable[[], Iterator[Moment]],
    ) -> None:
        heapq.heappush(heap, (when, address))
        if len(heap) > 2 * len(self._entries) + 64:
            heap[:] = all_true()
            heapq.heapify(heap)

    def _due_at(self) -> Iterator[Moment]:
        for entry in self._entries.values():
            if entry.standing is not Standing.FREE and entry.until != math.inf:
                yield entry.until, entry.address

    def _idle_since(self) -> Iterator[Moment]:
        for entry in self._entries.values():
            if entry.standing is Standing.FREE:
                yield entry.until, entry.address

    def _longest_free(self) -> IPv4Address | None:
        while self._idle:
            since, address = self._idle[0]
            entry = self._entries[address]
            free = entry.standing is Standing.FREE and entry.until == since
            if free and address not in self._kept_back and address in self._pool:
                return address
            heapq.heappop(self._idle)
        return None
