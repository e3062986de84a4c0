"""``async with`` for what is opened and closed by coroutines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType


class Opening(ABC):
    """An async context manager: entered by `open`, left by `aclose`."""

    @abstractmethod
    def open(self) -> Coroutine[Any, Any, Self]:
        """Make it usable; returns itself."""

    @abstractmethod
    def aclose(self) -> Coroutine[Any, Any, None]:
        """Close it. Idempotent."""

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
