"""The error for a library that is not installed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needs(package: str, requirement: str) -> Iterator[None]:
    """Say what to install when what the block imports is not there.

    Args:
        package: What is imported: ``aiohttp``.
        requirement: What pip installs: ``aiohttp>=3.12``.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is there, and lacks something itself
        msg = (
            f"aioioth.adapters.{package} needs {package}, which is not installed: "
            f"pip install '{requirement}'"
        )
        raise ModuleNotFoundError(msg, name=package) from None
