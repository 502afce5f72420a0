"""One client process of the application in eventsourcing_app.py; orders come on standard input, one JSON line each.

{"do": "set-up"}             register its players, accept the quest; a few more, and their completions, to warm up
{"do": "complete", "at": t}  complete for each of its players, one after the other, from that moment on
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, Final

from benchmarks.eventsourcing_app import Account, Player, Quests

QUEST: Final = "bench"
WARM_UP: Final = 20


class Client:
    """Its slice of the players."""

    def __init__(self, prefix: str, first: int, count: int) -> None:
        self._app = Quests()
        self._players = [f"{prefix}-u{number:06d}" for number in range(first, first + count)]
        self._warm_up = [f"{prefix}-w{first}-{number}" for number in range(WARM_UP)]

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order."""
        if order["do"] == "set-up":
            everybody = [*self._warm_up, *self._players]
            self._app.set_up(everybody, QUEST)
            if self._app.repository.cache is not None:  # warm like our worker: everybody in memory
                for name in everybody:
                    self._app.repository.get(Player.create_id(name))
                    self._app.repository.get(Account.create_id(name))
            self._complete(self._warm_up)
            return {"players": len(self._players)}
        time.sleep(max(0.0, order["at"] - time.time()))
        began = time.time()
        self._complete(self._players)
        ended = time.time()
        events = sum(self._versions(name) for name in self._players)
        return {"completions": len(self._players), "events": events, "began": began, "ended": ended}

    def _complete(self, players: list[str]) -> None:
        for number, name in enumerate(players):
            self._app.complete(name, QUEST, 1_000 + 10 * number, f"{name}-complete-{QUEST}")

    def _versions(self, name: str) -> int:
        """How many events the store has of a player and the account."""
        ids = Player.create_id(name), Account.create_id(name)
        return sum(len(list(self._app.events.get(originator_id))) for originator_id in ids)


def main() -> int:
    """Obey orders until the input ends."""
    parser = argparse.ArgumentParser(description="One client; the environment chooses the persistence module.")
    parser.add_argument("--prefix", required=True, help="begins the names of the players")
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    client = Client(arguments.prefix, arguments.first, arguments.count)
    for line in sys.stdin:
        print(json.dumps(client.obey(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
