"""What a worker has decided leaves the command stream, at a price that nobody who waits for an outcome notices."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from nats.aio.client import Client

from adapters.jetstream.commands import JetStreamCommands
from adapters.jetstream.strays import STRAYS_AT_ONCE, answer_strays
from bus.partition import Partition

#: So often what one partition has decided is removed while it decides more. To pick its commands out of the others
#: takes the server 10 to 45 ms, in which it stores no other command.
BUSY_S: Final = 8.0


class _Look:
    """How far a partition had decided at the last look; up to which command its own were removed, and when."""

    def __init__(self) -> None:
        self.decided_seq = 0
        self.purged_seq = 0
        self.purged_at_s = time.monotonic()


class Purging:
    """Removes decided commands of one tenant, and those that no partition can decide; `look` is called every second.

    Where all partitions run here, all that lies before the first of their positions goes at once, which costs the
    server a tenth of picking out each partition's own. The rest is picked out: of a partition at rest soon, of one
    that decides all the time while another one's position stands still, now and then.
    """

    def __init__(self, client: Client, tenant: str, partitions: int) -> None:
        self._client = client
        self._tenant = tenant
        self._partitions = partitions
        self._commands = JetStreamCommands(client, tenant)
        self._together_seq = 0
        self._looks: dict[int, _Look] = {}

    async def look(self, running: Mapping[int, Partition], now_ms: int) -> None:
        """Remove what these partitions have decided. Raises what a stream that cannot be asked raises."""
        # Found before strays are answered: what is a stray and lies below has been answered then, if all are.
        together_seq = self._before_all(running)
        if 0 in running and await answer_strays(self._client, self._tenant, now_ms) == STRAYS_AT_ONCE:
            together_seq = 0
        together_seq = min(together_seq, self._before_all(running))
        if together_seq not in {0, self._together_seq}:
            await self._commands.purge(together_seq)
            self._together_seq = together_seq
            for number in running:
                self._look_of(number).purged_at_s = time.monotonic()
        for number, partition in running.items():
            await self._purge_own(number, partition)

    def _before_all(self, running: Mapping[int, Partition]) -> int:
        """Up to where every command is decided; 0 where that is not known, or partitions run elsewhere."""
        if len(running) < self._partitions:
            return 0
        return min(partition.purgeable_seq for partition in running.values())

    async def _purge_own(self, number: int, partition: Partition) -> None:
        look = self._look_of(number)
        seq = partition.purgeable_seq
        is_at_rest, look.decided_seq = seq == look.decided_seq, seq
        is_over = seq in {0, look.purged_seq, self._together_seq}
        if not is_over and (is_at_rest or time.monotonic() - look.purged_at_s > BUSY_S):
            await self._commands.purge(seq, number)
            look.purged_seq, look.purged_at_s = seq, time.monotonic()

    def _look_of(self, number: int) -> _Look:
        return self._looks.setdefault(number, _Look())
