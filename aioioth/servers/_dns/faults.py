"""What a name server does wrong, on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

import dns.exception
import dns.rcode
import dns.rdatatype

from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dns.rcode import Rcode
    from dns.rdatatype import RdataType

    from aioioth.servers._dns.answer import Question

_T = TypeVar("_T")


@dataclass(frozen=True)
class DnsFault:
    """Something to go wrong with queries, so that a test sees what becomes of it.

    Attributes:
        name: Pattern for names, with ``*`` and ``?`` as for files; a ``*`` also stands
            for dots. Case and a dot at the end make no difference.
        type: Of the records that are asked for, as ``AAAA``; None: any.
        rcode: What to answer in place of an answer: ``SERVFAIL``, ``REFUSED``, ...
        delay: Seconds to wait with the answer.
        drop: Never answer.
        truncate: Have the client come again over TCP; not about what comes over TCP.
        every: Only each second, third, ... query that it is about; 1: each.
        count: It is over when it has happened so often; None: never.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    name: str = "*"
    type: str | None = None
    rcode: str | None = None
    delay: float = 0.0
    drop: bool = False
    truncate: bool = False
    every: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        problem = None
        if _read(str, self.name) is None:
            problem = f"name={self.name!r}: write a pattern, '*.example' say"
        elif self.rcode is not None and self.wanted_rcode is None:
            problem = f"rcode={self.rcode!r}: no such answer; write 'SERVFAIL', say"
        elif self.type is not None and self.wanted_type is None:
            problem = f"type={self.type!r}: no such type; write 'AAAA', say"
        elif not 0 <= self.delay < float("inf"):
            problem = f"delay={self.delay!r}: expected seconds"
        elif self.every < 1 or (self.count is not None and self.count < 1):
            problem = f"every={self.every}, count={self.count}: expected 1 or more"
        elif not (self.rcode or self.delay or self.drop or self.truncate):
            problem = "what goes wrong? Give rcode, delay, drop or truncate"
        if problem is not None:
            raise ConfigurationError(problem)

    @property
    def wanted_rcode(self) -> Rcode | None:
        """The answer as dnspython has it; None if that is not what goes wrong."""
        found = None if self.rcode is None else _read(dns.rcode.from_text, self.rcode)
        return found if found is None or found < dns.rcode.BADVERS else None

    @property
    def wanted_type(self) -> RdataType | None:
        """The type as dnspython has it; None if any is meant."""
        return None if self.type is None else _read(dns.rdatatype.from_text, self.type)

    def is_about(self, question: Question, *, over_tcp: bool) -> bool:
        """Whether a question is one of those that are meant."""
        if self.truncate and over_tcp:
            return False
        if self.type is not None and self.wanted_type != question.rdtype:
            return False
        name = question.name.to_text(omit_final_dot=True).lower()
        return fnmatchcase(name, self.name.removesuffix(".").lower())


class Faults:
    """The faults of a server, and how often each has happened.

    May be changed from any thread.
    """

    def __init__(self) -> None:
        self._faults: dict[DnsFault, _Counted] = {}

    @property
    def faults(self) -> tuple[DnsFault, ...]:
        """Those that are not over, oldest first."""
        return tuple(self._faults)

    def add(self, fault: DnsFault) -> None:
        """Have something go wrong from now on; the same one again starts anew."""
        self._faults.pop(fault, None)  # it is the youngest now
        self._faults[fault] = _Counted(fault)

    def remove(self, fault: DnsFault) -> None:
        """Have it go right again. Idempotent."""
        self._faults.pop(fault, None)

    def next_for(self, question: Question, *, over_tcp: bool) -> DnsFault | None:
        """Return what goes wrong with a question now: the first that has to."""
        for each in list(self._faults.values()):
            if each.fault.is_about(question, over_tcp=over_tcp) and each.happens():
                if each.is_over:
                    self.remove(each.fault)
                return each.fault
        return None


class _Counted:
    def __init__(self, fault: DnsFault) -> None:
        self.fault = fault
        self._met = 0
        self._happened = 0

    def happens(self) -> bool:
        self._met += 1
        if self._met % self.fault.every:
            return False
        self._happened += 1
        return True

    @property
    def is_over(self) -> bool:
        return self._happened == self.fault.count


def _read(reader: Callable[[str], _T], text: object) -> _T | None:
    """Return what a text stands for; None if it is none, or stands for nothing."""
    try:
        return reader(text) if isinstance(text, str) else None
    except (dns.exception.DNSException, ValueError):
        return None
