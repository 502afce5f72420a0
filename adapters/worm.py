"""Copies in an S3 bucket with Object Lock in COMPLIANCE mode: written once, and nobody can delete or shorten them.

The oldest version of an object is the copy. Whoever may write to the bucket can lay a newer version over it; that is no
loss, but it is an alarm: `compare` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from adapters.errors import CheckFailed
from adapters.root_settings import Worm, store_place
from adapters.s3 import TAKEN, Bucket, StoreFailed

COMPLIANCE: Final = "COMPLIANCE"


class CopyDiffers(CheckFailed):
    """A copy says something else than the log: one of the two was changed."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An object that cannot be deleted before `until`."""

    place: str
    version: str
    until: datetime


class WormStore:
    """One bucket; raises StoreFailed whenever it does not answer as it should."""

    def __init__(self, config: Worm) -> None:
        self._config = config
        self._bucket = Bucket(config.bucket, config.endpoint)
        self._ask = self._bucket.ask

    def close(self) -> None:
        """Let go of the connections."""
        self._bucket.close()

    def require_locked(self) -> None:
        """Raises StoreFailed unless the bucket keeps versions and has Object Lock."""
        found = self._ask("get_object_lock_configuration")
        if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise StoreFailed(f"s3://{self._config.bucket} has no Object Lock: create a bucket with it")
        if self._ask("get_bucket_versioning").get("Status") != "Enabled":
            raise StoreFailed(f"s3://{self._config.bucket} keeps no versions: switch versioning on")

    def keep(self, tenant: str, path: str, data: bytes, now: datetime | None = None) -> Copy:
        """Make sure that a copy is there; one that is there is compared, never written over.

        Raises StoreFailed, or CopyDiffers when another object stands in its place.
        """
        found = self.compare(tenant, path, data)
        if found is not None:
            return found
        self.require_locked()
        until = (now or datetime.now(UTC)) + timedelta(days=self._config.retention_days)
        try:
            self._ask(
                "put_object",
                Key=self._key(tenant, path),
                Body=data,
                ObjectLockMode=COMPLIANCE,
                ObjectLockRetainUntilDate=until,
                ChecksumAlgorithm="SHA256",
                IfNoneMatch="*",
            )
        except StoreFailed as err:
            if err.status not in TAKEN:  # another copy came in between
                raise
        found = self.compare(tenant, path, data)
        if found is None:
            raise StoreFailed(f"{store_place(self._config, tenant, path)} is not there though it was written")
        return found

    def compare(self, tenant: str, path: str, data: bytes) -> Copy | None:
        """The copy, None when there is none; raises CopyDiffers when a version is not these bytes, or not locked."""
        place = store_place(self._config, tenant, path)
        key = self._key(tenant, path)
        oldest: dict[str, Any] | None = None
        for version in self._versions(place, key):
            found = self._ask("get_object", Key=key, VersionId=version)
            stored = self._bucket.body(place, found)
            if stored != data:
                raise CopyDiffers(
                    f"{place}, version {version}: the copy differs from {path} of the log "
                    f"({_shown(stored)} there, {_shown(data)} here): one of them was changed"
                )
            oldest = oldest or found
        if oldest is None:
            return None
        if oldest.get("ObjectLockMode") != COMPLIANCE:
            mode = oldest.get("ObjectLockMode", "no retention")
            raise CopyDiffers(f"{place}: {mode}, wanted {COMPLIANCE}: somebody else wrote it, and it can be deleted")
        return Copy(place=place, version=oldest["VersionId"], until=oldest["ObjectLockRetainUntilDate"])

    def _versions(self, place: str, key: str) -> list[str]:
        """Version ids of an object, the oldest first; the store lists the newest first."""
        found: list[str] = []
        marker: dict[str, str] = {}
        while True:
            page = self._ask("list_object_versions", Prefix=key, **marker)
            found += [item["VersionId"] for item in page.get("Versions", ()) if item["Key"] == key]
            if any(item["Key"] == key for item in page.get("DeleteMarkers", ())):
                raise CopyDiffers(f"{place}: somebody deleted it; its versions are still there, under the marker")
            if not page.get("IsTruncated"):
                return found[::-1]
            marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _key(self, tenant: str, path: str) -> str:
        return store_place(self._config, tenant, path).removeprefix(f"s3://{self._config.bucket}/")


def _shown(data: bytes) -> str:
    return f"SHA-256 {sha256(data).hexdigest()[:16]}…"
