"""`--json`, accepted before an action's name and after it."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "print one JSON value, for machines"


def add_json(parser: argparse.ArgumentParser, actions: Any) -> None:
    """Add the option to a command and to each of its actions; called when all actions are there."""
    parser.add_argument("--json", action="store_true", help=HELP)
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=HELP)
