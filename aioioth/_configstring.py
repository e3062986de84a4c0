"""The configuration of a stack in one line: ``eth,ip=10.0.0.1/24,gw=10.0.0.254``.

Tags, or tags with a value, between commas, semicolons or white space; ``#`` begins a
comment. Quotes and backslashes keep what would separate otherwise.

Source: the language of VirtualSquare's ``ioth_config()`` and ``ioth_newstackc()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aioioth._autoconf.wanted import (
    DHCP,
    DHCP6,
    ETH,
    ITEMS,
    RA,
    STATIC,
    Items,
    Wanted,
    check_fqdn,
)
from aioioth._settings import parse_mac
from aioioth.errors import ConfigStringError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")

_SEPARATORS = ",; \t\n\r"
_QUOTES = "'\""

_SYNONYMS = {
    "macaddr": "mac",
    "dhcp4": "dhcp",
    "dhcpv4": "dhcp",
    "dhcpv6": "dhcp6",
    "rd6": "rd",
    "auto-all": "auto",
    "autov4": "auto4",
    "autov6": "auto6",
}

# Tags that stand for sources. "ra" is ours: what most people want of "rd".
_STARTS = {
    "eth": {ETH},
    "rd": {RA},
    "ra": {RA},
    "slaac": set[str](),
    "dhcp6": {DHCP6},
    "dhcp": {DHCP},
    "auto": {ETH, RA, DHCP6, DHCP},
    "auto4": {ETH, DHCP},
    "auto6": {ETH, RA, DHCP6},
    "debug": set[str](),
}
_CLEARS = {f"-{tag}": sources for tag, sources in _STARTS.items() if sources} | {
    "-static": {STATIC}
}
_VALUES = ("stack", "vnl", "iface", "ifindex", "fqdn", "mac")


@dataclass(frozen=True)
class Token:
    """One tag.

    Attributes:
        tag: In front of the first equals sign.
        value: After it; None if there is none.
        position: Where it begins in the text, from 0.
    """

    tag: str
    value: str | None
    position: int


@dataclass(frozen=True)
class Parsed:
    """What a text says.

    Attributes:
        wanted: About the configuration.
        stack: The kind of stack to make; None if it does not say.
        vnl: The network to put it on; None if it does not say.
    """

    wanted: Wanted
    stack: str | None
    vnl: str | None


def tokens(text: str) -> Iterator[Token]:
    """Cut a text into its tags.

    Raises:
        ConfigStringError: A quote is not closed, or nothing follows a backslash.
    """
    position = 0
    while position < len(text):
        if text[position] in _SEPARATORS:
            position += 1
        elif text[position] == "#":
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        else:
            start = position
            word, position = _word(text, position)
            tag, equals, value = word.partition("=")
            yield Token(tag, value if equals else None, start)


def _word(text: str, position: int) -> tuple[str, int]:
    """Return the word that begins there, and where it ends."""
    found: list[str] = []
    while position < len(text):
        char = text[position]
        if char in _SEPARATORS or char == "#":
            break
        if char in _QUOTES:
            end = text.find(char, position + 1)
            if end < 0:
                reason = f"this {char} is not closed"
                raise ConfigStringError(text, position, reason)
            found.append(text[position + 1 : end])
            position = end + 1
        elif char == "\\":
            if position + 1 == len(text):
                reason = "nothing follows this backslash"
                raise ConfigStringError(text, position, reason)
            found.append(text[position + 1])
            position += 2
        else:
            found.append(char)
            position += 1
    return "".join(found), position


def parse(text: object) -> Parsed:
    """Return what a configuration string says.

    Raises:
        ConfigStringError: It makes no sense; the message shows where.
        ConfigurationError: It is no text.
    """
    if not isinstance(text, str):
        msg = f"{text!r}: expected a text like 'eth,dhcp' or 'eth,ip=10.0.0.1/24'"
        raise ConfigurationError(msg)
    reading = _Reading(text)
    for token in tokens(text):
        reading.take(token)
    return reading.result()


class _Reading:
    """What was understood so far."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._start: set[str] = set()
        self._clear: set[str] = set()
        self._flags: set[str] = set()
        self._values: dict[str, Token] = {}
        self._add: dict[str, list[Any]] = {tag: [] for tag in ITEMS}
        self._remove: dict[str, list[Any]] = {tag: [] for tag in ITEMS}

    def take(self, token: Token) -> None:
        sign = "-" if token.tag.startswith("-") else ""
        bare = token.tag.removeprefix("-")
        tag = _SYNONYMS.get(bare, bare)
        if tag in ITEMS:
            items = self._remove if sign else self._add
            items[tag].append(self._checked(token, ITEMS[tag]))
        elif not sign and tag in _VALUES:
            if tag in self._values:
                raise self._error(token, f"{tag}= is there twice")
            self._value_of(token)
            self._values[tag] = token
        elif not sign and tag in _STARTS:
            self._no_value(token)
            self._flags.add(tag)
            self._start |= _STARTS[tag]
        elif sign and f"-{tag}" in _CLEARS:
            self._no_value(token)
            self._clear |= _CLEARS[f"-{tag}"]
        elif "://" in token.tag:
            msg = f"a network is written as vnl={token.tag}, or given after the text"
            raise self._error(token, msg)
        else:
            known = [f"{each}=" for each in (*_VALUES, *ITEMS)]
            known += [*_STARTS, *(f"-{each}=" for each in ITEMS), *_CLEARS]
            raise self._error(
                token, f"no tag is called {token.tag!r}; there are {', '.join(known)}"
            )

    def result(self) -> Parsed:
        """Put it together.

        Raises:
            ConfigStringError: Some of it cannot be together.
        """
        if "iface" in self._values and "ifindex" in self._values:
            raise self._error(self._values["ifindex"], "either iface= or ifindex=")
        mac = self._values.get("mac")
        if mac is not None and ETH not in self._start:
            raise self._error(mac, "mac= is for eth: add 'eth'")
        wanted = Wanted(
            interface=self._text_of("iface"),
            index=self._optional("ifindex", _check_index),
            start=frozenset(self._start),
            clear=frozenset(self._clear),
            slaac=not self._flags.isdisjoint({"slaac", "ra"}),
            fqdn=self._optional("fqdn", check_fqdn),
            mac=self._optional("mac", parse_mac),
            add=Items(**{tag: tuple(found) for tag, found in self._add.items()}),
            remove=Items(**{tag: tuple(found) for tag, found in self._remove.items()}),
            debug="debug" in self._flags,
        )
        stack, vnl = self._text_of("stack"), self._text_of("vnl")
        return Parsed(wanted, stack, vnl)

    def _optional(self, tag: str, check: Callable[[str], _T]) -> _T | None:
        token = self._values.get(tag)
        return None if token is None else self._checked(token, check)

    def _text_of(self, tag: str) -> str | None:
        token = self._values.get(tag)
        return None if token is None else token.value

    def _value_of(self, token: Token) -> str:
        if not token.value:
            raise self._error(token, f"{token.tag}= needs a value")
        return token.value

    def _no_value(self, token: Token) -> None:
        if token.value is not None:
            raise self._error(token, f"{token.tag} takes no value")

    def _checked(self, token: Token, check: Callable[[str], _T]) -> _T:
        value = self._value_of(token)
        try:
            return check(value)
        except ConfigurationError as error:
            raise self._error(token, str(error)) from None

    def _error(self, token: Token, reason: str) -> ConfigStringError:
        return ConfigStringError(self._text, token.position, reason)


def _check_index(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        msg = f"ifindex={text!r}: must be a number from 1"
        raise ConfigurationError(msg)
    return int(text)
