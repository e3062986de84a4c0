"""DNS names as they are on the wire, where other protocols carry them.

A name is its labels, each behind a byte that has its length, and a zero byte. Where
compression is allowed, a name may end in a pointer to an earlier place instead: two
bytes that begin with two bits set.

Names come from the network and go into files as ``resolv.conf``, so nothing but
letters, digits, hyphens and underscores is taken for a label.

Source: RFC 1035 sections 3.1 and 4.1.4; RFC 8415 section 10 and RFC 8106 section 5.2
(not compressed); RFC 3397 section 2 (compressed); RFC 4704 section 4.2 (not ended).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["pack_name", "pack_names", "parse_name", "parse_names"]

_LONGEST_LABEL = 63
_LONGEST_NAME = 255
_POINTER = 0xC0
# More than anybody has; each costs some time, and a pointer makes long ones of few
# bytes.
_MOST_NAMES = 256
_MOST_POINTERS = 127

_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")


def pack_name(name: str, *, ended: bool = True) -> bytes:
    """Return a name's bytes.

    Args:
        name: With or without the dot at its end: ``www.example.org``.
        ended: Whether the zero byte is there: a name without it is only the beginning
            of one, and somebody else knows the rest.

    Raises:
        ValueError: It is no name: an empty or too long label, other characters than
            letters, digits, hyphens and underscores, or more than 255 bytes.
    """
    packed = b""
    for label in name.removesuffix(".").split("."):
        try:
            raw = label.encode("ascii")
        except UnicodeEncodeError:
            raw = b""
        if not _LABEL.fullmatch(raw):
            msg = (
                f"{name!r} is no DNS name: each label needs 1 to {_LONGEST_LABEL} "
                f"letters, digits, hyphens or underscores"
            )
            raise ValueError(msg)
        packed += bytes([len(raw)]) + raw
    if len(packed) >= _LONGEST_NAME:
        msg = f"{name!r} is longer than a DNS name's {_LONGEST_NAME} bytes"
        raise ValueError(msg)
    return packed + b"\0" if ended else packed


def pack_names(names: Iterable[str]) -> bytes:
    """Return the bytes of names behind each other, not compressed.

    Raises:
        ValueError: One is no name, as for `pack_name`.
    """
    return b"".join(pack_name(name) for name in names)


def parse_name(data: bytes) -> str:
    """Return the one name that fills some bytes, not compressed.

    It may lack its zero byte, if that was all that was known of it.

    Returns:
        The name, without a dot at its end; empty for no labels at all.

    Raises:
        ValueError: It is no name.
    """
    if not data:
        return ""
    name, end = _name_at(data, 0, compressed=False, ended=False)
    if end != len(data):
        msg = f"{len(data) - end} bytes behind a DNS name"
        raise ValueError(msg)
    return name


def parse_names(data: bytes, *, compressed: bool = False) -> tuple[str, ...]:
    """Return the names that fill some bytes.

    Args:
        data: Names behind each other. Zero bytes between and behind them are padding.
        compressed: Whether there may be pointers; they count from the first byte.

    Returns:
        The names, without a dot at their ends, as often as they are there.

    Raises:
        ValueError: One is no name, or there are too many.
    """
    names: list[str] = []
    offset = 0
    while offset < len(data):
        if data[offset] == 0:
            offset += 1
            continue
        if len(names) == _MOST_NAMES:
            msg = f"more than {_MOST_NAMES} DNS names"
            raise ValueError(msg)
        name, offset = _name_at(data, offset, compressed=compressed, ended=True)
        if name:
            names.append(name)
    return tuple(names)


def _name_at(
    data: bytes, start: int, *, compressed: bool, ended: bool
) -> tuple[str, int]:
    """Return the name at a place, and where what is behind it begins."""
    labels: list[bytes] = []
    size = 1  # the zero byte
    at = start
    end: int | None = None  # behind the first pointer
    pointers = 0
    while True:
        if at >= len(data):
            if not ended and at == len(data) and end is None:
                break
            msg = "a DNS name is cut off"
            raise ValueError(msg)
        length = data[at]
        if length >= _POINTER and compressed:
            end = at + 2 if end is None else end
            pointers += 1
            at = _target(data, at, pointers)
            continue
        at += 1
        if length == 0:
            break
        labels.append(_label(data, at, length))
        at += length
        size += 1 + length
        if size > _LONGEST_NAME:
            msg = f"a DNS name of more than {_LONGEST_NAME} bytes"
            raise ValueError(msg)
    return b".".join(labels).decode("ascii"), at if end is None else end


def _target(data: bytes, at: int, pointers: int) -> int:
    """Return where a pointer leads: back, so that it comes to an end."""
    target = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
    if at + 2 > len(data) or target >= at or pointers > _MOST_POINTERS:
        msg = "a pointer in a DNS name does not lead back to another one"
        raise ValueError(msg)
    return target


def _label(data: bytes, at: int, length: int) -> bytes:
    label = data[at : at + length]
    if length > _LONGEST_LABEL or len(label) != length or not _LABEL.fullmatch(label):
        msg = f"{label[:_LONGEST_LABEL]!r} is no label of a DNS name, or is cut off"
        raise ValueError(msg)
    return label
