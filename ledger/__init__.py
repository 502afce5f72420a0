"""The ledger: bytes in, proofs out; imports nothing of ours."""
