from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import TYPE_CHECKING

import pytest

from aioioth import _kinds, _plugins
from aioioth.errors import UnknownPluginError, UnknownSchemeError
from aioioth_transports.memory import MemoryTransport
from aioioth_transports.null import NullTransport
from aioioth_transports.vde import VdeTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    Register = Callable[[dict[str, str]], None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Have plug-ins registered, and no others."""

    def replace(plugins: dict[str, str]) -> None:
        monkeypatch.setattr(
            _plugins,
            "_registered",
            lambda group: EntryPoints(
                EntryPoint(name, value, group) for name, value in plugins.items()
            ),
        )

    return replace


@pytest.mark.parametrize(
    ("scheme", "factory"),
    [("memory", MemoryTransport), ("null", NullTransport), ("vde", VdeTransport)],
)
def test_our_transports_are_registered(scheme: str, factory: object) -> None:
    assert _plugins.load_transport(scheme) is factory


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("netns", _kinds.open_netns),
        ("vdestack", _kinds.open_netns),
        ("kernel", _kinds.open_kernel),
    ],
)
def test_our_kinds_are_registered(name: str, kind: object) -> None:
    assert _plugins.load_kind(name) is kind


def test_a_broken_plug_in_hurts_its_own_users_alone(register: Register) -> None:
    register(
        {
            "broken": "no_such_module:Transport",
            "null": "aioioth_transports.null:NullTransport",
        }
    )
    assert _plugins.load_transport("null") is NullTransport
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _plugins.load_transport("broken")


class Fallback:
    """Serves what has an x in its name."""

    def __init__(self, vnl: str) -> None:
        self.vnl = vnl

    @staticmethod
    def why_not(scheme: str) -> str | None:
        return None if "x" in scheme else f"there is no x in {scheme}"


def test_the_fallback_serves_what_nobody_serves(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    null = "aioioth_transports.null:NullTransport"
    register({"*": "unittest.mock:fallback", "null": null, "exnull": null})
    monkeypatch.setattr("unittest.mock.fallback", Fallback, raising=False)
    assert _plugins.load_transport("exnull") is NullTransport
    made = _plugins.load_transport("other-x")("address")
    assert isinstance(made, Fallback)
    assert made.vnl == "other-x://address"
    with pytest.raises(UnknownSchemeError) as caught:
        _plugins.load_transport("other")
    assert caught.value.known == ("exnull", "null")
    assert caught.value.hint == "there is no x in other"
    with pytest.raises(UnknownSchemeError):
        _plugins.load_transport("*")


def test_the_known_are_named_in_order(register: Register) -> None:
    register({"z": "z:z", "a": "a:a", "m": "m:m"})
    with pytest.raises(UnknownSchemeError) as transport:
        _plugins.load_transport("x")
    assert transport.value.known == ("a", "m", "z")
    assert transport.value.group == "aioioth.transports"
    with pytest.raises(UnknownPluginError) as kind:
        _plugins.load_kind("x")
    assert kind.value.known == ("a", "m", "z")
    assert kind.value.group == "aioioth.stacks"
    assert type(kind.value) is UnknownPluginError
