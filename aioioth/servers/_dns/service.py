"""A query's way through a name server, from bytes to bytes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import dns.rcode

from aioioth.servers._dns import messages
from aioioth.servers._dns.answer import failure
from aioioth.servers._dns.answering import Open
from aioioth.servers._dns.messages import Ignored, Query, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dns.rdatatype import RdataType

    from aioioth._ip import IPAddress
    from aioioth.servers._dns.answer import Answer, Labels, Question
    from aioioth.servers._dns.answering import Answerer
    from aioioth.servers._dns.faults import DnsFault, Faults
    from aioioth.servers._dns.forwarding import Forwarder

    _Key = tuple[Labels, RdataType, IPAddress | None]
    Spawn = Callable[[Coroutine[object, object, None], str], None]

# Queries that wait: for other servers, or because of a fault. Each takes a task and
# perhaps a socket.
_MOST_WAITING = 500


@dataclass
class Counts:
    """What is counted; see `aioioth.servers.dns.DnsStats`."""

    queries: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    forwarded: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Waiting:
    """A query that cannot be answered at once.

    Attributes:
        query: As it was understood.
        fault: What goes wrong with it, if anything does.
    """

    query: Query
    fault: DnsFault | None


class DnsService:
    """Answers; the sockets are others' business.

    Args:
        answerer: Knows.
        forwarder: Asks those who know better.
        faults: What goes wrong.
        counts: What has happened.
        spawn: Starts a task that ends with the server.
    """

    def __init__(
        self,
        answerer: Answerer,
        forwarder: Forwarder,
        *,
        faults: Faults,
        counts: Counts,
        spawn: Spawn,
    ) -> None:
        self._answerer = answerer
        self._forwarder = forwarder
        self._faults = faults
        self._counts = counts
        self._spawn = spawn
        self._waiting = 0
        self._asking: dict[_Key, asyncio.Future[Answer | None]] = {}

    def begin(
        self, wire: bytes, client: IPAddress, *, over_tcp: bool
    ) -> bytes | Waiting | None:
        """Return the reply to a query, or what to `finish`, or None for no reply.

        What waits is counted from here, for many come before the first task runs.
        """
        try:
            query = self._answerer.read(wire, client, over_tcp=over_tcp)
        except Ignored as ignored:
            self._counts.ignored[ignored.cause] += 1
            return None
        except Rejected as rejected:
            self._counts.answers[rejected.rcode.name] += 1
            return rejected.wire
        self._counts.queries[query.question.rdtype.name] += 1
        fault = self._faults.next_for(query.question, over_tcp=over_tcp)
        if fault is not None and fault.drop:
            self._counts.ignored["fault"] += 1
            return None
        if fault is None or not fault.delay:
            outcome = self._outcome(query, fault)
            if isinstance(outcome, bytes):
                return outcome
        if self._waiting >= _MOST_WAITING:
            self._counts.ignored["overload"] += 1
            return self._render(query, failure(dns.rcode.SERVFAIL))
        self._waiting += 1
        return Waiting(query, fault)

    async def finish(self, waiting: Waiting) -> bytes:
        """Return the reply, as soon as there is one."""
        query, fault = waiting.query, waiting.fault
        try:
            if fault is not None and fault.delay:
                await asyncio.sleep(fault.delay)
            outcome = self._outcome(query, fault)
            while isinstance(outcome, Open):
                found = await self._ask(outcome.question, query.client)
                resumed = self._answerer.resume(query, outcome, found, monotonic())
                outcome = self._rendered(query, resumed)
            return outcome
        finally:
            self._waiting -= 1

    def _outcome(self, query: Query, fault: DnsFault | None) -> bytes | Open:
        """Return the reply, or what has to be asked before."""
        if fault is not None and fault.wanted_rcode is not None:
            return self._render(query, failure(fault.wanted_rcode))
        if fault is not None and fault.truncate:
            self._counts.answers[dns.rcode.NOERROR.name] += 1
            return messages.truncated(query)
        return self._rendered(query, self._answerer.resolve(query, monotonic()))

    def _rendered(self, query: Query, outcome: Answer | Open) -> bytes | Open:
        if isinstance(outcome, Open):
            return outcome
        return self._render(query, outcome)

    def _render(self, query: Query, answer: Answer) -> bytes:
        self._counts.answers[answer.rcode.name] += 1
        return messages.render(query, answer)

    async def _ask(self, question: Question, client: IPAddress) -> Answer | None:
        """Ask the others, but only once for all who want to know the same.

        A forger would have a chance with each query that is on its way (RFC 5452
        section 5). If it is another server that asks, it is not asked back: the two
        would never come to an end.
        """
        but = client if self._forwarder.may_ask(client) else None
        key = question.labels, question.rdtype, but
        future = self._asking.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._asking[key] = future
            self._spawn(self._ask_others(question, key, future), "DNS server asks")
        # It is not this query's alone.
        return await asyncio.shield(future)

    async def _ask_others(
        self, question: Question, key: _Key, future: asyncio.Future[Answer | None]
    ) -> None:
        found = None
        try:
            found = await self._forwarder.ask(question, key[2])
            if found is not None:
                self._answerer.learn(question, found, monotonic())
        finally:
            del self._asking[key]
            future.set_result(found)
