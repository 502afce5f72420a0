"""`--as-of`, the same for every command that reads the read models."""

from __future__ import annotations

import argparse
from datetime import datetime

from projections.errors import AsOfRefused
from projections.moments import parse_as_of


def add_as_of(parser: argparse.ArgumentParser) -> None:
    """Add the option; its value is the last moment that counts, or None."""
    parser.add_argument(
        "--as-of",
        type=_as_of,
        metavar="DATE|TIME",
        help="what had happened by the end of a day in UTC (2014-04-21), or by a moment (2014-04-21T14:00:00Z)",
    )


def _as_of(text: str) -> datetime:
    try:
        return parse_as_of(text)
    except AsOfRefused as err:
        raise argparse.ArgumentTypeError(str(err)) from err
