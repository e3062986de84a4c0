"""Virtual Network Locators: ``[INTERFACE:]SCHEME://ADDRESS``, and what addresses hold.

Text in, values out; files and plug-ins are the business of `aioioth.networks`. What is
wrong is told with the place in the text where it was found.

Source: the VNL syntax of libvdeplug4, with the places tightened where its parser takes
anything: options are known by their exact names or by unambiguous beginnings, and what
follows a nested VNL is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from typing_extensions import override

from aioioth.errors import VnlError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Address", "Vnl", "parse_bracket", "parse_slash", "parse_vnl"]

# The name ends at a colon that does not belong to "://". A path cannot be taken for a
# name, since a name has no slash.
_INTERFACE = re.compile(r"(?P<name>[^/:\[\]{}'\"]+):(?!//)")
_REFUSED = re.compile(r"[\0\n\r]")
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_NUMBER = re.compile("[0-9]{1,15}")
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMGT]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Vnl:
    """A locator, taken apart.

    Attributes:
        interface: Name of the interface it is meant for; None if it does not say.
        scheme: Selects the transport; None for a plain path, and for no text at all.
        address: What the transport makes sense of, options included.
    """

    interface: str | None
    scheme: str | None
    address: str

    @override
    def __str__(self) -> str:
        return f"{self.scheme or 'vde'}://{self.address}"


def parse_vnl(text: str) -> Vnl:
    """Take a VNL apart.

    Args:
        text: For example ``vde:///tmp/sw``, ``/tmp/sw`` or ``eth1:memory://lan``.

    Raises:
        VnlError: There is a NUL or a line break in it.
    """
    if refused := _REFUSED.search(text):
        reason = "a VNL has no NUL and no line break in it"
        raise VnlError(text, refused.start(), reason)
    interface = None
    if match := _INTERFACE.match(text):
        interface = match["name"]
        text = text[match.end() :]
    scheme, separator, address = text.partition("://")
    if not separator:
        return Vnl(interface, None, text)
    return Vnl(interface, scheme, address)


@dataclass(frozen=True)
class Address:
    """An address, taken apart.

    Attributes:
        text: All of it, as it was written.
        base: What stands before the options, without quotes.
        options: Value by full name. Empty for one without a value.
        nested: The VNL in braces as it was written; None if there is none.
    """

    text: str
    base: str
    options: Mapping[str, str]
    nested: str | None
    _places: Mapping[str, int] = field(repr=False)

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Raise an error that points at an option's value.

        Args:
            name: Of the option; ``""`` for a lone value or the base, ``"{"`` for the
                nested VNL.
            reason: What was expected, in words.

        Raises:
            VnlError: Always.
        """
        raise VnlError(self.text, self._places.get(name, 0), reason)

    def around_nested(self) -> tuple[str, str]:
        """Return what stands before and after the nested VNL."""
        start = self._places.get("{", len(self.text))
        return self.text[:start], self.text[start + len(self.nested or "") :]

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """Return a number from ``low`` to ``high``; decimal.

        Raises:
            VnlError: It is none.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if not (_NUMBER.fullmatch(text) and low <= int(text) <= high):
            self.refuse(name, f"{name}: expected a number from {low} to {high}")
        return int(text)

    def size(self, name: str, default: int, *, high: int) -> int:
        """Return a number of bytes up to ``high``; K, M, G and T are powers of 1024.

        Raises:
            VnlError: It is none.
        """
        text = self.options.get(name)
        if text is None:
            return default
        match = _SIZE.fullmatch(text)
        size = high + 1
        if match is not None:
            power = " KMGT".index(match["unit"].upper() or " ")
            size = int(match["number"]) << 10 * power
        if size > high:
            self.refuse(name, f"{name}: expected a size up to {high}, such as 256K")
        return size

    def octal(self, name: str, default: int) -> int:
        """Return file permissions.

        Raises:
            VnlError: They are not octal.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if not re.fullmatch("0?[0-7]{1,3}", text):
            self.refuse(name, f"{name}: expected octal permissions, such as 0660")
        return int(text, 8)


class _Char(NamedTuple):
    """A character that a quote or an escape may have made an ordinary one."""

    char: str
    place: int
    ordinary: bool


def parse_slash(
    address: str,
    *,
    options: Sequence[str] = (),
    flags: Sequence[str] = (),
    nested: bool = False,
) -> Address:
    r"""Take ``BASE/option=value/flag{VNL}`` apart.

    Quotes, ``\x`` and ``%xx`` make characters ordinary ones. Of a repeated option the
    last one counts. Empty options are none.

    Args:
        address: The part of a VNL after ``://``.
        options: Names of options with a value.
        flags: Names of options without; in both, if the value may be left out.
        nested: Whether a VNL in braces must follow.

    Raises:
        VnlError: It makes no sense; the place is in the address.
    """
    chars, inner, start = _split_nested(address, wanted=nested)
    base, *items = _split(chars, "/")
    return _collect(address, base, items, (options, flags, False), inner, start)


def parse_bracket(
    address: str,
    *,
    options: Sequence[str] = (),
    flags: Sequence[str] = (),
    unnamed: bool = False,
    nested: bool = False,
) -> Address:
    """Take ``BASE[option=value/flag]{VNL}`` apart; see `parse_slash`.

    Args:
        address: The part of a VNL after ``://``.
        options: Names of options with a value.
        flags: Names of options without; in both, if the value may be left out.
        unnamed: Whether a lone value may stand there; returned under the name ``""``.
        nested: Whether a VNL in braces must follow.

    Raises:
        VnlError: It makes no sense; the place is in the address.
    """
    chars, inner, start = _split_nested(address, wanted=nested)
    opening = _find(chars, "[")
    if opening == -1:
        return _collect(address, chars, [], (options, flags, unnamed), inner, start)
    base, bracket, rest = chars[:opening], chars[opening], chars[opening + 1 :]
    if not rest or rest[-1].ordinary or rest[-1].char != "]":
        if (closing := _find(rest, "]")) != -1:
            reason = "nothing may follow the options: quote it, or put it before '['"
            raise VnlError(address, rest[closing].place + 1, reason)
        raise VnlError(address, bracket.place, "expected a ']' for this '['")
    items = _split(rest[:-1], "/")
    return _collect(address, base, items, (options, flags, unnamed), inner, start)


def _scan(text: str) -> Iterator[_Char]:
    """Undo quotes and escapes."""
    place = 0
    while place < len(text):
        char = text[place]
        if char in "'\"":
            end = text.find(char, place + 1)
            if end == -1:
                raise VnlError(text, place, f"expected another {char} for this one")
            yield from (_Char(text[at], at, True) for at in range(place + 1, end))
            place = end + 1
        elif char == "\\":
            if place + 1 == len(text):
                raise VnlError(text, place, "expected a character after the backslash")
            yield _Char(text[place + 1], place, True)
            place += 2
        elif char == "%":
            match = _ESCAPES.match(text, place)
            if match is None or "%00" in match[0]:
                reason = "expected two hexadecimal digits, not 00; '%25' is a '%'"
                raise VnlError(text, place, reason)
            data = bytes.fromhex(match[0].replace("%", ""))
            decoded = data.decode("utf-8", "surrogateescape")
            yield from (_Char(each, place, True) for each in decoded)
            place = match.end()
        else:
            yield _Char(char, place, False)
            place += 1


def _split_nested(address: str, *, wanted: bool) -> tuple[list[_Char], str | None, int]:
    """Return what is before the braces, the text in them, and where it begins."""
    chars = list(_scan(address))
    if not wanted:
        return chars, None, 0
    opening = _find(chars, "{")
    if opening == -1:
        raise VnlError(address, len(address), "expected a network in braces: {VNL}")
    place = chars[opening].place
    if chars[-1].ordinary or chars[-1].char != "}":
        closing = max((at.place for at in chars if at.char == "}"), default=-1)
        if closing > place:
            raise VnlError(address, closing + 1, "nothing may follow the nested VNL")
        raise VnlError(address, place, "expected a '}' for this '{'")
    return chars[:opening], address[place + 1 : -1], place + 1


def _find(chars: Sequence[_Char], wanted: str) -> int:
    for at, char in enumerate(chars):
        if char.char == wanted and not char.ordinary:
            return at
    return -1


def _split(chars: Sequence[_Char], separator: str) -> list[list[_Char]]:
    parts: list[list[_Char]] = [[]]
    for char in chars:
        if char.char == separator and not char.ordinary:
            parts.append([])
        else:
            parts[-1].append(char)
    return parts


def _collect(  # noqa: PLR0917  (one way in for both forms)
    address: str,
    base: Sequence[_Char],
    items: Sequence[Sequence[_Char]],
    known: tuple[Sequence[str], Sequence[str], bool],
    nested: str | None,
    start: int,
) -> Address:
    options, flags, unnamed = known
    values: dict[str, str] = {}
    places = {"": base[0].place if base else 0, "{": start}
    for item in filter(None, items):
        equals = _find(item, "=")
        name = _text(item if equals == -1 else item[:equals])
        place = item[0].place
        if equals == -1 and unnamed and name not in flags:
            values[""], places[""] = name, place
            continue
        name = _full_name(address, place, name, [*dict.fromkeys([*options, *flags])])
        if equals == -1 and name not in flags:
            end = item[-1].place + 1
            raise VnlError(address, end, f"{name} needs a value: {name}=...")
        if equals != -1 and name not in options:
            raise VnlError(address, item[equals].place, f"{name} takes no value")
        values[name] = "" if equals == -1 else _text(item[equals + 1 :])
        places[name] = item[equals].place + 1 if equals != -1 else place
    return Address(address, _text(base), values, nested, places)


def _text(chars: Sequence[_Char]) -> str:
    return "".join(char.char for char in chars)


def _full_name(address: str, place: int, name: str, known: list[str]) -> str:
    if name in known:
        return name
    found = [each for each in known if name and each.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        reason = f"{name!r} can be {' or '.join(found)}: say which"
    elif known:
        reason = f"no option {name!r}; known: {', '.join(known)}"
    else:
        reason = f"no option {name!r}: there are none"
    raise VnlError(address, place, reason)
