"""The traffic of transports.py: one end of a conversation, in whatever stack it runs.

    python load.py serve HOST          serves one client and ends
    python load.py ask HOST SECONDS    prints the results, as JSON in one line

Plain blocking sockets and nothing to import, so that what is measured is the network.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time

_PORT = 5000
_PING = bytes(64)
_CHUNK = bytes(128 * 1024)
_TOTAL = struct.Struct("!QQ")
_NUMBER = struct.Struct("!Q56x")  # datagrams of 64 bytes

# As many datagrams are on their way at most; every 16th is acknowledged. They fit in
# any socket's queue on the way, so that frames are counted, not losses.
_WINDOW, _STRIDE = 64, 16
_SILENCE = 0.05

# Shares of the given time: TCP has all of it.
_PING_SHARE, _DATAGRAM_SHARE = 0.3, 0.5

_SPARE_SECONDS = 10.0


def _serve(host: str) -> None:
    with (
        socket.create_server((host, _PORT)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind((host, _PORT))
        print("ready", flush=True)
        listener.settimeout(4 * _SPARE_SECONDS)
        for task in _echo, _swallow:
            sock, _ = listener.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(_SPARE_SECONDS)
                task(sock)
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(_SPARE_SECONDS)
            _acknowledge(sock, datagrams)


def _echo(sock: socket.socket) -> None:
    while data := sock.recv(len(_PING)):
        sock.send(data)


def _swallow(sock: socket.socket) -> None:
    buffer = bytearray(len(_CHUNK))
    count, start = 0, time.monotonic_ns()
    while length := sock.recv_into(buffer):
        count += length
    sock.sendall(_TOTAL.pack(count, time.monotonic_ns() - start))


def _acknowledge(sock: socket.socket, datagrams: socket.socket) -> None:
    """Acknowledge until the other end says, by TCP, that it has sent all."""
    datagrams.settimeout(_SILENCE)
    count = last = 0
    while True:
        try:
            data, sender = datagrams.recvfrom(128)
        except TimeoutError:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.recv(1)
                break
            continue
        (number,) = _NUMBER.unpack(data)
        count += 1
        if number // _STRIDE != last // _STRIDE:
            last = number
            datagrams.sendto(data, sender)
    sock.setblocking(True)
    sock.sendall(_TOTAL.pack(count, 0))


def _ask(host: str, seconds: float) -> None:
    answer = {
        **_ping(host, _PING_SHARE * seconds),
        **_send(host, seconds),
        **_send_datagrams(host, _DATAGRAM_SHARE * seconds),
    }
    print(json.dumps(answer), flush=True)


def _connected(host: str) -> socket.socket:
    sock = socket.create_connection((host, _PORT), timeout=_SPARE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _ping(host: str, seconds: float) -> dict[str, float]:
    times: list[int] = []
    with _connected(host) as sock:
        before = time.monotonic_ns()
        end = before + int(seconds * 1e9)
        while before < end:
            sock.send(_PING)
            sock.recv(len(_PING))
            after = time.monotonic_ns()
            times.append(after - before)
            before = after
    times.sort()
    middle, high = times[len(times) // 2], times[len(times) * 99 // 100]
    return {"p50": middle / 1000, "p99": high / 1000}


def _send(host: str, seconds: float) -> dict[str, float]:
    with _connected(host) as sock:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sock.sendall(_CHUNK)
        sock.shutdown(socket.SHUT_WR)
        count, nanoseconds = _TOTAL.unpack(sock.recv(_TOTAL.size, socket.MSG_WAITALL))
        # tcpi_total_retrans, <linux/tcp.h>
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        (again,) = struct.unpack_from("I", info, 100)
    return {"gbit": 8 * count / nanoseconds, "retransmitted": again}


def _send_datagrams(host: str, seconds: float) -> dict[str, float]:
    with (
        _connected(host) as control,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect((host, _PORT))
        sock.settimeout(_SILENCE)
        sent = acknowledged = 0
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            while sent < acknowledged + _WINDOW:
                sent += 1
                sock.send(_NUMBER.pack(sent))
            try:
                (acknowledged,) = _NUMBER.unpack(sock.recv(128))
            except TimeoutError:
                acknowledged = sent  # all are lost, or their acknowledgements
        elapsed = time.monotonic() - start
        control.send(b"e")
        count, _ = _TOTAL.unpack(control.recv(_TOTAL.size, socket.MSG_WAITALL))
    return {"frames": count / elapsed, "datagrams lost": sent - count}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(sys.argv[2])
    else:
        _ask(sys.argv[2], float(sys.argv[3]))
