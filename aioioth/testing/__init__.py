"""Tools for tests: `no_leaks` and `cancel_everywhere`."""

from __future__ import annotations

from aioioth.testing._cancellation import cancel_everywhere
from aioioth.testing._leaks import no_leaks

__all__ = ["cancel_everywhere", "no_leaks"]
