"""A key program as an operator would write it for a KMS: a reference `exec:python key_program.py SEED_FILE` names it.

Here the key is a seed of 32 bytes in hex in a file; in its place would stand calls of the KMS's client. The questions
and answers are in docs/formats.md. It ends when its input ends.
"""

import base64
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def answer(key: Ed25519PrivateKey, question: dict[str, str]) -> dict[str, str]:
    """What is said to one question."""
    if question["algorithm"] != "ed25519":
        return {"error": f"the key is Ed25519, {question['algorithm']} was asked for"}
    if question["do"] == "public":
        return {"public": base64.b64encode(key.public_key().public_bytes_raw()).decode()}
    return {"signature": base64.b64encode(key.sign(base64.b64decode(question["message"]))).decode()}


def main() -> None:
    """Answer a line for each line."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(Path(sys.argv[1]).read_text(encoding="ascii")))
    for line in sys.stdin:
        print(json.dumps(answer(key, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
