"""Virtual Network Locators: ``[INTERFACE:]SCHEME://ADDRESS``.

Source: the VNL syntax of libvdeplug4. What aioioth reads so far: schemes, plain paths
(they mean ``vde://``), an interface's name in front, and bracket options.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Vnl", "parse_vnl", "split_bracket_options"]

# The name ends at a colon that does not belong to "://". A path cannot be taken for a
# name, since a name has no slash.
_INTERFACE = re.compile(r"(?P<name>[^/:\[\]]+):(?!//)")


@dataclass(frozen=True)
class Vnl:
    """A locator, taken apart.

    Attributes:
        interface: Name of the interface it is meant for; None if it does not say.
        scheme: Selects the transport; ``vde`` for a plain path.
        address: What the transport makes sense of, options included.
    """

    interface: str | None
    scheme: str
    address: str

    @override
    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def parse_vnl(text: str) -> Vnl:
    """Take a VNL apart.

    Args:
        text: For example ``vde:///tmp/sw``, ``/tmp/sw`` or ``eth1:memory://lan``.

    Raises:
        ConfigurationError: There is a NUL or a line break in it.
    """
    if set(text) & {"\0", "\n", "\r"}:
        msg = f"the VNL {text!r} has a NUL or a line break in it"
        raise ConfigurationError(msg)
    interface = None
    if match := _INTERFACE.match(text):
        interface = match["name"]
        text = text[match.end() :]
    scheme, separator, address = text.partition("://")
    if not separator:
        return Vnl(interface, "vde", text)
    return Vnl(interface, scheme, address)


def split_bracket_options(
    address: str, known: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Split ``PATH[option=value/option=value]``.

    A lone value without ``=`` is returned under the empty name. A repeated option: the
    last one counts.

    Args:
        address: The part of a VNL after ``://``.
        known: Names of the options that the transport has.

    Raises:
        ConfigurationError: A bracket is missing, or an option is not known.
    """
    path, bracket, rest = address.partition("[")
    if not bracket:
        return path, {}
    if not rest.endswith("]"):
        msg = f"{address!r}: the options begin with '[' and must end with ']'"
        raise ConfigurationError(msg)
    options = {}
    for item in filter(None, rest[:-1].split("/")):
        name, equals, value = item.partition("=")
        if not equals:
            name, value = "", item
        elif name not in known:
            msg = f"{address!r}: no option {name!r}; known: {', '.join(known)}"
            raise ConfigurationError(msg)
        options[name] = value
    return path, options
