"""Who has which address or prefix of a DHCPv6 server.

A client gets what a hash of its identity says, or the next that is free: so it gets
the same one again after a long time, and from a server that has forgotten everything.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from aioioth.wire.dhcp6 import mac_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

# Anybody can make up clients; with all of them, a server has some megabytes.
_MOST = 4096
_MOST_DECLINED = 256
_MOST_REVOKED = 256
# Somebody uses it without having asked, and may have gone then.
_DECLINED_SECONDS = 600.0


class Key(NamedTuple):
    """Whose something is.

    Attributes:
        duid: The client.
        iaid: Its number for the interface.
    """

    duid: bytes
    iaid: int


@dataclass(frozen=True)
class Pool:
    """What there is to give: addresses, or prefixes of one length.

    Attributes:
        first: The first address.
        count: How many there are.
        length: Of each; 128 for addresses.
    """

    first: IPv6Address
    count: int
    length: int = 128

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, IPv6Address):
            return False
        number, rest = divmod(int(address) - int(self.first), 1 << 128 - self.length)
        return not rest and 0 <= number < self.count

    def get(self, number: int) -> IPv6Address:
        """Return the address that has a number, from 0."""
        return IPv6Address(int(self.first) + (number << 128 - self.length))

    def after(self, number: int) -> Iterator[int]:
        """Yield all addresses, as integers, once around from a number's."""
        first, step = int(self.first), 1 << 128 - self.length
        start, end = first + number * step, first + self.count * step
        return itertools.chain(range(start, end, step), range(first, start, step))

    def network(self, address: IPv6Address) -> IPv6Network:
        """Return what is meant by an address of it."""
        return IPv6Network((address, self.length))

    @classmethod
    def between(cls, first: IPv6Address, last: IPv6Address) -> Pool:
        """Return all addresses from one to another."""
        return cls(first, int(last) - int(first) + 1)

    @classmethod
    def inside(cls, network: IPv6Network, length: int = 128) -> Pool:
        """Return all prefixes of a network, or all addresses.

        The first address of a network is all of its routers' (RFC 4291 section 2.6.1).
        """
        count = 1 << length - network.prefixlen
        if length == 128 and count > 1:
            return cls(network.network_address + 1, count - 1)
        return cls(network.network_address, count, length)


@dataclass(frozen=True)
class Binding:
    """Something, and whose it is.

    Attributes:
        key: Whose.
        address: Which; of a prefix, the first address.
        until: Until when; `math.inf` for ever.
        name: The client's.
    """

    key: Key
    address: IPv6Address
    until: float
    name: str | None = None


class Bindings:
    """Keeps account of one pool; the size of it is limited.

    Args:
        pool: What there is to give; None for nothing but what is reserved.
        reserved: What clients get whatever comes, by DUID or MAC address; need not be
            of the pool.
        without: What is somebody's already.
    """

    def __init__(
        self,
        pool: Pool | None,
        reserved: Mapping[bytes, IPv6Address] | None = None,
        without: Iterable[IPv6Address] = (),
    ) -> None:
        self._pool = pool
        self._reserved = dict(reserved or {})
        # Addresses as integers: thousands may be looked for at once, and they are
        # compared without a line of Python.
        self._kept = {int(each) for each in (*self._reserved.values(), *without)}
        self._bindings: dict[Key, Binding] = {}
        self._taken: dict[int, Key] = {}
        self._declined: OrderedDict[int, float] = OrderedDict()
        self._revoked: OrderedDict[Key, IPv6Address] = OrderedDict()
        self._next_end = math.inf

    def __iter__(self) -> Iterator[Binding]:
        return iter(tuple(self._bindings.values()))

    def __len__(self) -> int:
        return len(self._bindings)

    @property
    def pool(self) -> Pool | None:
        """What there is to give."""
        return self._pool

    @property
    def next_end(self) -> float:
        """When to call `expire`; it may turn out that the first one was prolonged."""
        return self._next_end

    def may_give(self, address: IPv6Address) -> bool:
        """Whether an address is one that clients can have."""
        in_pool = self._pool is not None and address in self._pool
        return in_pool or address in self._reserved.values()

    def get(self, key: Key) -> Binding | None:
        """Return what a client has; None if nothing."""
        return self._bindings.get(key)

    def find(self, address: IPv6Address) -> Binding | None:
        """Return who has an address; None if nobody."""
        key = self._taken.get(int(address))
        return None if key is None else self._bindings[key]

    def choose(
        self, key: Key, hints: Iterable[IPv6Address], now: float
    ) -> IPv6Address | None:
        """Return what a client may have, without giving it; None if nothing is left.

        What is its own already, what is reserved for it, what it would like, what its
        hash says.
        """
        if (known := self._bindings.get(key)) is not None:
            return known.address
        reserved = self._reserved.get(key.duid)
        if reserved is None and (mac := mac_in(key.duid)) is not None:
            reserved = self._reserved.get(mac)
        while self._declined and next(iter(self._declined.values())) <= now:
            self._declined.popitem(last=False)
        if reserved is not None and not self._is_in_use(reserved):
            return reserved
        if len(self._bindings) >= _MOST:
            return None
        if self._pool is None:
            return None
        for each in hints:
            if each in self._pool and self._is_free(each):
                return each
        return self._hashed(key, self._pool)

    def bind(
        self, key: Key, address: IPv6Address, until: float, name: str | None
    ) -> Binding:
        """Give what `choose` returned, or for longer."""
        binding = Binding(key, address, until, name)
        self._bindings[key] = binding
        self._revoked.pop(key, None)
        self._taken[int(address)] = key
        self._next_end = min(self._next_end, until)
        return binding

    def release(self, key: Key, address: IPv6Address) -> Binding | None:
        """Take something back; return what it was, None if it was not the client's."""
        binding = self._bindings.get(key)
        if binding is None or binding.address != address:
            return None
        del self._bindings[key], self._taken[int(address)]
        return binding

    def decline(self, key: Key, address: IPv6Address, now: float) -> Binding | None:
        """Take back what somebody else has; nobody gets it for some time."""
        binding = self.release(key, address)
        if binding is not None:
            self._declined[int(address)] = now + _DECLINED_SECONDS
            if len(self._declined) > _MOST_DECLINED:
                self._declined.popitem(last=False)
        return binding

    def revoke(self, address: IPv6Address) -> Binding | None:
        """Take back what may not be prolonged; return what it was."""
        binding = self.find(address)
        if binding is not None:
            self.release(binding.key, address)
            self._revoked[binding.key] = address
            if len(self._revoked) > _MOST_REVOKED:
                self._revoked.popitem(last=False)
        return binding

    def was_revoked(self, key: Key, addresses: Collection[IPv6Address]) -> bool:
        """Whether a client has to begin anew."""
        return self._revoked.get(key) in addresses

    def expire(self, now: float) -> list[Binding]:
        """Take back what is over, and return it."""
        if now < self._next_end:
            return []
        over = [each for each in self._bindings.values() if each.until <= now]
        for each in over:
            del self._bindings[each.key], self._taken[int(each.address)]
        left = (each.until for each in self._bindings.values())
        self._next_end = min(left, default=math.inf)
        return over

    def _is_in_use(self, address: IPv6Address) -> bool:
        return int(address) in self._taken or int(address) in self._declined

    def _is_free(self, address: IPv6Address) -> bool:
        return int(address) not in self._kept and not self._is_in_use(address)

    def _hashed(self, key: Key, pool: Pool) -> IPv6Address | None:
        """Return what a client's hash says, or the next that is free."""
        digest = hashlib.sha256(key.iaid.to_bytes(4, "big") + key.duid).digest()
        number = int.from_bytes(digest[:16], "big") % pool.count
        used = {*self._kept, *self._taken, *self._declined}
        # One of so many is free, or there are no more.
        left = itertools.filterfalse(used.__contains__, pool.after(number))
        found = next(left, None)
        return None if found is None else IPv6Address(found)
