"""The traffic of the benchmarks in Python, for machines without a compiler.

    python load.py serve PORT
    python load.py ask HOST PORT

See load.c, which is the same and which is described there. Plain blocking sockets and
nothing to import, so that what is measured is the network as far as Python can.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time

_CHUNK = bytes(128 * 1024)
_TOTAL = struct.Struct("!QQ")
_DATAGRAM = struct.Struct("!QQQ40x")  # session, number, count
_RESET = struct.pack("ii", 1, 0)  # struct linger

_WINDOW, _STRIDE = 64, 16
_SILENCE = 0.02
_PATIENCE_SECONDS = 5.0
_LIFETIME_SECONDS = 1800


def _listener(port: int) -> socket.socket:
    sock = socket.create_server(("", port), backlog=128)
    sock.setblocking(False)
    return sock


def _serve(port: int) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", port))
    datagrams.setblocking(False)
    with (
        _listener(port) as slow,
        _listener(port + 1) as quick,
        datagrams,
        selectors.DefaultSelector() as selector,
    ):
        for source in slow, quick, datagrams:
            selector.register(source, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        counter = _Counter(datagrams)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    if not os.read(0, 4096):
                        return
                elif key.fileobj is datagrams:
                    counter.acknowledge()
                else:
                    _accept(slow if key.fileobj is slow else quick, key.fileobj is slow)


def _accept(listener: socket.socket, talk: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(OSError):
        sock, _ = listener.accept()
        with sock:
            if talk:
                _be_quick_and_bounded(sock)
                _converse(sock)


def _converse(sock: socket.socket) -> None:
    if sock.recv(1) != b"s":
        while data := sock.recv(1):
            sock.send(data)
        return
    buffer = bytearray(len(_CHUNK))
    count, start = 0, time.monotonic_ns()
    while length := sock.recv_into(buffer):
        count += length
    sock.sendall(_TOTAL.pack(count, time.monotonic_ns() - start))


class _Counter:
    """Counts the datagrams of a session and acknowledges every 16th."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._session = self._count = self._last = 0

    def acknowledge(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, sender = self._sock.recvfrom(128)
                session, number, _ = _DATAGRAM.unpack(data)
                if session != self._session:
                    self._session, self._count, self._last = session, 0, 0
                self._count += 1
                if number // _STRIDE != self._last // _STRIDE:
                    self._last = number
                    answer = _DATAGRAM.pack(session, number, self._count)
                    self._sock.sendto(answer, sender)


def _be_quick_and_bounded(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(_PATIENCE_SECONDS)


def _connected(host: str, port: int) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=_PATIENCE_SECONDS)
    _be_quick_and_bounded(sock)
    return sock


def _tcp(host: str, port: int, seconds: float) -> dict[str, float]:
    with _connected(host, port) as sock:
        sock.send(b"s")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sock.sendall(_CHUNK)
        sock.shutdown(socket.SHUT_WR)
        count, nanoseconds = _TOTAL.unpack(sock.recv(_TOTAL.size, socket.MSG_WAITALL))
    return {"tcp": 8 * count / nanoseconds}


def _rtt(host: str, port: int, seconds: float) -> dict[str, float]:
    times: list[int] = []
    with _connected(host, port) as sock:
        sock.send(b"e")
        before = time.monotonic_ns()
        end = before + int(seconds * 1e9)
        while before < end:
            sock.send(b"e")
            sock.recv(1)
            after = time.monotonic_ns()
            times.append(after - before)
            before = after
    times.sort()
    return {"rtt": times[len(times) // 2] / 1000}


def _connections(host: str, port: int, seconds: float) -> dict[str, float]:
    count, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        with _connected(host, port + 1) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.recv(1)
        count += 1
    return {"connections": count / (time.monotonic() - start)}


def _udp(host: str, port: int, seconds: float) -> dict[str, float]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        sock.settimeout(_SILENCE)
        session = time.monotonic_ns()
        sent = acknowledged = count = 0
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            while sent < acknowledged + _WINDOW:
                sent += 1
                sock.send(_DATAGRAM.pack(session, sent, 0))
            try:
                theirs, number, total = _DATAGRAM.unpack(sock.recv(128))
            except TimeoutError:
                acknowledged = sent  # all are lost, or their acknowledgements
            else:
                if theirs == session:
                    acknowledged, count = number, total
        return {"udp": count / (time.monotonic() - start)}


_MEASURES = {"tcp": _tcp, "rtt": _rtt, "connections": _connections, "udp": _udp}


def _ask(host: str, port: int) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        print(json.dumps(_MEASURES[name](host, port, float(seconds))), flush=True)


def main() -> None:
    """Serve, or ask."""
    signal.alarm(_LIFETIME_SECONDS)  # whatever happens, it does not stay
    match sys.argv[1:]:
        case ["serve", port]:
            _serve(int(port))
        case ["ask", host, port]:
            _ask(host, int(port))
        case _:
            sys.exit("usage: load.py serve PORT | load.py ask HOST PORT")


if __name__ == "__main__":
    main()
