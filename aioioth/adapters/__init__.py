"""Stacks for libraries that let you choose their sockets, one module for each.

* `aioioth.adapters.aiohttp`: ``connector``, ``Site``
* `aioioth.adapters.asyncssh`: ``connect``, ``listen``
* `aioioth.adapters.httpx`: ``transport``, and ``NetworkBackend`` for httpcore
* `aioioth.adapters.hypercorn`: ``serve``, ``open_server``
* `aioioth.adapters.redis`: ``client``, ``pool``
* `aioioth.adapters.uvicorn`: ``serve``, ``open_server``
* `aioioth.adapters.websockets`: ``connect``, ``serve``

Each returns objects of the library itself. A module imports its library, and nothing is
imported before you ask for it; a library that is not installed is named by the error.
Libraries without a choice of sockets run in ``with stack.activate():``.
"""

from __future__ import annotations

__all__: list[str] = []
