"""What is public exists, is named in ``__all__`` and has a docstring."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

import pytest

import aioioth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def public_modules() -> Iterator[str]:
    yield "aioioth"
    for module in pkgutil.walk_packages(aioioth.__path__, "aioioth."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            yield module.name


MODULES = sorted(public_modules())


def defined_in(module: ModuleType) -> set[str]:
    """Return the public names of what the module itself defines."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    }


def has_docstring(thing: Any) -> bool:
    text = thing.__doc__ or ""
    # A dataclass without one gets its signature.
    return bool(text.strip()) and not text.startswith(f"{thing.__name__}(")


def undocumented(name: str, thing: Any) -> Iterator[str]:
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    if not has_docstring(thing):
        yield name
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            function = value.fget if isinstance(value, property) else value
            function = getattr(function, "__func__", function)
            if (
                not attribute.startswith("_")
                and inspect.isroutine(function)
                and not has_docstring(function)
            ):
                yield f"{name}.{attribute}"


def test_these_are_the_public_modules() -> None:
    assert {
        "aioioth",
        "aioioth.abc",
        "aioioth.cable",
        "aioioth.endpoints",
        "aioioth.errors",
        "aioioth.events",
        "aioioth.interfaces",
        "aioioth.netlink",
        "aioioth.stack",
        "aioioth.streams",
        "aioioth.switch",
        "aioioth.testing",
        "aioioth.vnl",
        "aioioth.wire",
        "aioioth.wire.ethernet",
        "aioioth.wire.vde",
    } <= set(MODULES)


def test_the_package_exports_what_it_imports() -> None:
    imported = {
        name
        for name, value in vars(aioioth).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "").startswith("aioioth")
    }
    assert set(aioioth.__all__) == imported | {"errors"}
    assert list(aioioth.__all__) == sorted(aioioth.__all__)
    for name in aioioth.__all__:
        assert hasattr(aioioth, name)


def _kind_and_name(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("name", MODULES)
def test_every_public_module_says_what_it_has(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if name == "aioioth.wire":  # only a folder
        assert defined_in(module) == set()
        return
    assert exported is not None, f"{name} has no __all__"
    # Constants, classes, functions: the order of ruff's isort.
    assert list(exported) == sorted(set(exported), key=_kind_and_name)
    missing = [each for each in exported if not hasattr(module, each)]
    assert missing == [], f"'from {name} import *' fails"


@pytest.mark.parametrize("name", MODULES)
def test_what_a_public_module_defines_is_in_all(name: str) -> None:
    module = importlib.import_module(name)
    assert defined_in(module) - set(getattr(module, "__all__", ())) == set()


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    names = {*getattr(module, "__all__", ()), *defined_in(module)}
    found = [
        gap
        for each in sorted(names)
        if hasattr(module, each)
        for gap in undocumented(f"{name}.{each}", getattr(module, each))
    ]
    assert found == []


def test_what_is_exported_twice_is_the_same() -> None:
    for each in "cable", "events", "interfaces", "stack", "streams", "switch":
        module = importlib.import_module(f"aioioth.{each}")
        for name in set(module.__all__) & set(aioioth.__all__):
            assert getattr(module, name) is getattr(aioioth, name)
