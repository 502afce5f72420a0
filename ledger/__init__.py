"""The ledger: bytes in, proofs out; imports the standard library and `cryptography`, nothing of ours.

Written to be read by auditors, in this order:

    errors, encoding      what is refused and how it is said; strict numbers, base64, JSON
    hashing, proofs       RFC 6962 and the chain; inclusion and consistency, no I/O
    primitives, note,     Ed25519 and ML-DSA-44; signed notes and keys; the signed tree head;
    checkpoint, policy    the auditors' trust root
    tiles, files, reader  where hashes and entries stand; reading them from a folder or, with remote, from a web server
    events, index         what is read of an entry; all events of a subject in a month
    months                certificates
    der, cms, timestamps  RFC 3161: what an authority states, and why it is believed
    beside                a certificate's closing checkpoint as a file, and its time stamps
    receipt,              evidence about one event; about all events of a subject;
    completeness, history about what was signed before
    attestation, export   a month for people; all that an outsider needs of it
    replay, audit         computing a whole log again
    witness,              the witness protocol; a third party that cosigns what only grows:
    witness_state,        what it has recorded and answers;
    witness_server,       over HTTP; keys, trusted logs, its start
    witness_setup
    cli*                  the program `tally-verify`; build_pyz makes it one file

Only the operator needs: keys, lock, builder, closing, monthbook, writer; cose.
"""
