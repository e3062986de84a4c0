"""``agno://[KEYFILE][[ethtype=N]]{VNL}``: VDE's encryption, as Debian has it.

The key file holds 32 hexadecimal digits; without a name it is ``~/.vde_agno_key``::

    (umask 077; python3 -c 'import secrets; print(secrets.token_hex(16))' > KEYFILE)

``ethtype`` is the EtherType of encrypted frames: a number such as 0xa6de, which it is
otherwise, ``copy`` (the frame's own), ``ipv4``, ``ipv6``, or ``rand`` (another one each
time). Receivers take any. Both sides' clocks may differ by a second. The key file is
read again whenever the network was lost.

**This encryption is weak**: it keeps the curious out, but frames can be changed on
their way, and recorded ones sent once more for two seconds. Use it to talk to VDE's own
programs; among stacks use ``seal://``. As with VDE's own, a key file that others may
read is accepted; a warning in the log says so.

It needs the package ``cryptography``: ``pip install 'aioioth[crypto]'``.

Source: the behaviour of Debian's libvdeplug-agno 0.1.1; `aioioth.wire.agno`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aioioth.errors import BrokenTransportError
from aioioth.nested import NestedTransport
from aioioth.networks import find_nested
from aioioth.vnl import parse_bracket
from aioioth.wire.agno import ETHERTYPE, KEY_SIZE, MAX_OVERHEAD, AgnoCipher, find_key
from aioioth_transports._keyfile import read_key_file, require_cryptography

if TYPE_CHECKING:
    from aioioth.vnl import Address

__all__ = ["AgnoTransport"]

_DEFAULT_KEY_FILE = "~/.vde_agno_key"
_NAMED_TYPES = {"ipv4": 0x0800, "ipv6": 0x86DD}
# As the plug-in of Debian takes them, whose manual speaks of hexadecimal numbers only.
_NUMBER = re.compile("0[xX][0-9A-Fa-f]{1,4}|[1-9][0-9]{3,4}")
_FIRST_ETHERTYPE, _LAST_ETHERTYPE = 0x0600, 0xFFFF

_log = logging.getLogger("aioioth")


class AgnoTransport(NestedTransport):
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: What stands after ``agno://``.

    Raises:
        VnlError: It makes no sense.
        ConfigurationError: The network in braces makes none, or ``cryptography`` is not
            installed.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, options=["ethtype"], nested=True)
        self._vnl = f"agno://{address}"
        self._file = Path(parsed.base or _DEFAULT_KEY_FILE)
        self._ethertype = _ethertype(parsed)
        self._warned = False
        network = find_nested(parsed)
        require_cryptography("agno")
        super().__init__(network, self._cipher, MAX_OVERHEAD)

    def _cipher(self) -> AgnoCipher:
        text, mode = read_key_file(self._vnl, self._file)
        key = find_key(text)
        if key is None:
            reason = (
                f"the key file {self._file} has less than {2 * KEY_SIZE} hexadecimal "
                f"digits"
            )
            raise BrokenTransportError(self._vnl, reason)
        if mode & 0o077 and not self._warned:
            self._warned = True
            advice = "others may read the key file: chmod go= %s"
            _log.warning("%s: " + advice, self._vnl, self._file)
        return AgnoCipher(
            key, clock=time.time, random=os.urandom, ethertype=self._ethertype
        )


def _ethertype(parsed: Address) -> int | Literal["copy", "rand"]:
    text = parsed.options.get("ethtype")
    if text is None:
        return ETHERTYPE
    if text == "copy":
        return "copy"
    if text == "rand":
        return "rand"
    if text in _NAMED_TYPES:
        return _NAMED_TYPES[text]
    number = int(text, 0) if _NUMBER.fullmatch(text) else 0
    if not _FIRST_ETHERTYPE <= number <= _LAST_ETHERTYPE:
        expected = "copy, ipv4, ipv6, rand, or a number from 0x0600 to 0xffff"
        parsed.refuse("ethtype", f"ethtype: expected {expected}")
    return number
