"""A key behind a program of the operator's: the plug point for a KMS, in any language.

The program is started once and asked line by line, JSON each way (docs/formats.md, worked example in docs/examples):

    {"do":"public","algorithm":"ed25519"}                       -> {"public":"<base64 of the public key>"}
    {"do":"sign","algorithm":"ed25519","message":"<base64>"}    -> {"signature":"<base64 of the bare signature>"}
    either                                                      -> {"error":"<one line for people>"}

It ends when its input ends. One that does not answer in time is stopped, and started again for the next question.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import subprocess
import threading
import time
from functools import cache
from typing import Any, Final

from adapters.errors import TallyError
from ledger.errors import excerpt
from ledger.note import COSIGNATURE_ML_DSA_44, VerifierKey

ANSWER_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 65_536
_CHUNK: Final = 65_536


class ProgramKey:
    """A `SigningService` whose key a program keeps."""

    def __init__(self, program: Program, name: str, algorithm: int) -> None:
        self._program = program
        self._kind = "ml-dsa-44" if algorithm == COSIGNATURE_ML_DSA_44 else "ed25519"
        public = program.ask("public", {"do": "public", "algorithm": self._kind})
        self._vkey = str(VerifierKey(name, algorithm, public))

    @property
    def vkey(self) -> str:
        """The public half."""
        return self._vkey

    def sign(self, message: bytes) -> bytes:
        """The bare signature."""
        encoded = base64.b64encode(message).decode()
        return self._program.ask("signature", {"do": "sign", "algorithm": self._kind, "message": encoded})


class Program:
    """One process that answers a question at a time; it may be asked from several threads."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, wanted: str, question: dict[str, str]) -> bytes:
        """The bytes that the answer has under `wanted`; raises `TallyError` when it has none, or comes too late."""
        with self._lock:
            line = self._exchange(json.dumps(question).encode() + b"\n")
        try:
            answer: Any = json.loads(line)
            if isinstance(answer, dict) and "error" in answer:
                raise TallyError(f"key program {self._command}: {excerpt(str(answer['error']), 200)[1:-1]}")
            return base64.b64decode(answer[wanted], validate=True)
        except (ValueError, KeyError, TypeError) as err:
            shown = excerpt(line.decode("utf-8", "replace"))
            raise TallyError(f'key program {self._command} answered {shown}, wanted {{"{wanted}":"<base64>"}}') from err

    def _exchange(self, question: bytes) -> bytes:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        process = self._process = self._process or self._start()
        try:
            assert process.stdin is not None  # noqa: S101 (for mypy: it was started with a pipe)
            process.stdin.write(question)
            return self._read_line(process)
        except (OSError, TallyError) as err:
            self.stop()
            if isinstance(err, TallyError):
                raise
            raise TallyError(f"key program {self._command} ended with code {process.returncode}: {err}") from err

    def stop(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                shlex.split(self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except (OSError, ValueError) as err:
            raise TallyError(f"key program {self._command!r} cannot be started: {err}") from err

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None  # noqa: S101 (as above)
        deadline = time.monotonic() + ANSWER_S
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TallyError(f"key program {self._command} gave no answer within {ANSWER_S:g} s")
            chunk = os.read(process.stdout.fileno(), _CHUNK)
            line += chunk
            if not chunk or len(line) > ANSWER_BYTES_MAX:
                found = f"{len(line)} bytes without a newline"
                raise TallyError(f"key program {self._command} ended, or answered {found}; wanted a line of JSON")
        return line


@cache
def _program(command: str) -> Program:
    return Program(command)


def open_program(command: str, name: str, algorithm: int) -> ProgramKey:
    """The key of a name that a command line keeps; the same command is one process however often it is opened."""
    return ProgramKey(_program(command), name, algorithm)
