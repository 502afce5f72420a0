"""Client processes of a measurement that obey orders, one JSON line each way."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Self

from simulations.burst import Clients
from simulations.installation import client_environment

LINE_BYTES_MAX: Final = 64 * 1024 * 1024


class Programs(Clients):
    """`python -m benchmarks.<module> ARGUMENTS` for each list of arguments; an async context manager."""

    def __init__(
        self, module: str, arguments: Sequence[Sequence[str]], environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("", "", "", ())
        self._starts = [[sys.executable, "-P", "-m", f"benchmarks.{module}", *more] for more in arguments]
        self._environ = {**client_environment(), **(environ or {})}

    async def __aenter__(self) -> Self:
        try:
            for start in self._starts:
                process = await asyncio.create_subprocess_exec(
                    *start,
                    env=self._environ,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=LINE_BYTES_MAX,
                    start_new_session=True,
                )
                self._processes.append(process)
        except BaseException:
            await self.__aexit__()
            raise
        return self
