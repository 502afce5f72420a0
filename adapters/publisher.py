"""`tally run publisher`: brings each tenant's log into the bucket of `roots.toml`, beside the signer, never in its way.

It follows the files that the signer has published, so it needs the log's folder and the store, and nothing else. What
fails is tried again, waiting longer each time, for ever; how far it is stands in `tally status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from adapters.errors import TallyError
from adapters.published_log import log_dir_of
from adapters.root_settings import Publication, load_roots_config
from adapters.settings import Settings
from ledger.errors import LedgerError, SignerLocked
from ledger.files import Folder
from ledger.lock import Lock
from ledger.tiles import CHECKPOINT

if TYPE_CHECKING:
    from adapters.bucket_log import BucketLog

log = logging.getLogger(__name__)

LOCK: Final = ".bucket.lock"
TENANTS_EVERY_S: Final = 1.0
#: How often the store is asked what it has when nothing is new.
ASK_EVERY_S: Final = 60.0
WAIT_MAX_S: Final = 60.0


class Publisher:
    """Publishes the logs of all tenants until `stop` is set; one that begins meanwhile is taken up within a second."""

    def __init__(self, settings: Settings, only_tenants: frozenset[str] | None = None) -> None:
        self._settings = settings
        self._only_tenants = only_tenants
        self._publication = load_roots_config(settings).publication

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Ready at once: what the store says is told by `tally status`."""
        ready.set()
        if self._publication is None:
            log.warning("nothing to do: roots.toml names no bucket under [publish]")
            await stop.wait()
            return
        ends = threading.Event()
        threads: dict[str, threading.Thread] = {}
        while not stop.is_set():
            for tenant in await asyncio.to_thread(self._tenants):
                if tenant not in threads:
                    options = (self._settings, self._publication, tenant, ends)
                    threads[tenant] = threading.Thread(target=keep_publishing, args=options, name=f"bucket-{tenant}")
                    threads[tenant].start()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TENANTS_EVERY_S)
        ends.set()
        for thread in threads.values():
            await asyncio.to_thread(thread.join)

    def _tenants(self) -> list[str]:
        names = Folder(self._settings.log_dir).names("")
        return [
            name
            for name in names
            if (self._only_tenants is None or name in self._only_tenants)
            and (log_dir_of(self._settings, name) / CHECKPOINT).is_file()
        ]


def keep_publishing(settings: Settings, publication: Publication, tenant: str, stop: threading.Event) -> None:
    """Publish one tenant's log until `stop` is set; another publisher of the same folder is waited for."""
    folder = Folder(log_dir_of(settings, tenant))
    while not stop.is_set():
        try:
            lock = Lock(folder.root / LOCK)
        except SignerLocked:
            stop.wait(TENANTS_EVERY_S)
            continue
        try:
            with open_bucket_log(publication, tenant, folder) as mirror:
                _keep_publishing(mirror, publication, tenant, stop)
        except (TallyError, ModuleNotFoundError) as err:  # no package, no region: said again when started again
            log.error("%s is not published: %s", tenant, err)  # noqa: TRY400 - one line says it all
            stop.wait(WAIT_MAX_S)
        finally:
            lock.release()


def _keep_publishing(mirror: BucketLog, publication: Publication, tenant: str, stop: threading.Event) -> None:
    wait_s = float(publication.every_s)
    said = ""
    asked_at_s = time.monotonic()
    while not stop.is_set():
        if time.monotonic() - asked_at_s > ASK_EVERY_S:
            mirror.forget()
            asked_at_s = time.monotonic()
        try:
            mirror.publish(stop)
        except (TallyError, LedgerError, OSError) as err:
            if str(err) != said:
                log.warning("%s in its bucket: %s; tried again", tenant, err)
            said = str(err)
            wait_s = min(2 * wait_s, max(WAIT_MAX_S, publication.every_s))
        else:
            if said:
                log.info("%s in its bucket: up to date again", tenant)
            said, wait_s = "", float(publication.every_s)
        stop.wait(wait_s)


@contextlib.contextmanager
def open_bucket_log(publication: Publication, tenant: str, folder: Folder) -> Iterator[BucketLog]:
    """A log in its bucket; boto3, of the extra `worm`, is imported only here."""
    from adapters.bucket_log import REQUESTS_AT_ONCE, BucketLog
    from adapters.s3 import Bucket

    with contextlib.closing(Bucket(publication.bucket, publication.endpoint, connections=REQUESTS_AT_ONCE)) as bucket:
        yield BucketLog(bucket, publication, tenant, folder)
