"""Frames that are sealed: encrypted, authenticated, and accepted once.

Sealed, a frame keeps its addresses, so that switches can learn them, and has EtherType
0x88B6. Then follow a version (1), the sender's session (16 random bytes), the number of
the frame in it (4 bytes), and, encrypted with AES-256-GCM, the time in milliseconds
since 1970 (8 bytes), the frame's own EtherType and its payload; the last 16 bytes
authenticate it all, the addresses too. Integers are big-endian.

Each sender has a session of its own, so senders that share a key need not know of each
other. A session's key is HKDF-SHA256(key, salt=session, info="aioioth seal 1"), and
a frame's number is its nonce; a session ends before they are used up.

A receiver takes a frame if it is authentic, its time is within 30 seconds of its own,
and its number was not seen in that session, in a window of 1024. Only authentic frames
make sessions known, and as many as a table holds. A session is forgotten when nothing
came for so long that all that was ever recorded of it is too old.

Source: this format is aioioth's own. NIST SP 800-38D (GCM), RFC 5869 (HKDF), RFC 4303
appendix A2 (the window); 0x88B6 is IEEE 802's Local Experimental EtherType 2.
"""

from __future__ import annotations

import hmac
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from aioioth.wire._opener import Opener, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["ETHERTYPE", "KEY_SIZE", "OVERHEAD", "ReplayWindow", "Sealer", "parse_key"]

ETHERTYPE = 0x88B6
KEY_SIZE = 32

_VERSION = 1
_SESSION_SIZE = 16
_TAG_SIZE = 16
_ETHERNET = 14
_HEADER = struct.Struct(f"!HB{_SESSION_SIZE}sI")  # behind the addresses
_TIME = struct.Struct("!Q")
_CLEAR = 12 + _HEADER.size  # authenticated, not encrypted
_SHORTEST = _CLEAR + _TIME.size + 2 + _TAG_SIZE
_INFO = b"aioioth seal 1"
# As many frames as one key may be used for, and the number's 4 bytes: 12 hours of what
# fills a gigabit.
_SESSION_FRAMES = 1 << 32

# Clocks may differ by this, delays included. Twice as long after it came in, a frame
# is too old whatever the sender's clock said.
_SKEW_MS = 30_000
_IDLE_MS = 2 * _SKEW_MS
_MAX_SESSIONS = 1024
_WINDOW = 1024

OVERHEAD = _SHORTEST - _ETHERNET

# Why frames are dropped.
_STALE = "stale"
_NOT_SEALED = "not sealed"
_REPLAYED = "replayed"
_FORGED = "forged"
_TOO_MANY = "too many peers"

_KEY = re.compile(rb"\s*([0-9A-Fa-f]{64})\s*")


def parse_key(text: bytes) -> bytes | None:
    """Return the key in a key file: 64 hexadecimal digits, nothing else; or None."""
    match = _KEY.fullmatch(text)
    return bytes.fromhex(match[1].decode()) if match else None


class ReplayWindow:
    """Which numbers were seen: the highest, and a bit for each of some before it."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def is_new(self, number: int) -> bool:
        """Whether a number was not seen; those too far back count as seen."""
        behind = self._highest - number
        return behind < 0 or (behind < _WINDOW and not self._seen >> behind & 1)

    def add(self, number: int) -> None:
        """Note that a number that `is_new` was seen."""
        ahead = number - self._highest
        if ahead <= 0:
            self._seen |= 1 << -ahead
        else:
            # Not further than the window is wide, however far a sender jumps.
            kept = self._seen << ahead if ahead < _WINDOW else 0
            self._seen = kept & ((1 << _WINDOW) - 1) | 1
            self._highest = number


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...
    def decrypt(
        self, nonce: bytes, data: memoryview, associated_data: memoryview
    ) -> bytes: ...


@dataclass(repr=False)
class _Session:
    """Another sender's."""

    aead: _Aead
    window: ReplayWindow = field(default_factory=ReplayWindow)
    heard: int = 0  # in milliseconds


class Sealer(Opener):
    """Seals and opens frames; a `aioioth.nested.FrameTransform`.

    Args:
        key: 32 bytes.
        clock: Unix time in seconds.
        random: Returns that many random bytes, fit for cryptography.
        max_sessions: Most senders that are told apart.
        session_frames: Frames after which our own session ends.

    Attributes:
        drops: Frames that were not opened, by cause.
    """

    def __init__(
        self,
        key: bytes,
        *,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        max_sessions: int = _MAX_SESSIONS,
        session_frames: int = _SESSION_FRAMES,
    ) -> None:
        # Takes some 50 ms the first time, and is not there for everybody.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import (
            AESGCM,
        )

        super().__init__()
        self._forged = InvalidTag
        self._aead: Callable[[bytes], _Aead] = AESGCM
        self._key = key
        self._clock = clock
        self._random = random
        self._max_sessions = max_sessions
        self._session_frames = session_frames
        self._sessions: dict[bytes, _Session] = {}
        self._room_at = 0
        self._session, self._number = b"", 0
        self._begin_session()

    def outgoing(self, frame: memoryview) -> Buffer | None:
        """Return a frame, sealed."""
        if self._number == self._session_frames:
            self._begin_session()
        number, self._number = self._number, self._number + 1
        header = _HEADER.pack(ETHERTYPE, _VERSION, self._session, number)
        clear = b"".join((frame[:12], header))
        secret = b"".join((_TIME.pack(self._now()), frame[12:]))
        return clear + self._own.encrypt(_nonce(number), secret, clear)

    @override
    def __repr__(self) -> str:
        return f"<Sealer {len(self._sessions)} peers>"  # without the key

    @override
    def _open(self, frame: memoryview) -> bytes:
        if frame.nbytes < _SHORTEST:
            raise RefusedError(_NOT_SEALED)
        ethertype, version, name, number = _HEADER.unpack_from(frame, 12)
        if ethertype != ETHERTYPE or version != _VERSION:
            raise RefusedError(_NOT_SEALED)
        session = self._sessions.get(name)
        known = session is not None
        if session is None:
            session = _Session(self._session_aead(name))
        elif not session.window.is_new(number):
            raise RefusedError(_REPLAYED)
        try:
            clear, hidden = frame[:_CLEAR], frame[_CLEAR:]
            secret = session.aead.decrypt(_nonce(number), hidden, clear)
        except self._forged:
            raise RefusedError(_FORGED) from None
        now = self._now()
        if abs(now - _TIME.unpack_from(secret)[0]) > _SKEW_MS:
            raise RefusedError(_STALE)
        if not known:
            self._admit(name, session, now)
        session.window.add(number)
        session.heard = max(session.heard, now)
        return b"".join((frame[:12], memoryview(secret)[_TIME.size :]))

    def _admit(self, name: bytes, session: _Session, now: int) -> None:
        """Know a session from now on; what came in it was genuine and fresh."""
        if name in self._ours:
            raise RefusedError(_REPLAYED)  # it came back to us
        if not self._has_room(now):
            raise RefusedError(_TOO_MANY)
        self._sessions[name] = session

    def _begin_session(self) -> None:
        before, self._session = self._session, self._random(_SESSION_SIZE)
        # All that was sent in the one before the last is too old.
        self._ours = {before, self._session}
        self._own = self._session_aead(self._session)
        self._number = 0

    def _session_aead(self, name: bytes) -> _Aead:
        extracted = hmac.digest(name, self._key, "sha256")
        return self._aead(hmac.digest(extracted, _INFO + b"\1", "sha256"))

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _has_room(self, now: int) -> bool:
        """Whether one more session can be known; forgets those that have ended."""
        if len(self._sessions) < self._max_sessions:
            return True
        if now > self._room_at:
            self._sessions = {
                name: session
                for name, session in self._sessions.items()
                if now - session.heard <= _IDLE_MS
            }
            # Until then there is no point in looking, for each frame.
            heard = (session.heard for session in self._sessions.values())
            self._room_at = min(heard, default=now) + _IDLE_MS
        return len(self._sessions) < self._max_sessions


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
