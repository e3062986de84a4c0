"""From a query to its answer, as far as it goes without asking anybody.

There are no sockets, tasks or clocks here: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dns.rcode
import dns.rdatatype

from aioioth.servers._dns import messages
from aioioth.servers._dns.answer import (
    Answer,
    Question,
    failure,
    records,
)
from aioioth.servers._dns.messages import Query

if TYPE_CHECKING:
    from aioioth._ip import IPAddress
    from aioioth.servers._dns.access import Access
    from aioioth.servers._dns.cache import Cache
    from aioioth.servers._dns.zones import Zones


@dataclass(frozen=True)
class Open:
    """What others have to be asked before a query can be answered.

    Attributes:
        question: For them.
        chain: Aliases that have led to it.
    """

    question: Question
    chain: Answer


class Answerer:
    """Answers queries from what is known.

    Args:
        zones: What we know ourselves.
        cache: What others said; filled by `learn`. None: they are asked each time.
        access: Who may have what.
        forwards: Whether there are others that could be asked.
    """

    def __init__(
        self, zones: Zones, cache: Cache | None, access: Access, *, forwards: bool
    ) -> None:
        self._zones = zones
        self._cache = cache
        self._access = access
        self._forwards = forwards

    def read(self, wire: bytes, client: IPAddress, *, over_tcp: bool) -> Query:
        """Return a query as it is understood.

        Raises:
            Ignored: It gets no answer.
            Rejected: It gets a reply at once.
        """
        message = messages.read_query(wire)
        [asked] = message.question
        return Query(
            message,
            Question.about(asked.name, asked.rdtype),
            client,
            self._access.services(client),
            messages.reply_limit(message, over_tcp=over_tcp),
            over_tcp,
        )

    def resolve(self, query: Query, now: float) -> Answer | Open:
        """Return the answer, or what others have to be asked for.

        Args:
            query: What `read` returned.
            now: Seconds, by any clock that only goes forward.
        """
        refusal = messages.refusal(query.message)
        if refusal is not None:
            return refusal
        return self._follow(query, query.question, Answer(), now)

    def resume(
        self, query: Query, open_: Open, found: Answer | None, now: float
    ) -> Answer | Open:
        """Go on when the others have answered.

        Args:
            query: What `read` returned.
            open_: What `resolve` or `resume` returned.
            found: What they said; None if nobody answered.
            now: As before.
        """
        if found is None:
            return failure(dns.rcode.SERVFAIL)
        chain = open_.chain.then(found)
        if chain.alias is None:
            return chain
        question = Question.about(chain.alias, query.question.rdtype)
        return self._follow(query, question, chain, now)

    def learn(self, question: Question, found: Answer, now: float) -> None:
        """Remember what others said."""
        if self._cache is not None:
            self._cache.put(question, found, now)

    def _follow(
        self, query: Query, question: Question, chain: Answer, now: float
    ) -> Answer | Open:
        while not chain.is_too_long:
            found = self._zones.look_up(question, query.client, query.services)
            if found is None:
                found = self._outside(query, question, now)
            if found is None:
                return Open(question, chain)
            if chain.answer and found.rcode == dns.rcode.REFUSED:
                return replace(chain, alias=None)  # how far he may come
            chain = chain.then(found)
            if chain.alias is None:
                return chain
            question = Question.about(chain.alias, question.rdtype)
        return failure(dns.rcode.SERVFAIL)  # an alias of itself, it may be

    def _outside(self, query: Query, question: Question, now: float) -> Answer | None:
        """Return what is known about others' names; None if they have to be asked."""
        if not self._forwards:
            knows_all = "static" in query.services
            refused = failure(dns.rcode.REFUSED)
            return self._zones.nobody(question) if knows_all else refused
        if self._cache is not None and "cache" in query.services:
            found = self._cache.get(question, now)
            if found is not None:
                return found
        if "forward" not in query.services or not query.wants_recursion:
            return failure(dns.rcode.REFUSED)
        if question.rdtype == dns.rdatatype.ANY:
            return _no_any(question)
        return None


def _no_any(question: Question) -> Answer:
    """Return the answer to "all that there is" about a name of others.

    Source: RFC 8482 section 4.2.
    """
    hinfo = records(question.name, 3600, dns.rdatatype.HINFO, 'RFC8482 ""')
    return Answer(answer=[hinfo], authoritative=False)
