"""Every row of the read models, every column, from the JSON of the bodies: shares no code with the projector."""

import json
from collections import defaultdict
from datetime import datetime

TREASURY = "@treasury"
#: Event -> counter of its quest, and of its quest's day.
COUNTED = {
    "quest-accepted": "accepted",
    "step-reached": "steps_reached",
    "quest-completed": "completed",
    "quest-abandoned": "abandoned",
    "attempt-expired": "expired",
    "badge-awarded": "badges",
}


def rows_of(bodies):
    """Table -> its rows in the order of their text."""
    tables = defaultdict(dict)
    for seq, body in enumerate(bodies, 1):
        event = json.loads(body)
        kind, owner = event["type"].removesuffix("/1"), event["subject"].split("/")[1]
        if kind == "commands-decided":
            continue
        at = moment(event["time"])
        _count(tables, kind, at.date().isoformat(), owner, event["data"])
        if kind.startswith("tokens-"):
            _move(tables, seq, kind, owner, at, event["data"])
        elif event["subject"].startswith("quest/"):
            _quest(tables, kind, owner, at, event["data"])
        else:
            _player(tables, kind, owner, at, event["data"])
    return {table: ordered(rows.values()) for table, rows in tables.items()}


def ordered(rows):
    return sorted(rows, key=lambda row: sorted(map(str, row.items())))


def moment(text):
    return None if text is None else datetime.fromisoformat(text)


def read(connection, tables):
    """The same of a schema; times as they are, days and texts as JSON has them."""
    found = {}
    for table in tables:
        rows = [row for (row,) in connection.execute(f"SELECT to_jsonb(t) FROM {table} AS t").fetchall()]
        for row in rows:
            row.update({name: moment(row[name]) for name in row if name == "at" or name.endswith("_at")})
        found[table] = ordered(rows)
    return found


def _player(tables, kind, player, at, data):
    quest = {"player": player, "quest": data.get("quest")}
    key = (player, data.get("quest"), data.get("attempt"))
    if kind == "player-registered":
        row = {"region": data["region"], "cohort": data["cohort"], "registered_at": at, "xp": 0, "level": 1}
        tables["players"][player] = {"player": player, **row}
    elif kind == "quest-accepted":
        row = {"status": "accepted", "accepted_at": at, "finished_at": None, "elapsed_ms": None}
        tables["attempts"][key] = quest | {"attempt": data["attempt"], "divisions": data["divisions"]} | row
    elif kind == "step-reached":
        row = {"attempt": data["attempt"], "step": data["step"], "elapsed_ms": data["elapsed_ms"], "reached_at": at}
        tables["attempt_steps"][key, data["step"]] = quest | row
        tables["quest_steps"][data["quest"], data["step"]]["reached"] += 1
    elif kind in {"quest-completed", "quest-abandoned", "attempt-expired"}:
        tables["attempts"][key].update(status=COUNTED[kind], finished_at=at, elapsed_ms=data.get("elapsed_ms"))
    elif kind == "xp-awarded":
        tables["players"][player]["xp"] += data["amount"]
        tables["players"][player]["level"] = data["level"]
        total = tables["players"][player]["xp"]
        tables["xp_awards"][key] = quest | {"awarded_at": at, "amount": data["amount"], "total": total}
    elif kind == "badge-awarded":
        tables["badges"][key, data["badge"]] = quest | {"badge": data["badge"], "awarded_at": at}


def _quest(tables, kind, quest, at, data):
    if kind == "quest-published":
        row = {"published_at": at, "retired_at": None, "closed_at": None, "best_ms": None, "taken": 0}
        row |= {name: moment(data[name]) for name in ("opens_at", "closes_at")}
        row |= {name: data[name] for name in ("title", "divisions", "supply")}
        counts = dict.fromkeys(("accepted", "completed", "abandoned", "expired"), 0)
        tables["quests"][quest] = {"quest": quest} | row | counts
        for ordinal, step in enumerate(data["steps"], 1):
            row = {"ordinal": ordinal, "xp": step["xp"], "reached": 0}
            tables["quest_steps"][quest, step["id"]] = {"quest": quest, "step": step["id"]} | row
    elif kind == "supply-taken":
        tables["quests"][quest]["taken"] += 1
    else:
        tables["quests"][quest][{"quest-retired": "retired_at", "quest-closed": "closed_at"}[kind]] = at


def _move(tables, seq, kind, account, at, data):
    amount = data["amount"] if kind in {"tokens-minted", "tokens-received"} else -data["amount"]
    other = data.get("recipient") or data.get("sender") or TREASURY
    sides = [(account, amount, other)] + ([(TREASURY, -amount, account)] if other == TREASURY else [])
    for owner, change, counterparty in sides:
        held = tables["accounts"].setdefault(owner, {"account": owner, "balance": 0})
        held["balance"] += change
        row = {"account": owner, "stream_seq": seq, "counterparty": counterparty, "amount": change}
        balance = None if owner == TREASURY else held["balance"]
        tables["postings"][owner, seq] = row | {"balance": balance, "reason": data["reason"], "at": at}


def _count(tables, kind, day, owner, data):
    if kind in COUNTED:
        empty = {"quest": data["quest"], "day": day} | dict.fromkeys(COUNTED.values(), 0)
        tables["quest_days"].setdefault((data["quest"], day), empty)[COUNTED[kind]] += 1
        quest = tables["quests"][data["quest"]]
        if COUNTED[kind] in quest:
            quest[COUNTED[kind]] += 1
        if kind == "quest-completed":
            quest["best_ms"] = min(data["elapsed_ms"], quest["best_ms"] or data["elapsed_ms"])
    counted = {"player-registered": "registered", "tokens-minted": "minted", "tokens-spent": "spent"}
    counted |= {"tokens-sent": "sent"}
    if kind in counted:
        empty = {"day": day, "registered": 0, "minted": 0, "spent": 0, "sent": 0}
        tables["days"].setdefault(day, empty)[counted[kind]] += data.get("amount", 1)
