"""Connecting to a Ray cluster, or saying in one line why not."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scanomaly.errors import ScanomalyError

ANSWER_SECONDS = 5.0
AUTO = "auto"
LOCALHOST = ("localhost", "127.0.0.1", "[::1]")
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC says first: greeting, and empty settings."""
HTTP2_SETTINGS = bytes([4])
"""Kind of the frame with which a server answers."""


class ClusterError(ScanomalyError):
    """A Ray cluster cannot be reached or cannot do the work."""


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """The module `ray`, connected while the context lasts.

    address: `HOST:PORT` or `ray://HOST:PORT`; auto is the cluster that RAY_ADDRESS names or that
    runs on this machine. Raises ClusterError when Ray is not installed, when nothing answers within
    ANSWER_SECONDS, and when what answers is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    try:
        import ray
    except ImportError as error:
        raise ClusterError("--ray needs Ray: pip install 'scanomaly[bench]'.") from error
    named = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
    if named != AUTO:
        util: Any = ray.util
        _require_answer(named, util.get_node_ip_address())
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray at {address!r}: {_first_line(error)}; start a cluster with `ray start --head` "
            "and give the address that it prints, with this version of Ray and Python everywhere."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str, own: str) -> None:
    """Raises ClusterError unless something speaks gRPC there; Ray itself would try for minutes.

    own: this machine's address as Ray sees it, which it takes for localhost.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ClusterError(f"expected --ray auto, HOST:PORT or ray://HOST:PORT, got {address!r}.")
    reached = own if host in LOCALHOST else host.strip("[]")
    try:
        with socket.create_connection((reached, int(port)), ANSWER_SECONDS) as line:
            line.sendall(HTTP2_PREFACE)
            answer = line.recv(9)  # a frame's head: its kind is the fourth byte
        if answer[3:4] != HTTP2_SETTINGS and os.environ.get("RAY_USE_TLS") != "1":
            raise OSError("something else than Ray is there")
    except (OSError, OverflowError) as error:
        where = "" if reached == host.strip("[]") else f", for Ray {reached}:{port},"
        raise ClusterError(
            f"Ray at {address!r}{where} does not answer ({_first_line(error)}); check the address "
            "that `ray start --head` printed, and that no firewall is between."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
