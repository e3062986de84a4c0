"""A library that is not installed is named, with what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aioioth.adapters._needs import needs

ADAPTERS = [
    "aiohttp",
    "asyncssh",
    "httpx",
    "hypercorn",
    "redis",
    "uvicorn",
    "websockets",
]

PROGRAM = """
import sys
sys.modules[{missing!r}] = None
try:
    import aioioth.adapters.{adapter}
except ModuleNotFoundError as error:
    print(error.name, error)
    sys.exit(error.__cause__ is not None)
"""


@pytest.mark.parametrize("library", ADAPTERS)
def test_what_is_missing_is_named(library: str) -> None:
    program = PROGRAM.format(missing=library, adapter=library)
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert answer.stdout.startswith(
        f"{library} aioioth.adapters.{library} needs {library}, "
        f"which is not installed: pip install '{library}>="
    )


def test_what_the_library_itself_lacks_is_not_hidden() -> None:
    program = PROGRAM.format(missing="multidict", adapter="aiohttp")
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert answer.stdout.startswith("multidict import of multidict halted")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ImportError, match="cannot import name"), needs("os", "os>=1"):
        from os import nonsense  # type: ignore[attr-defined]  # noqa: F401


def test_the_folder_imports_none_of_them() -> None:
    program = (
        "import sys, aioioth.adapters\n"
        f"assert not set(sys.modules) & set({ADAPTERS!r}), sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
