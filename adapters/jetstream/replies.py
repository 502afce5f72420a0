"""What the reply subject of a delivered message says of it (NATS ADR-15)."""

from __future__ import annotations


def delivered(reply: bytes) -> tuple[int, int, str]:
    """Stream sequence, consumer sequence and consumer of a delivered message, from its reply subject.

    `$JS.ACK.<stream>.<consumer>.<n>.<stream seq>.<consumer seq>.<time>.<pending>`, or with domain and account before
    the stream.
    """
    tokens, at = _ack_tokens(reply)
    return int(tokens[at + 3]), int(tokens[at + 4]), tokens[at + 1].decode()


def pending(reply: bytes) -> int:
    """How many messages the consumer had yet to deliver after this one."""
    tokens, at = _ack_tokens(reply)
    return int(tokens[at + 6])


def received_ns(reply: bytes) -> int:
    """When the stream took the message, in nanoseconds since 1970 by the server's clock."""
    return int(reply.rsplit(b".", 2)[1])


def _ack_tokens(reply: bytes) -> tuple[list[bytes], int]:
    """The tokens of a reply subject, and which of them is the stream."""
    tokens = reply.split(b".")
    return tokens, 2 if len(tokens) == 9 else 4
