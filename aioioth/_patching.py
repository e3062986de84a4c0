"""Attributes of others' modules and classes, replaced while somebody needs it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Patch:
    """A set of replacements, in place while at least one block needs it.

    Args:
        install: Makes them, by `replace`; called when the first block is entered.
    """

    def __init__(self, install: Callable[[Patch], None]) -> None:
        self._install = install
        self._lock = threading.Lock()
        self._users = 0
        self._undo: list[Callable[[], None]] = []

    @contextmanager
    def installed(self) -> Generator[None]:
        """Have it in place. May be nested, and used by several threads."""
        with self._lock:
            if not self._users:
                self._install(self)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    while self._undo:
                        self._undo.pop()()

    def replace(self, owner: Any, name: str, new: object) -> None:  # noqa: ANN401
        """Replace an attribute of a module or class, inherited or its own."""
        if name in vars(owner):
            undo: Callable[[], None] = partial(setattr, owner, name, vars(owner)[name])
        else:
            undo = partial(delattr, owner, name)
        self._undo.append(undo)
        setattr(owner, name, new)
