"""A lake of a test's own: a catalog and a warehouse in a folder, filled through the follower as the analytics do."""

import asyncio
import json
import os
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from adapters import lake, lake_maintenance, lake_query
from adapters.iceberg import AnalyticsFollower
from adapters.iceberg_table import EVENTS
from projections.lake_upkeep import HOUR_MS

EAGER = lake_maintenance.Limits(quiet_ms=0, keep_ms=0, grace_ms=600_000)


class Lake:
    """The settings that the analytics need, in a folder with a name as people give them."""

    def __init__(self, folder, tenant):
        self.folder = folder / "lac d'été"
        self.folder.mkdir()
        self.tenant = tenant
        self.iceberg_catalog_uri = f"sqlite:///{self.folder}/catalog.db"
        self.iceberg_warehouse = f"file://{self.folder}"

    def feed(self, story, up_to=None, pieces=1):
        """Commit the story from where the table stands, in so many commits."""
        asyncio.run(self._feed(story, up_to or len(story.records), pieces))

    async def _feed(self, story, up_to, pieces):
        follower = AnalyticsFollower(self, commit_rows=1)
        position = await follower.open(self.tenant, story.stream)
        first, count = position.stream_seq, up_to - position.stream_seq
        bounds = [first + count * at // pieces for at in range(pieces + 1)]
        for start, end in pairwise(bounds):
            if end > start:
                await follower.apply(story.batch(start + 1, end))
        await follower.close()

    def maintain(self, limits=EAGER, **more):
        return lake_maintenance.maintain(self, self.tenant, limits, **more)

    def table(self, name):
        """Rows of a table now, as pyiceberg reads them."""
        return self.query(name).rows

    def query(self, name, **more):
        return lake_query.query(self, self.tenant, name, **{"rows_max": 100_000, **more})

    def info(self, name=EVENTS):
        return next(one for one in lake_query.tables(self, self.tenant) if one.table == name)

    def files(self, name=EVENTS, as_of=None):
        return [Path(urlsplit(one).path) for one in lake_query.files(self, self.tenant, name, as_of)]

    def opened(self, name=EVENTS):
        """The table itself, for what only another engine would do."""
        with lake.opened(self) as catalog:
            return catalog.load_table((self.tenant, name))

    def stored(self):
        """All files of the warehouse."""
        return {
            path for path in self.folder.rglob("*") if path.is_file() and path.suffix in {".parquet", ".avro", ".json"}
        }

    def age(self, by_ms=48 * HOUR_MS):
        """Let the files that are there look older."""
        then = time.time() - by_ms / 1000
        for path in self.stored():
            os.utime(path, (then, then))


def derived_of(records):
    """What the derived tables must hold: from the JSON of the bodies, without our projectors."""
    funnel, days, flows = defaultdict(lambda: [0, 0]), defaultdict(Counter), defaultdict(lambda: [0, 0])
    for record in records:
        event = json.loads(record.body)
        kind, data, owner = event["type"].removesuffix("/1"), event["data"], event["subject"].split("/")[1]
        day = event["time"][:10]
        stage = {"quest-accepted": "accepted", "step-reached": "reached", "quest-completed": "completed",
                 "quest-abandoned": "abandoned", "attempt-expired": "expired"}.get(kind)  # fmt: skip
        if kind == "quest-published":
            _ = funnel[owner, "accepted", ""], [funnel[owner, "reached", step["id"]] for step in data["steps"]]
        if stage:
            row = funnel[data["quest"], stage, data.get("step", "")]
            row[0] += 1
            row[1] += data.get("elapsed_ms", 0)
            days[day, owner]["steps_reached" if stage == "reached" else stage] += 1
        elif kind == "badge-awarded":
            days[day, owner]["badges"] += 1
        elif kind == "xp-awarded":
            days[day, owner]["xp"] += data["amount"]
        elif kind.startswith("tokens-"):
            side = "tokens_in" if kind in {"tokens-minted", "tokens-received"} else "tokens_out"
            days[day, owner][side] += data["amount"]
            flow = {"tokens-minted": "minted", "tokens-spent": "spent", "tokens-sent": "transferred"}.get(kind)
            if flow:
                flows[day, flow, data["reason"]][0] += 1
                flows[day, flow, data["reason"]][1] += data["amount"]
    return {
        "quest_funnel": {key: tuple(row) for key, row in funnel.items()},
        "player_day": {key: {name: count for name, count in row.items() if count} for key, row in days.items()},
        "token_flow": {key: tuple(row) for key, row in flows.items()},
    }


def derived_in(own):
    """What the derived tables hold, in the same form."""
    day = [{key: value for key, value in row.items() if value} for row in own.table("player_day")]
    return {
        "quest_funnel": {(row["quest"], row["stage"], row["step"]): (row["attempts"], row["elapsed_ms"])
                         for row in own.table("quest_funnel")},
        "player_day": {(row.pop("day"), row.pop("player")): row for row in day},
        "token_flow": {(row["day"], row["flow"], row["reason"]): (row["movements"], row["amount"])
                       for row in own.table("token_flow")},
    }  # fmt: skip
