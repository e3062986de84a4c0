"""Virtual Network Locators: ``[INTERFACE:]SCHEME://ADDRESS``, and what addresses hold.

Text in, values out; files and plug-ins are the business of `aioioth.networks`. What is
wrong is told with the place in the text where it was found.

Source: the VNL syntax of libvdeplug4, with the places tightened where its parser takes
anything: options are known by their exact names or by unambiguous beginnings, and what
follows a nested VNL is an error.
"""

from __future__ import annotations

import re
import string
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
_SCHEME = string.ascii_letters + string.digits + "+.-_"

# What no path can have, and what would break the lines that a VNL is shown in. Single
# surrogates are no characters; those that stand for undecodable bytes are all right.
_REFUSED = re.compile(r"[\0\n\r\ud800-\udc7f\udd00-\udfff]")

# One after the other they are a whole address. Whatever does not match is one of the
# characters that need something to follow.
_PIECE = re.compile(
    r"""(?P<plain>[^'"\\%\[\]{}/=]+|[\[\]{}/=])
    | '(?P<single>[^']*)'
    | "(?P<double>[^"]*)"
    | \\(?P<escaped>.)
    | (?P<encoded>(?:%(?!00)[0-9A-Fa-f]{2})+)""",
    re.VERBOSE,
)
_INCOMPLETE = {
    "'": "expected another ' for this one; a quote itself is written \\'",
    '"': 'expected another " for this one; a quote itself is written \\"',
    "\\": "expected a character after the backslash",
    "%": "expected two hexadecimal digits after '%', not 00; a '%' itself is '%25'",
}
# In what is nested only the end matters; the rest is for somebody else to understand.
_BRACE = re.compile(r"""'[^']*'|"[^"]*"|\\.|['"\\}]""")

_NUMBER = re.compile("[0-9]{1,15}")
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMGT]?)", re.IGNORECASE)
_MODE = re.compile("0?[0-7]{1,4}")


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
        VnlError: It has no scheme before ``://``, or characters that no VNL has.
    """
    _refuse_characters(text)
    interface, start = None, 0
    if match := _INTERFACE.match(text):
        interface, start = match["name"], match.end()
    scheme, separator, address = text[start:].partition("://")
    if not separator:
        return Vnl(interface, None, scheme)
    strange = scheme.lstrip(_SCHEME)
    if strange or not scheme:
        reason = (
            "expected a scheme before '://', of letters, digits and '+.-_'; "
            "a path with '://' in it is vde://PATH"
        )
        raise VnlError(text, start + len(scheme) - len(strange), reason)
    return Vnl(interface, scheme, address)


def _refuse_characters(text: str) -> None:
    if refused := _REFUSED.search(text):
        reason = "a VNL has no NUL, no line break and no single surrogate in it"
        raise VnlError(text, refused.start(), reason)


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
            self.refuse(name, f"{_label(name)}expected a number from {low} to {high}")
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
            reason = f"{_label(name)}expected a size up to {high} bytes, such as 256K"
            self.refuse(name, reason)
        return size

    def octal(self, name: str, default: int) -> int:
        """Return file permissions.

        Raises:
            VnlError: They are not octal.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if not _MODE.fullmatch(text):
            reason = f"{_label(name)}expected octal permissions, such as 0660"
            self.refuse(name, reason)
        return int(text, 8)


def _label(name: str) -> str:
    return f"{name}: " if name else ""


class _Piece(NamedTuple):
    """A stretch of an address: one character with a meaning, or text without."""

    text: str  # quotes and escapes undone
    start: int
    end: int
    is_quoted: bool


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
    pieces, inner = _split_nested(address, wanted=nested)
    base, *items = _split(pieces, "/")
    bracket = _find(base, "[")
    if bracket != -1 and (options or flags):
        reason = "options follow a '/' here, not a '['; a bracket itself is '\\['"
        raise VnlError(address, base[bracket].start, reason)
    return _collect(address, base, items, (options, flags, False), inner)


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
    pieces, inner = _split_nested(address, wanted=nested)
    opening = _find(pieces, "[")
    if opening == -1:
        return _collect(address, pieces, [], (options, flags, unnamed), inner)
    base, bracket, rest = pieces[:opening], pieces[opening], pieces[opening + 1 :]
    closing = _find(rest, "]")
    if closing == -1:
        raise VnlError(address, bracket.start, "expected a ']' for this '['")
    if closing + 1 < len(rest):
        reason = "nothing may follow the options; a bracket in a path is '\\['"
        raise VnlError(address, rest[closing].end, reason)
    items = _split(rest[:closing], "/")
    return _collect(address, base, items, (options, flags, unnamed), inner)


class _Nested(NamedTuple):
    """What stands in braces, as it was written."""

    text: str
    start: int


def _split_nested(address: str, *, wanted: bool) -> tuple[list[_Piece], _Nested | None]:
    """Take what is before the braces apart, and leave what is in them alone."""
    _refuse_characters(address)
    pieces: list[_Piece] = []
    for piece in _scan(address):
        if wanted and _means(piece, "{"):
            end = _find_closing(address, piece.start)
            return pieces, _Nested(address[piece.end : end], piece.end)
        pieces.append(piece)
    if wanted:
        raise VnlError(address, len(address), "expected a network in braces: {VNL}")
    return pieces, None


def _scan(text: str) -> Iterator[_Piece]:
    """Undo quotes and escapes."""
    place = 0
    while place < len(text):
        match = _PIECE.match(text, place)
        if match is None or match.lastgroup is None:
            raise VnlError(text, place, _INCOMPLETE[text[place]])
        kind = match.lastgroup
        found = match[kind]
        if kind == "encoded":
            data = bytes.fromhex(found.replace("%", ""))
            found = data.decode("utf-8", "surrogateescape")
        yield _Piece(found, place, match.end(), kind != "plain")
        place = match.end()


def _find_closing(address: str, opening: int) -> int:
    """Return the place of the last brace, which has to be the end."""
    last = -1
    for match in _BRACE.finditer(address, opening + 1):
        if match[0] == "}":
            last = match.start()
        elif match[0] in _INCOMPLETE:
            raise VnlError(address, match.start(), _INCOMPLETE[match[0]])
    if last == -1:
        raise VnlError(address, opening, "expected a '}' for this '{'")
    if last + 1 < len(address):
        raise VnlError(address, last + 1, "nothing may follow the nested VNL")
    return last


def _means(piece: _Piece, char: str) -> bool:
    return piece.text == char and not piece.is_quoted


def _find(pieces: Sequence[_Piece], wanted: str) -> int:
    for at, piece in enumerate(pieces):
        if _means(piece, wanted):
            return at
    return -1


def _split(pieces: Sequence[_Piece], separator: str) -> list[list[_Piece]]:
    parts: list[list[_Piece]] = [[]]
    for piece in pieces:
        if _means(piece, separator):
            parts.append([])
        else:
            parts[-1].append(piece)
    return parts


def _collect(
    address: str,
    base: Sequence[_Piece],
    items: Sequence[Sequence[_Piece]],
    known: tuple[Sequence[str], Sequence[str], bool],
    nested: _Nested | None,
) -> Address:
    options, flags, unnamed = known
    names = [*dict.fromkeys([*options, *flags])]
    values: dict[str, str] = {}
    places = {"": base[0].start if base else 0}
    if nested is not None:
        places["{"] = nested.start
    for item in filter(None, items):
        equals = _find(item, "=")
        name = _text(item if equals == -1 else item[:equals])
        place = item[0].start
        if equals == -1 and unnamed and name not in names:
            values[""], places[""] = name, place
            continue
        name = _full_name(address, place, name, names)
        if equals == -1 and name not in flags:
            raise VnlError(address, item[-1].end, f"{name} needs a value: {name}=...")
        if equals != -1 and name not in options:
            raise VnlError(address, item[equals].start, f"{name} takes no value")
        values[name] = "" if equals == -1 else _text(item[equals + 1 :])
        places[name] = place if equals == -1 else item[equals].end
    inner = None if nested is None else nested.text
    return Address(address, _text(base), values, inner, places)


def _text(pieces: Sequence[_Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _full_name(address: str, place: int, name: str, known: list[str]) -> str:
    if name in known:
        return name
    found = [each for each in known if each.startswith(name)]
    if len(found) == 1 and name:
        return found[0]
    if not name:
        reason = "expected an option's name before '='"
    elif found:
        reason = f"{name!r} can be {' or '.join(found)}: say which"
    elif known:
        reason = f"no option {name!r}; known: {', '.join(known)}"
    else:
        reason = f"no option {name!r}: there are none"
    raise VnlError(address, place, reason)
