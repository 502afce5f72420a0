"""Segments: bitmaps answer what plain sets over the events' JSON answer, live, from a kept file, and over NATS."""

import asyncio
import json
import random
from pathlib import Path

import msgspec
import pytest
from stories import START_MS, random_story

from adapters.segment_index import SegmentIndex, Sliced
from adapters.segments import SegmentFollower
from bus.envelope import Recorded
from bus.follower import StreamIdentity
from domain.values import to_ms
from domain.zone import EnterZone, LeaveZone
from projections.segments import NUMBERS, Filter, WrongFilter, evaluate, project

SEEDS = range(3)
DAY_S = 86_400
PLAYED = {"quest-accepted", "step-reached", "quest-completed", "quest-abandoned", "player-registered"}
PLAYED |= {"zone-entered", "zone-left", "tokens-spent", "tokens-sent"}
STATUS = {"quest-accepted": "running", "quest-completed": "completed", "quest-abandoned": "abandoned"}
STATUS |= {"attempt-expired": "expired"}


class Oracle:
    """`Index` as Python sets, folded from the JSON of the bodies; shares nothing with the projector."""

    def __init__(self, bodies):
        self.ids, self.facts = {}, {}
        for body in bodies:
            event = json.loads(body)
            owner = event["subject"].partition("/")[2]
            kind, data = event["type"].partition("/")[0], event["data"]
            if kind == "player-registered":
                self.ids[owner] = len(self.ids)
                self.facts[owner] = {"level": 1, "balance": 0, "second": 0, "quests": {}, "zone": None}
                self.facts[owner] |= {"region": data["region"], "cohort": data["cohort"]}
            fact = self.facts.get(owner)
            if fact is None:
                continue
            if kind in STATUS:
                fact["quests"][data["quest"]] = STATUS[kind]
            fact["level"] = data.get("level", fact["level"]) if kind == "xp-awarded" else fact["level"]
            fact["balance"] = data["balance"] if kind.startswith("tokens-") else fact["balance"]
            fact["zone"] = data["zone"] if kind == "zone-entered" else None if kind == "zone-left" else fact["zone"]
            if kind in PLAYED:
                fact["second"] = max(fact["second"], to_ms(event["time"]) // 1000)

    def _who(self, test):
        return {self.ids[owner] for owner, fact in self.facts.items() if test(fact)}

    def everyone(self):
        return self._who(lambda _: True)

    def in_group(self, group, name):
        return self._who(lambda fact: fact[group] == name)

    def with_status(self, quest, status):
        return self._who(lambda fact: fact["quests"].get(quest) == status)

    def at_least(self, number, value):
        return self._who(lambda fact: fact[number] >= value)


def told(tenant, seed):
    story, dice = random_story(tenant, seed=seed, events=400), random.Random(seed)
    owners = sorted({record.event.subject.partition("/")[2] for record in story.records})
    for at in range(60):
        command = LeaveZone() if dice.random() < 0.2 else EnterZone(zone=dice.choice(["north", "south"]))
        story.tell("player", dice.choice(owners), command, START_MS + 60_000 * at)
    return story


def random_filter(dice, depth=0):
    leaves = [
        {"zone": dice.choice(["north", "south", "moon"])},
        {"quest": dice.choice(["race", "sprint", "nothing"]), "status": dice.choice(
            ["running", "completed", "abandoned", "expired", "started", "not-started"])},
        {"region": dice.choice(["GBR", "USA"])},
        {"level": {"at_least": dice.randrange(4), "at_most": dice.randrange(5)}},
        {"balance": {"at_least": dice.randrange(60)}},
        {"balance": {"at_most": dice.randrange(60)}},
        {"active_within_s": dice.randrange(1, 6 * 3600)},
    ]  # fmt: skip
    if depth > 2 or dice.random() < 0.4:
        return dice.choice(leaves)
    inner = [random_filter(dice, depth + 1) for _ in range(dice.randint(1, 3))]
    return dice.choice([{"all": inner}, {"any": inner}, {"not": inner[0]}])


def follower_of(file, story, records):
    follower = SegmentFollower(file)

    async def follow():
        await follower.open(story.tenant, story.stream)
        await follower.apply(records)

    asyncio.run(follow())
    return follower


@pytest.mark.parametrize("seed", SEEDS)
def test_random_filters_mean_the_players_that_a_plain_fold_of_the_events_means(tmp_path, seed):
    story, dice = told("t", seed), random.Random(seed)
    oracle = Oracle(record.body for record in story.records)
    follower = follower_of(tmp_path / "t.index", story, story.records)
    now_s = START_MS // 1000 + DAY_S // 8
    sizes = set()

    for _ in range(150):
        term = msgspec.convert(random_filter(dice), Filter)
        wanted = sorted(evaluate(term, oracle, now_s))
        names = list(oracle.ids)
        found = follower.find(term, limit=10_000, after=0, now_s=now_s)
        assert found.players == [names[number] for number in wanted]
        assert found.size == len(wanted)
        sizes.add(found.size)

    assert len(sizes) > 5


def test_pages_follow_each_other_without_a_gap(tmp_path):
    story = told("t", 1)
    follower = follower_of(tmp_path / "t.index", story, story.records)
    term, after, pages = Filter(all=[Filter(not_=Filter(zone="moon"))]), 0, []

    while after is not None:
        page = follower.find(term, limit=3, after=after, now_s=0)
        pages.append(page.players)
        after = page.next_after

    assert [player for page in pages for player in page] == follower.find(term, limit=99, after=0, now_s=0).players
    assert {len(page) for page in pages[:-1]} == {3}


def test_what_was_kept_and_the_events_since_make_the_same_index(tmp_path):
    story = told("t", 2)
    half = len(story.records) // 2
    whole = follower_of(tmp_path / "other.index", story, story.records)
    first = follower_of(tmp_path / "t.index", story, story.records[:half])
    asyncio.run(first.close())

    again = follower_of(tmp_path / "t.index", story, story.records[half:])

    assert again._index.encode() == whole._index.encode()
    assert again._position == whole._position


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-9], lambda _: b"", lambda d: b"x" + d, lambda d: d[:60] + b"\xff" * 40]
)
def test_a_file_that_cannot_be_read_is_passed_over(tmp_path, damage):
    story, file = told("t", 0), tmp_path / "t.index"
    asyncio.run(follower_of(file, story, story.records).close())
    file.write_bytes(damage(file.read_bytes()))

    follower = follower_of(file, story, story.records)

    assert follower.find(Filter(not_=Filter(zone="moon")), limit=0, after=0, now_s=0).size > 0


def test_a_file_of_another_stream_is_passed_over(tmp_path):
    story, other, file = told("t", 0), told("t", 1), tmp_path / "t.index"
    asyncio.run(follower_of(file, story, story.records).close())
    other.stream = msgspec.structs.replace(other.stream, created="2027-01-01T00:00:00Z")

    follower = follower_of(file, other, other.records)

    assert follower._index.encode() == follower_of(tmp_path / "new", other, other.records)._index.encode()


def test_an_event_that_cannot_be_read_parks_its_aggregate_and_nothing_is_kept(tmp_path):
    story, file = told("t", 0), tmp_path / "t.index"
    last = story.records[-1]
    subject = last.event.subject
    bad = Recorded(last.stream_seq + 1, last.body.replace(b'"data":{', b'"data":{"zone":5,"level":"x",', 1))

    follower = follower_of(file, story, [*story.records, bad])
    found = follower.find(Filter(not_=Filter(zone="moon")), limit=0, after=0, now_s=0)
    asyncio.run(follower.close())

    assert found.parked == 1
    assert found.stream_seq == bad.stream_seq
    assert subject.startswith("player/")
    assert not file.exists()


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ({}, "names nothing"),
        ({"zone": "a", "region": "b"}, "names zone, region"),
        ({"quest": "race"}, "names quest"),
        ({"all": []}, "names all"),
        ({"level": {}}, "no bounds"),
    ],
)
def test_a_term_that_says_nothing_or_two_things_is_refused_in_one_line(term, words):
    with pytest.raises(WrongFilter, match=words):
        evaluate(msgspec.convert(term, Filter), SegmentIndex(), 0)


def test_a_filter_that_would_keep_others_waiting_is_refused():
    deep = {"zone": "a"}
    for _ in range(20):
        deep = {"not": deep}

    for term in (deep, {"any": [{"zone": "a"}] * 300}):
        with pytest.raises(WrongFilter, match="split it"):
            evaluate(msgspec.convert(term, Filter), SegmentIndex(), 0)


def test_a_sliced_number_compares_like_the_number_itself():
    dice, sliced, everyone = random.Random(4), Sliced(), None
    values = [dice.choice([0, 1, 2 ** dice.randrange(40), dice.randrange(1000)]) for _ in range(300)]
    from pyroaring import BitMap

    everyone = BitMap(range(len(values)))
    for player, value in enumerate(values):
        sliced.values.append(0)
        sliced.put(player, dice.randrange(2000))
        sliced.put(player, value)

    for bound in {0, 1, 2, 3, 2**41, 2**70, *values, *(value + 1 for value in values)}:
        wanted = [player for player, value in enumerate(values) if value >= bound]
        assert list(sliced.at_least(bound, everyone)) == wanted


def test_the_file_of_the_formats_page_is_the_index_that_it_describes(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    shown = page.partition("### The kept index of segments")[2].split("```")[3]
    file = tmp_path / "t.index"
    file.write_bytes(bytes.fromhex(shown))
    follower = SegmentFollower(file)
    stream = StreamIdentity("EVENTS_t", "2026-01-01T00:00:00Z")

    position = asyncio.run(follower.open("t", stream))
    found = follower.find(
        Filter(all=[Filter(zone="north"), Filter(quest="q", status="completed")]), limit=9, after=0, now_s=0
    )
    asyncio.run(follower.close())

    assert position.stream_seq == found.stream_seq == 3
    assert found.players == ["b19"]
    assert file.read_bytes() == bytes.fromhex(shown)


def test_facts_name_kinds_that_the_index_knows():
    facts = project(told("t", 0).records)

    assert {fact.kind for fact in facts} == {"registered", "group", "number", "quest"}
    assert {fact.name for fact in facts if fact.kind == "number"} == set(NUMBERS)
