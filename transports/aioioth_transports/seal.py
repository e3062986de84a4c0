"""``seal://KEYFILE{VNL}``: a network of those who have the key.

Frames are encrypted and authenticated, and each is accepted once. The key file holds 64
hexadecimal digits; it is refused if others than its owner may use it::

    (umask 077; python3 -c 'import secrets; print(secrets.token_hex())' > KEYFILE)

Who lacks the key cannot read frames, make or change any, or have one accepted twice.
The clocks of all must agree within 30 seconds; what is older is refused. In `stats` the
drops say what came: "not sealed", "forged" (also: another key), "replayed", "stale",
"too many peers" (1024).

It does **not** hide who talks to whom and how much: MAC addresses, lengths and times
are seen, and whoever carries the frames can hold them back or reorder them. Who was
plugged in anew does not know what came before: what was sent in the last 30 seconds can
then be sent to it once more. Whoever can set a clock back can do so with older frames.
Those who have the key are not protected from each other, and who gets hold of it can
read what was recorded. Change it by giving all a new file: it is read again whenever
the network is lost. A virtual machine must not be resumed twice from one snapshot.

It needs the package ``cryptography``: ``pip install 'aioioth[crypto]'``. A frame grows
by 47 bytes.

Source: `aioioth.wire.seal`; the format is aioioth's own.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from aioioth.errors import BrokenTransportError
from aioioth.nested import NestedTransport
from aioioth.networks import find_nested
from aioioth.vnl import parse_bracket
from aioioth.wire.seal import KEY_SIZE, OVERHEAD, Sealer, parse_key
from aioioth_transports._keyfile import read_key_file, require_cryptography

__all__ = ["SealTransport"]


class SealTransport(NestedTransport):
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: What stands after ``seal://``.

    Raises:
        VnlError: It makes no sense.
        ConfigurationError: The network in braces makes none, or ``cryptography`` is not
            installed.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, nested=True)
        if not parsed.base:
            parsed.refuse("", "expected a key file: seal://KEYFILE{VNL}")
        self._vnl = f"seal://{address}"
        self._file = Path(parsed.base)
        network = find_nested(parsed)
        require_cryptography("seal")
        super().__init__(network, self._sealer, OVERHEAD, opaque=True)

    def _sealer(self) -> Sealer:
        text, mode = read_key_file(self._vnl, self._file)
        if mode & 0o077:
            reason = f"others may use the key file: chmod go= {self._file}"
            raise BrokenTransportError(self._vnl, reason, errno=errno.EACCES)
        key = parse_key(text)
        if key is None:
            reason = (
                f"the key file {self._file} must hold {2 * KEY_SIZE} hexadecimal "
                f"digits and nothing else"
            )
            raise BrokenTransportError(self._vnl, reason)
        return Sealer(key, clock=time.time, random=os.urandom)
