"""What the ciphers share: frames are opened, or refused and counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class RefusedError(Exception):
    """A frame is not passed on.

    Attributes:
        cause: What it is counted as.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Opener(ABC):
    """The receiving half of a `aioioth.nested.FrameTransform`.

    Attributes:
        drops: Frames that were refused, by cause.
    """

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()

    def incoming(self, frame: memoryview) -> Buffer | None:
        """Return a frame, opened; None if it was refused.

        Args:
            frame: Any bytes.
        """
        try:
            return self._open(frame)
        except RefusedError as refused:
            self.drops[refused.cause] += 1
            return None

    def close(self) -> None:  # noqa: B027  (there may be nothing)
        """Do nothing: there is nothing to release."""

    @abstractmethod
    def _open(self, frame: memoryview) -> bytes:
        """Return a frame, opened.

        Raises:
            RefusedError: It is not for us.
        """
