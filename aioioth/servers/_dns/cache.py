"""What other name servers said, for as long as they said that it holds.

Source: RFC 1035 section 7.4, RFC 2181 section 5, RFC 2308 (negative answers).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.rcode

from aioioth.servers._dns.answer import Answer, timed

if TYPE_CHECKING:
    from dns.rdatatype import RdataType

    from aioioth.servers._dns.answer import Labels, Question

# Some 500 bytes for each record: at most 10 MB.
_RECORDS = 20_000
# What is larger is rare, and would displace much.
_LARGEST_ENTRY = 500
_LONGEST = 86_400  # a day; RFC 8767 section 4 advises a week at most
_LONGEST_NEGATIVE = 10_800  # RFC 2308 section 5


@dataclass(frozen=True)
class _Entry:
    answer: Answer
    size: int
    since: float
    until: float


class Cache:
    """Answers by question, the oldest use goes first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Labels, RdataType], _Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, question: Question, now: float) -> Answer | None:
        """Return an answer as it is now, its TTLs counted down.

        Args:
            question: Name and type.
            now: Seconds, by the clock that `put` was given.
        """
        key = question.labels, question.rdtype
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        age = int(now - entry.since)
        found = entry.answer
        return Answer(
            found.rcode,
            [timed(each, each.ttl - age) for each in found.answer],
            [timed(each, each.ttl - age) for each in found.authority],
            authoritative=False,
            alias=found.alias,
        )

    def put(self, question: Question, answer: Answer, now: float) -> None:
        """Keep an answer, if it says for how long."""
        rrsets = [*answer.answer, *answer.authority]
        size = sum(map(len, rrsets))
        ttl = min((each.ttl for each in rrsets), default=0)
        is_negative = bool(answer.authority)
        if answer.rcode == dns.rcode.NXDOMAIN and not is_negative:
            return  # RFC 2308 section 5: nobody says how long it stays so
        if not rrsets or ttl <= 0 or size > _LARGEST_ENTRY:
            return
        ttl = min(ttl, _LONGEST_NEGATIVE if is_negative else _LONGEST)
        key = question.labels, question.rdtype
        self._drop(key)
        self._entries[key] = _Entry(answer, size, now, now + ttl)
        self._size += size
        while self._size > _RECORDS:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._size = 0

    def _drop(self, key: tuple[Labels, RdataType]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
