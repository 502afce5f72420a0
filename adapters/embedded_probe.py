"""Does a server really answer? One short exchange in its own protocol, over a plain socket."""

import json
import socket
import struct
from typing import Any

HOST = "127.0.0.1"
PROBE_TIMEOUT_S = 2.0
PORTS_TRIED = 20
POSTGRES_PROTOCOL_3 = 196608


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that is free now; another may take it before its use, so whoever uses it must be ready to retry."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def nats_request(port: int, subject: str, payload: bytes = b"", host: str = HOST) -> dict[str, Any] | None:
    """Send one request and return its JSON answer; None when nothing answers."""
    inbox = "_INBOX.tally-probe"
    lines = f'CONNECT {{"verbose":false}}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} {len(payload)}\r\n'.encode()
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S) as link, link.makefile("rb") as reader:
            reader.readline()  # INFO
            link.sendall(lines + payload + b"\r\n")
            while line := reader.readline():
                if line.startswith(b"MSG "):
                    answer = json.loads(reader.read(int(line.split()[-1])))
                    return answer if isinstance(answer, dict) else None
    except (OSError, ValueError):
        return None
    return None


def nats_answers(port: int, host: str = HOST) -> bool:
    """Tell whether JetStream itself answers: a server that still restores its streams is not ready."""
    answer = nats_request(port, "$JS.API.INFO", host=host)
    return answer is not None and "error" not in answer


def redis_answers(port: int, host: str = HOST) -> bool:
    """Tell whether PING gets PONG: a server that still loads its file says -LOADING."""
    return _exchange(host, port, b"PING\r\n", 5) == b"+PONG"


def postgres_answers(port: int, host: str = HOST) -> bool:
    """Tell whether a start-up packet is answered by R (an authentication request): E means it is still starting."""
    body = struct.pack("!i", POSTGRES_PROTOCOL_3) + b"user\0postgres\0database\0postgres\0\0"
    return _exchange(host, port, struct.pack("!i", len(body) + 4) + body, 1) == b"R"


def _exchange(host: str, port: int, request: bytes, answer_size: int) -> bytes:
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S) as link:
            link.sendall(request)
            return link.recv(answer_size)
    except OSError:
        return b""
