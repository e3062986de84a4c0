"""Tools for tests: `no_leaks`."""

from __future__ import annotations

from aioioth.testing._leaks import no_leaks

__all__ = ["no_leaks"]
