"""A DNS client over the sockets of a stack: a stub resolver (RFC 1034 section 5.3.1).

This module takes a while to import, so it is imported with the first query.

Source: RFC 1035, 2308 (negative answers); resolv.conf(5).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename

from aioioth._dnsexchange import Exchange
from aioioth._names import Found, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioioth._dnsexchange import OpenSocket, SocketAddress
    from aioioth._ip import IPAddress

# As resolv.conf(5) has them; there, servers are asked one after the other.
TRY_SECONDS = 5.0
TRIES = 2

# For all that one lookup needs: search domains, TCP, servers without EDNS.
TOTAL_SECONDS = 30.0

_CACHE_SIZE = 1000
_CACHE_SECONDS = 3600.0  # a stack's addresses change with the program that uses it

_TYPES = {
    socket.AF_INET6: dns.rdatatype.AAAA,
    socket.AF_INET: dns.rdatatype.A,
}

# What a host may be called by DNS: a name goes into logs and into certificates' checks.
_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


@dataclass(frozen=True)
class _Answer:
    """What a server said, as far as it matters.

    Attributes:
        exists: Whether there is the name, be it for other types.
        canonical: The name at the end of the chain of aliases.
        values: Addresses, or names from a reverse lookup; may be empty.
        expires: When to ask again, by the monotonic clock.
    """

    exists: bool
    canonical: str
    values: tuple[str, ...]
    expires: float


class DnsClient:
    """Asks all servers of a stack at once; the first answer that can be used wins.

    Works on any event loop and in any thread, also on several at once.

    Args:
        servers: At least one.
        domains: Where names are searched that have no dot in them.
        open_socket: Opens a non-blocking socket in the stack.
        socket_address: Makes a socket address of an address and a port.
    """

    def __init__(
        self,
        servers: Sequence[IPAddress],
        domains: Sequence[str],
        *,
        open_socket: OpenSocket,
        socket_address: SocketAddress,
    ) -> None:
        self._servers = servers
        self._domains = domains
        self._exchange = Exchange(
            open_socket, socket_address, seconds=TRY_SECONDS, tries=TRIES
        )
        self._cache: OrderedDict[tuple[dns.name.Name, int], _Answer] = OrderedDict()

    async def addresses(self, name: str, families: Sequence[int]) -> Found:
        """Return the addresses of a name, as far as they are of ``families``.

        Raises:
            socket.gaierror: There are none (EAI_NONAME, EAI_NODATA), or no server says
                so (EAI_AGAIN).
            ClosedError: The stack was closed.
        """
        types = [_TYPES[socket.AddressFamily(family)] for family in families]
        answers = await self._in_time(name, self._search(name, types))
        values = [
            ipaddress.ip_address(text) for each in answers for text in each.values
        ]
        if values:
            canonical = next(each.canonical for each in answers if each.values)
            decent = canonical if _HOSTNAME.fullmatch(canonical) else name
            return Found(decent, tuple(values))
        if any(answer.exists for answer in answers):
            reason = f"has no address of the wanted family, say {self._listed()}"
            raise unknown_name(name, reason, socket.EAI_NODATA)
        raise unknown_name(name, f"does not exist, say {self._listed()}")

    async def name_of(self, address: IPAddress) -> str | None:
        """Return the name of an address; None if there is none.

        Raises:
            socket.gaierror: No server answers (EAI_AGAIN).
            ClosedError: The stack was closed.
        """
        question = dns.reversename.from_address(str(address).partition("%")[0])
        asking = self._resolve(question, dns.rdatatype.PTR)
        answer = await self._in_time(str(address), asking)
        return next(filter(_HOSTNAME.fullmatch, answer.values), None)

    async def _in_time(self, name: str, asking: Any) -> Any:  # noqa: ANN401
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                return await asking
        except TimeoutError:
            reason = f"was not found within {TOTAL_SECONDS} s; asked {self._listed()}"
            raise unknown_name(name, reason, socket.EAI_AGAIN) from None

    def _listed(self) -> str:
        return f"the stack's DNS servers ({', '.join(map(str, self._servers))})"

    # From a name to questions

    async def _search(
        self, name: str, types: Sequence[dns.rdatatype.RdataType]
    ) -> list[_Answer]:
        """Ask for the name, here and there, until it has a value of a wanted type."""
        found: list[_Answer] = []
        for question in self._candidates(name):
            found += (answers := await self._resolve_all(question, types))
            if any(answer.values for answer in answers):
                return answers
        return found

    def _candidates(self, name: str) -> list[dns.name.Name]:
        texts = [name]
        if not name.endswith("."):
            searched = [f"{name}.{domain}" for domain in self._domains]
            texts = [name, *searched] if "." in name else [*searched, name]  # ndots:1
        candidates = []
        for text in texts:
            with suppress(dns.exception.DNSException):  # too long, or "a..b"
                candidates.append(dns.name.from_text(text))
        if not candidates:
            raise unknown_name(name, "cannot be the name of a host")
        return candidates

    async def _resolve_all(
        self, question: dns.name.Name, types: Sequence[dns.rdatatype.RdataType]
    ) -> list[_Answer]:
        """Ask for all types at once. A type without an answer hurts no other."""
        asking = [self._resolve(question, each) for each in types]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        answers = [each for each in outcomes if isinstance(each, _Answer)]
        errors = [each for each in outcomes if isinstance(each, BaseException)]
        if errors and not any(answer.values for answer in answers):
            raise errors[0]
        return answers

    async def _resolve(
        self, question: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> _Answer:
        key = (question, int(kind))
        cached = self._cache.get(key)
        if cached is not None and monotonic() < cached.expires:
            return cached
        answer = await self._first_answer(question, kind)
        self._cache[key] = answer
        while len(self._cache) > _CACHE_SIZE:
            with suppress(KeyError):  # another thread was quicker
                self._cache.popitem(last=False)
        return answer

    # From a question to an answer

    async def _first_answer(
        self, question: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> _Answer:
        asking = [
            asyncio.create_task(self._ask(server, question, kind))
            for server in self._servers
        ]
        pending, failures = set(asking), []
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    outcome = task.result()
                    if isinstance(outcome, _Answer):
                        return outcome
                    failures.append(outcome)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        name = question.to_text(omit_final_dot=True)
        reason = f"was not found: the stack's DNS servers fail ({'; '.join(failures)})"
        raise unknown_name(name, reason, socket.EAI_AGAIN)

    async def _ask(
        self, server: IPAddress, question: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> _Answer | str:
        """Return one server's answer, or why it has none that can be used."""
        try:
            reply = await self._exchange.ask(server, question, kind)
            if reply.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                return _read(reply)
        except TimeoutError:
            return f"{server}: no answer"
        except OSError as error:
            return f"{server}: {error.strerror or error}"
        except (EOFError, dns.exception.DNSException) as error:
            return f"{server}: no proper answer ({type(error).__name__})"
        return f"{server}: {dns.rcode.to_text(reply.rcode())}"


def _read(reply: dns.message.Message) -> _Answer:
    """Return what a message says.

    Raises:
        dns.exception.DNSException: It makes no sense.
    """
    assert isinstance(reply, dns.message.QueryMessage)
    chain = reply.resolve_chaining()
    seconds = float(chain.minimum_ttl)
    authorities = {each.rdtype for each in reply.authority}
    if chain.answer is None and dns.rdatatype.SOA not in authorities:
        seconds = 0.0  # RFC 2308 section 5: nobody says how long it stays so
    return _Answer(
        exists=reply.rcode() != dns.rcode.NXDOMAIN,
        canonical=chain.canonical_name.to_text(omit_final_dot=True),
        values=tuple(_value(each) for each in chain.answer or ()),
        expires=monotonic() + min(seconds, _CACHE_SECONDS),
    )


def _value(record: Any) -> str:  # noqa: ANN401
    if record.rdtype == dns.rdatatype.PTR:
        return str(record.target.to_text(omit_final_dot=True))
    return str(record.address)
