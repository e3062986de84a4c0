"""Text of a zone file to records.

dnspython has a reader of its own, but that cannot say in which line a mistake is.

Source: RFC 1035 section 5; RFC 2308 section 4 ($TTL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tokenizer
import dns.ttl

from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from dns.name import Name
    from dns.rdatatype import RdataType
    from dns.rrset import RRset

# What may stand beside an alias (RFC 4035 section 2.5).
_BESIDE_ALIAS = {dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.CNAME}

# Of what there can be only one, dnspython silently keeps the last.
_SINGLE = {dns.rdatatype.CNAME, dns.rdatatype.SOA}


def parse_records(text: str, ttl: int) -> list[RRset]:
    """Return the records that stand in a text.

    Args:
        text: Lines of a zone file: ``db.example. 60 IN A 10.0.0.5``. Class and TTL may
            be missing, ``$ORIGIN`` and ``$TTL`` are known. Without ``$ORIGIN``, a name
            is complete whether it ends in a dot or not.
        ttl: In seconds, of records that do not say any.

    Raises:
        ConfigurationError: There is something else in it; the message has the line.
    """
    return _Reader(text, ttl).read()


class _Reader:
    def __init__(self, text: str, ttl: int) -> None:
        # As dnspython counts lines.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._lines = text.split("\n")
        self._tokens = dns.tokenizer.Tokenizer(text)
        self._origin = dns.name.root
        self._owner: Name | None = None
        self._ttl = ttl
        self._sets: dict[tuple[Name, RdataType, RdataType], RRset] = {}
        self._types: dict[Name, set[RdataType]] = {}

    def read(self) -> list[RRset]:
        while True:
            line = self._tokens.where()[1]
            try:
                if not self._entry():
                    return list(self._sets.values())
            except (dns.exception.DNSException, ValueError) as error:
                shown = self._lines[line - 1].strip()
                msg = f"records, line {line}: {error}\n  {shown}"
                raise ConfigurationError(msg) from None

    def _entry(self) -> bool:
        """Read a line, or several in parentheses; False at the end of the text."""
        token = self._tokens.get(want_leading=True)
        if token.is_eof():
            return False
        if token.is_whitespace():
            token = self._tokens.get()
            if token.is_eol_or_eof():
                return not token.is_eof()
            self._tokens.unget(token)
        elif token.is_eol():
            return True
        elif token.value in {"$ORIGIN", "$TTL"}:
            self._directive(token.value)
            return True
        elif token.value.startswith("$"):
            msg = f"{token.value} is not known here, only $ORIGIN and $TTL"
            raise ValueError(msg)
        else:
            self._owner = self._tokens.as_name(token, self._origin)
        self._record()
        return True

    def _directive(self, name: str) -> None:
        if name == "$ORIGIN":
            self._origin = self._tokens.get_name(self._origin)
        else:
            self._ttl = self._tokens.get_ttl()
        self._tokens.get_eol()

    def _record(self) -> None:
        if self._owner is None:
            msg = "the first record needs a name, at the very beginning of its line"
            raise ValueError(msg)
        ttl, rdtype = self._ttl_and_type()
        try:
            rdata = dns.rdata.from_text(
                dns.rdataclass.IN, rdtype, self._tokens, self._origin, relativize=False
            )
        except dns.exception.DNSException as error:
            msg = f"no proper {rdtype.name} record: {error}"
            raise ValueError(msg) from None
        self._check_neighbours(self._owner, rdtype)
        key = (self._owner, rdtype, rdata.covers())
        rrset = self._sets.get(key)
        if rrset is None:
            rrset = dns.rrset.RRset(self._owner, dns.rdataclass.IN, *key[1:])
            self._sets[key] = rrset
        rrset.add(rdata, ttl)

    def _ttl_and_type(self) -> tuple[int, RdataType]:
        ttl = self._ttl
        while True:
            value = self._tokens.get_string()
            if value[:1].isdigit():
                ttl = dns.ttl.from_text(value)
            elif value.upper() in {"CH", "HS", "NONE", "ANY"}:
                msg = f"{value!r}: only class IN is served"
                raise ValueError(msg)
            elif value.upper() != "IN":
                break
        rdtype = dns.rdatatype.from_text(value)
        if rdtype == dns.rdatatype.OPT or dns.rdatatype.is_metatype(rdtype):
            msg = f"{value!r} is no type that a record has"
            raise ValueError(msg)
        if rdtype == dns.rdatatype.DNAME:
            msg = "DNAME is not served; write a CNAME for each name"
            raise ValueError(msg)
        return ttl, rdtype

    def _check_neighbours(self, owner: Name, rdtype: RdataType) -> None:
        types = self._types.setdefault(owner, set())
        if rdtype in _SINGLE and rdtype in types:
            msg = f"{owner} has a {rdtype.name} already"
            raise ValueError(msg)
        types.add(rdtype)
        if dns.rdatatype.CNAME in types and types - _BESIDE_ALIAS:
            msg = f"{owner} has a CNAME, so it can have nothing else"
            raise ValueError(msg)
