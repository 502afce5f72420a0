"""Logs that are published in a bucket of moto's server, and what may go wrong between two requests."""

import json
from threading import Event

from kept_places import NOW_MS, recorded

from adapters.bucket_log import BucketLog
from adapters.bucket_state import publication_status
from adapters.root_settings import Publication
from adapters.s3 import Bucket, StoreFailed
from adapters.settings import Settings
from ledger.checkpoint import parse_checkpoint
from ledger.reader import LogReader
from ledger.remote import Website
from ledger.tiles import CHAIN, CHECKPOINT, ENTRIES, LEVEL_MAX, all_tiles


def grow(installed, *sizes, at_ms=NOW_MS):
    """Let a log have so many entries, signed after each."""
    for size in sizes:
        writer = installed.open(at_ms)
        writer.append(recorded(writer.tree_size, size, at_ms))
        writer.close(at_ms)


class Killed(BaseException):
    """The process ends at this request."""


class WatchedBucket(Bucket):
    """Notes every change of the bucket; may end us before or after any of them."""

    def __init__(self, name, endpoint):
        super().__init__(name, endpoint, connections=8)
        self.changes = []
        self.die_before = self.die_after = self.fail_at = self.die_after_key = None

    def ask(self, method, **options):
        if method not in {"put_object", "delete_objects"}:
            return super().ask(method, **options)
        number = len(self.changes)
        self.changes.append((method, options))
        if number == self.fail_at:
            raise StoreFailed(f"s3://{self.name}: away")
        if self.die_before is not None and number >= self.die_before:
            raise Killed
        answer = super().ask(method, **options)
        if self.die_after is not None and number >= self.die_after:
            raise Killed
        if self.die_after_key is not None and options.get("Key") == self.die_after_key:
            raise Killed
        return answer

    @property
    def put(self):
        return [options["Key"] for method, options in self.changes if method == "put_object"]


class BucketPlace:
    """One installation's log and the bucket that serves it."""

    def __init__(self, installed, bucket, base):
        self.installed = installed
        self.folder = installed.folder
        self.client, self.name, self.endpoint = bucket.client, bucket.name, bucket.endpoint
        self.publication = Publication(bucket=bucket.name, prefix="here", endpoint=bucket.endpoint, every_s=1)
        self.settings = Settings.load(base, {"TALLY_LOG_DIR": str(base / "published")}, need=())
        self.config = base / "roots.toml"

    def make_public(self):
        """As docs/bucket.md says: anybody may read objects, and list, so that what is not there is a 404."""
        allow = {"Effect": "Allow", "Principal": "*"}
        statements = [
            allow | {"Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{self.name}/*"},
            allow | {"Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{self.name}"},
        ]
        policy = {"Version": "2012-10-17", "Statement": statements}
        self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))

    def open(self):
        """A new process: it knows what is in files, and nothing else."""
        watched = WatchedBucket(self.name, self.endpoint)
        return BucketLog(watched, self.publication, "boston", self.folder), watched

    def publish(self):
        mirror, watched = self.open()
        assert mirror.publish(Event())
        watched.close()
        return watched.changes

    def write_config(self, endpoint=None):
        self.config.write_text(
            f'[publish]\nbucket = "{self.name}"\nprefix = "here"\nendpoint = "{endpoint or self.endpoint}"\n'
        )

    @property
    def url(self):
        return f"{self.endpoint}/{self.name}/here/boston"

    def website(self, month):
        return Website(self.url, month)

    def paths(self):
        found = []
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            found += [item["Key"].removeprefix("here/boston/") for item in page.get("Contents", ())]
        return found

    def read(self, path):
        with self.client.get_object(Bucket=self.name, Key=f"here/boston/{path}")["Body"] as body:
            return body.read()

    def overwrite(self, path, data):
        self.client.put_object(Bucket=self.name, Key=f"here/boston/{path}", Body=data)

    def remove(self, path):
        self.client.delete_object(Bucket=self.name, Key=f"here/boston/{path}")

    def promised(self):
        """The checkpoint in the bucket, all of whose files are there; None when there is none."""
        keys = set(self.paths())
        if CHECKPOINT not in keys:
            return None
        checkpoint, _ = parse_checkpoint("bucket", self.read(CHECKPOINT))
        size = checkpoint.tree_size
        for level in (ENTRIES, CHAIN, *range(LEVEL_MAX + 1)):
            for tile in all_tiles(level, size):
                assert {tile.path, tile.full.path} & keys, f"{tile.path} is promised by size {size} and not there"
        if size:
            assert LogReader(self.folder, size).root(size) == checkpoint.root
        return size

    def status(self):
        return publication_status(self.settings, "boston")
