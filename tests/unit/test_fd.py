from __future__ import annotations

import os

import pytest

from aioioth._fd import OwnedFd
from aioioth.errors import ClosedError


def test_owns_until_closed() -> None:
    descriptor = os.eventfd(0)
    owned = OwnedFd(descriptor, "TAP 'vde0'")
    assert owned.fileno() == descriptor
    assert repr(owned) == f"<OwnedFd TAP 'vde0' fd={descriptor}>"
    owned.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert repr(owned) == "<OwnedFd TAP 'vde0' closed>"
    with pytest.raises(ClosedError, match="TAP 'vde0' is closed"):
        owned.fileno()


def test_closes_once() -> None:
    owned = OwnedFd(os.eventfd(0), "it")
    owned.close()
    successor = os.eventfd(0)  # the same number
    owned.close()
    os.fstat(successor)
    os.close(successor)


def test_forgets_the_number_even_if_closing_fails() -> None:
    descriptor = os.eventfd(0)
    owned = OwnedFd(descriptor, "it")
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        owned.close()
    with pytest.raises(ClosedError):
        owned.fileno()
    owned.close()
