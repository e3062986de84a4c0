"""Asking other name servers, from a stack of one's own, and what to believe of it.

Source: RFC 1035 section 7, RFC 2308 section 2 (referrals), RFC 5452 (what a forger has
to guess: the port and the id of each query are the kernel's and dnspython's random
numbers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from aioioth._dnsexchange import Exchange
from aioioth.errors import ClosedError
from aioioth.servers._dns.answer import Answer, negative

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable, Sequence

    from dns.rrset import RRset

    from aioioth._ip import IPAddress
    from aioioth.servers._dns.answer import Question
    from aioioth.stack import Stack

# Each server is asked so often before all have failed.
_ROUNDS = 2


class Forwarder:
    """Asks one server after the other, beginning with the last one that answered.

    Args:
        stack: Where the queries come from.
        servers: May be empty.
        timeout: Seconds that each server has for each try.
        is_own: Whether we are the server at an address of the stack.
        counts: Where it is counted what became of queries.
    """

    def __init__(
        self,
        stack: Stack,
        servers: Sequence[IPAddress],
        timeout: float,
        *,
        is_own: Callable[[IPAddress], bool],
        counts: Counter[str],
    ) -> None:
        self._servers = list(servers)
        self._exchange = Exchange(
            stack.socket,
            stack.resolver.socket_address,
            seconds=timeout,
            tries=1,
            check=self._check,
        )
        self._is_own = is_own
        self._counts = counts

    def may_ask(self, address: IPAddress) -> bool:
        """Whether this is one of the others."""
        return any(_same(address, each) for each in self._servers)

    async def ask(self, question: Question, but: IPAddress | None) -> Answer | None:
        """Return what the others say; None if nobody has an answer.

        Args:
            question: Name and type.
            but: Who is not asked; for it was he who asked us.
        """
        self._counts["questions"] += 1
        for server in self._all_but(but) * _ROUNDS:
            answer = await self._ask(server, question)
            if answer is not None:
                # Who is silent makes everybody wait only once.
                while self._servers[0] != server:
                    self._servers.append(self._servers.pop(0))
                self._counts["answers"] += 1
                return answer
        self._counts["unanswered"] += 1
        return None

    def _all_but(self, client: IPAddress | None) -> list[IPAddress]:
        if client is None:
            return list(self._servers)
        return [each for each in self._servers if not _same(client, each)]

    async def _ask(self, server: IPAddress, question: Question) -> Answer | None:
        try:
            reply = await self._exchange.ask(server, question.name, question.rdtype)
        except TimeoutError:
            self._counts["timeouts"] += 1
        except (OSError, EOFError, dns.exception.DNSException, ClosedError):
            self._counts["errors"] += 1
        else:
            answer = read_reply(reply)
            if answer is None:
                self._counts["failures"] += 1
            return answer
        return None

    def _check(self, server: IPAddress, sock: socket.socket) -> None:
        # All of 127.0.0.0/8 is here, and asked from 127.0.0.1.
        is_here = server.is_loopback or sock.getsockname()[0] == sock.getpeername()[0]
        if is_here and self._is_own(server):
            msg = "this server would be asked itself"
            raise OSError(msg)


def _same(client: IPAddress, server: IPAddress) -> bool:
    # Whoever asks from a link-local address comes without its scope.
    return client.packed == server.packed


def read_reply(reply: dns.message.Message) -> Answer | None:
    """Return what another server's reply says; None if that is no answer.

    Only records that lead from the question to its answer are taken, and the SOA
    record of a zone that the name is in: what else there is, nobody has asked for.
    """
    assert isinstance(reply, dns.message.QueryMessage)
    if reply.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return None
    try:
        chain = reply.resolve_chaining()
    except (dns.exception.DNSException, ValueError):
        return None
    answer = Answer(reply.rcode(), list(chain.cnames), authoritative=False)
    if chain.answer is not None:
        answer.answer.append(chain.answer)
        return answer
    soa = _soa_of(reply, chain.canonical_name)
    if soa is not None:
        answer.authority.append(negative(soa))
    elif answer.answer and answer.rcode == dns.rcode.NOERROR:
        # An alias to what the other server does not say.
        answer.alias = chain.canonical_name
    elif _is_referral(reply):
        return None
    return answer


def _is_referral(reply: dns.message.QueryMessage) -> bool:
    """Whether it only says who knows more; nobody is asked but those we were told."""
    return (
        reply.rcode() == dns.rcode.NOERROR
        and not reply.flags & dns.flags.AA
        and any(each.rdtype == dns.rdatatype.NS for each in reply.authority)
    )


def _soa_of(reply: dns.message.QueryMessage, name: dns.name.Name) -> RRset | None:
    for rrset in reply.authority:
        if rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name):
            return rrset
    return None
