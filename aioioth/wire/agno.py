"""The encryption of VDE's ``agno``, which needs to know nothing of the network.

A frame keeps its addresses. Behind an EtherType of the user's choice come 16 bytes,
encrypted with AES-128 in ECB mode: the frame's own EtherType, how many bytes were added
to the payload, 0, ``agno``, the Unix time in seconds, and 4 random bytes. The payload
follows, filled up with zeros to whole blocks, encrypted with AES-128 in CBC mode; its
first vector is that header, before it was encrypted.

This is weak, and is here because Debian's tools speak it: nothing in the payload is
authenticated, so frames can be changed on their way, and what was recorded can be sent
once more for two seconds. `aioioth.wire.seal` has neither flaw.

Source: the behaviour of Debian's libvdeplug-agno 0.1.1; FIPS 197, NIST SP 800-38A.
"""

from __future__ import annotations

import functools
import operator
import struct
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from aioioth.wire._opener import Opener, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["ETHERTYPE", "KEY_SIZE", "MAX_OVERHEAD", "AgnoCipher", "find_key"]

ETHERTYPE = 0xA6DE
KEY_SIZE = 16

_BLOCK = 16
_ETHERNET = 14
_HEADER = struct.Struct("!HBB4sI4s")
_MARK = b"agno"
# EtherTypes begin here; what is less is a length.
_FIRST_ETHERTYPE = 0x0600
_OLDEST, _NEWEST = 2, -1

MAX_OVERHEAD = _HEADER.size + _BLOCK - 1

# Why frames are dropped.
_UNDECIPHERABLE = "undecipherable"
_STALE = "stale"
_MALFORMED = "malformed"


def find_key(text: bytes) -> bytes | None:
    """Return the key in a key file: its first 32 hexadecimal digits.

    All other characters are passed over. None if there are too few.
    """
    digits = bytes(char for char in text if char in b"0123456789abcdefABCDEF")
    if len(digits) < 2 * KEY_SIZE:
        return None
    return bytes.fromhex(digits[: 2 * KEY_SIZE].decode())


class AgnoCipher(Opener):
    """Encrypts and decrypts frames; a `aioioth.nested.FrameTransform`.

    Args:
        key: 16 bytes.
        clock: Unix time in seconds.
        random: Returns that many random bytes.
        ethertype: Of encrypted frames; ``copy`` is that of the frame itself, ``rand``
            another one for each.

    Attributes:
        drops: Frames that were not decrypted, by cause.
    """

    def __init__(
        self,
        key: bytes,
        *,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        ethertype: int | Literal["copy", "rand"] = ETHERTYPE,
    ) -> None:
        # Takes some 50 ms the first time, and is not there for everybody.
        from cryptography.hazmat.primitives.ciphers import (
            Cipher,
            algorithms,
            modes,
        )

        super().__init__()
        self._clock = clock
        self._random = random
        self._ethertype = ethertype
        aes = algorithms.AES(key)
        header = Cipher(aes, modes.ECB())  # noqa: S305  (the format's)
        self._encrypt_header = header.encryptor().update
        self._decrypt_header = header.decryptor().update
        # One context for all frames: a new one for each costs 6 us more than to change
        # the block that it begins with. CBC combines a block with the one before; what
        # that was in the frame before is taken out, and the header put in its place.
        payload = Cipher(aes, modes.CBC(bytes(_BLOCK)))
        self._encrypt = payload.encryptor().update
        self._decrypt = payload.decryptor().update
        self._last_encrypted = self._last_decrypted = bytes(_BLOCK)

    def outgoing(self, frame: memoryview) -> Buffer | None:
        """Return a frame, encrypted."""
        payload = frame[_ETHERNET:]
        padding = -payload.nbytes % _BLOCK
        own_type = frame[12] << 8 | frame[13]
        now = int(self._clock()) & 0xFFFFFFFF
        header = _HEADER.pack(own_type, padding, 0, _MARK, now, self._random(4))
        encrypted = b""
        if payload.nbytes:
            body = b"".join((payload, bytes(padding)))
            first = _combined(body[:_BLOCK], header, self._last_encrypted)
            encrypted = self._encrypt(first + body[_BLOCK:])
            self._last_encrypted = encrypted[-_BLOCK:]
        shown_type = self._shown_type(own_type).to_bytes(2, "big")
        return b"".join(
            (frame[:12], shown_type, self._encrypt_header(header), encrypted)
        )

    @override
    def __repr__(self) -> str:
        return "<AgnoCipher>"  # without the key

    @override
    def _open(self, frame: memoryview) -> bytes:
        start = _ETHERNET + _BLOCK
        if frame.nbytes < start:
            raise RefusedError(_UNDECIPHERABLE)
        header = self._decrypt_header(frame[_ETHERNET:start])
        own_type, padding, _, mark, then, _ = _HEADER.unpack(header)
        if mark != _MARK:
            raise RefusedError(_UNDECIPHERABLE)
        age = (int(self._clock()) - then - _NEWEST) & 0xFFFFFFFF
        if age > _OLDEST - _NEWEST:
            raise RefusedError(_STALE)
        # A network may have made a short frame longer, up to Ethernet's 60 bytes.
        body = frame[start : frame.nbytes - (frame.nbytes - start) % _BLOCK]
        if padding >= _BLOCK or padding > body.nbytes:
            raise RefusedError(_MALFORMED)
        payload = self._decrypt(body)
        if payload:
            first = _combined(payload[:_BLOCK], header, self._last_decrypted)
            self._last_decrypted = bytes(body[-_BLOCK:])
            payload = (first + payload[_BLOCK:])[: len(payload) - padding]
        return b"".join((frame[:12], own_type.to_bytes(2, "big"), payload))

    def _shown_type(self, own_type: int) -> int:
        if self._ethertype == "copy":
            return own_type
        if self._ethertype == "rand":
            chosen = int.from_bytes(self._random(2), "big")
            return _FIRST_ETHERTYPE + chosen % (0x10000 - _FIRST_ETHERTYPE)
        return self._ethertype


def _combined(first: bytes, second: bytes, third: bytes) -> bytes:
    """Return the exclusive or of three blocks."""
    numbers = (int.from_bytes(block, "big") for block in (first, second, third))
    return functools.reduce(operator.xor, numbers).to_bytes(_BLOCK, "big")
