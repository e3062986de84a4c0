"""Keys in files, and cryptography: what ``agno://`` and ``seal://`` need besides."""

from __future__ import annotations

import os
import stat
from importlib.util import find_spec
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

# Longer than any key with a remark beside it.
_MAX_KEY_FILE = 4096


def require_cryptography(scheme: str) -> None:
    """Find out whether the package ``cryptography`` is installed; it is not imported.

    Args:
        scheme: What needs it.

    Raises:
        ConfigurationError: It is not; the message says what to do.
    """
    try:
        found = find_spec("cryptography")
    except ValueError:  # somebody forbade it in sys.modules
        found = None
    if found is None:
        msg = (
            f"{scheme}:// needs the package 'cryptography', which is not installed: "
            f"pip install 'aioioth[crypto]'"
        )
        raise ConfigurationError(msg)


def read_key_file(vnl: str, file: Path) -> tuple[bytes, int]:
    """Return what is in a key file, and its permissions.

    Args:
        vnl: Of the network, for error messages.
        file: Its name; a ``~`` in front is the user's home.

    Raises:
        BrokenTransportError: It cannot be read, or is no regular file.
    """
    try:
        text, mode = read_regular(file.expanduser(), _MAX_KEY_FILE)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no such user
        code = error.errno if isinstance(error, OSError) else None
        told = os.strerror(code) if code is not None else error
        reason = f"the key file {file} cannot be read: {told}"
        raise BrokenTransportError(vnl, reason, errno=code) from error
    if text is None:
        # It is read anew each time the network was lost.
        reason = f"the key file {file} must be a regular file"
        raise BrokenTransportError(vnl, reason)
    return text, mode


def read_regular(file: Path, limit: int) -> tuple[bytes | None, int]:
    """Return the beginning of a file, None if it is no regular one, and its mode.

    Args:
        file: Its name.
        limit: Bytes to read at most.

    Raises:
        OSError: It cannot be read.
    """
    # Not to be held up by a FIFO.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(file, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        return os.read(descriptor, limit) if stat.S_ISREG(mode) else None, mode
    finally:
        os.close(descriptor)
