"""A stack written down in TOML: what `aioioth.Stack` and its ``configure`` take.

Keys are the keywords of `aioioth.Stack`, and ``vnl`` for its networks; each table
``[interface.NAME]`` is about one interface, in the keywords of ``configure``, its
network in ``vnl``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioioth._autoconf.wanted import DHCP, DHCP6, ETH, ITEMS, RA, Wanted, from_keywords
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

_SWITCHES = (ETH, RA, DHCP6, DHCP)
_OTHERS = ("vnl", "mtu", "fqdn", "mac", "slaac", "prefix_length")


@dataclass(frozen=True)
class Described:
    """What a text says.

    Attributes:
        vnls: The networks, with the interfaces' names in front where they have any.
        options: For `aioioth.Stack`.
        wanted: For each interface that has a table.
    """

    vnls: tuple[str, ...]
    options: dict[str, Any]
    wanted: tuple[Wanted, ...]


def parse(source: str | os.PathLike[str], known: Collection[str]) -> Described:
    """Return what a TOML text, or a file of it, says.

    Args:
        source: A text; or a `pathlib.Path`, which is read.
        known: The keywords of `aioioth.Stack`.

    Raises:
        ConfigurationError: It is no TOML, or some of it cannot be right.
        OSError: The file cannot be read.
    """
    text = source if isinstance(source, str) else Path(source).read_text("utf-8")
    where = "" if isinstance(source, str) else f"{source}: "
    try:
        options = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{where}no TOML: {error}. A file is given as pathlib.Path(...)"
        raise ConfigurationError(msg) from None
    tables = options.pop("interface", {})
    vnl = options.pop("vnl", ())
    vnls = [vnl] if isinstance(vnl, str) else list(vnl)
    _refuse_unknown(where, options, {"vnl", "interface", *known})
    if not isinstance(tables, Mapping):
        msg = f"{where}'interface': write tables, '[interface.vde0]'"
        raise ConfigurationError(msg)
    wanted: list[Wanted] = []
    mtus: dict[str, object] = {}
    for name, table in tables.items():
        place = f"{where}[interface.{name}] "
        if not isinstance(table, Mapping):
            msg = f"{place}must be a table"
            raise ConfigurationError(msg)
        _refuse_unknown(place, table, {*_OTHERS, *_SWITCHES, *ITEMS})
        if "vnl" in table:
            vnls.append(f"{name}:{table['vnl']}")
        if "mtu" in table:
            mtus[name] = table["mtu"]
        wanted.append(_of_table(name, table))
    if mtus:
        options["mtu"] = mtus
    return Described(tuple(vnls), options, tuple(wanted))


def _of_table(name: str, table: Mapping[str, Any]) -> Wanted:
    # Whoever says a MAC address means the interface to have it.
    eth = table.get(ETH, True if "mac" in table else None)
    return from_keywords(
        interface=name,
        fqdn=table.get("fqdn"),
        mac=table.get("mac"),
        switches={source: table.get(source) for source in _SWITCHES} | {ETH: eth},
        slaac=table.get("slaac", True),
        prefix_length=table.get("prefix_length"),
        add={what: table.get(what) for what in ITEMS},
        remove={},
    )


def _refuse_unknown(
    place: str, table: Mapping[str, object], known: Collection[str]
) -> None:
    for key in table:
        if key not in known:
            msg = (
                f"{place}no key is called {key!r}; there are {', '.join(sorted(known))}"
            )
            raise ConfigurationError(msg)
