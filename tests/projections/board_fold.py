"""What boards must hold, folded from the JSON of the events: shares no code with the projector or the scripts."""

import json
from collections import defaultdict
from datetime import datetime
from zoneinfo import ZoneInfo

VALUES = {
    "xp": {"xp-awarded/1": lambda data: data["amount"]},
    "completions": {"quest-completed/1": lambda data: 1},
    "steps": {"step-reached/1": lambda data: 1},
    "elapsed": {"quest-completed/1": lambda data: data["elapsed_ms"]},
    "tokens": {
        "tokens-minted/1": lambda data: data["amount"],
        "tokens-received/1": lambda data: data["amount"],
        "tokens-spent/1": lambda data: -data["amount"],
        "tokens-sent/1": lambda data: -data["amount"],
    },
}
ALWAYS = [
    {"name": "xp", "metric": "xp"},
    {"name": "quest", "metric": "elapsed", "direction": "least", "scope": ["quest"]},
    {"name": "division", "metric": "elapsed", "direction": "least", "scope": ["quest", "division"]},
]


def label_of(window, time, settings):
    day = datetime.fromisoformat(time).astimezone(ZoneInfo(settings["zone"])).date()
    if window == "season":
        fits = [s["name"] for s in settings["seasons"] if s["first_day"] <= str(day) <= s["last_day"]]
        return fits[0] if fits else None
    return {"all-time": "", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}[window] and day.strftime(
        {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}[window]
    )


def board_fold(bodies, settings):
    """Board name -> [(player, score)] in order, for all definitions; an empty body is passed over."""
    scores, profiles = defaultdict(dict), {}
    for seq, body in enumerate(bodies, 1):
        if not body:
            continue
        event = json.loads(body)
        player, data = event["subject"].split("/")[1], event["data"]
        if event["type"] == "player-registered/1":
            profiles[player] = data
        for one in [*ALWAYS, *settings["boards"]]:
            if event["type"] in VALUES[one["metric"]]:
                value = VALUES[one["metric"]][event["type"]](data)
                for name in names_of(one, event["time"], data, profiles.get(player), settings):
                    count(scores[name], one, player, value, seq)
    found = {}
    for name, by_player in scores.items():
        one = next(d for d in [*ALWAYS, *settings["boards"]] if d["name"] == name.split(":")[0].split("@")[0])
        sign = 1 if one.get("direction", "most") == "least" else -1
        ranked = sorted(by_player, key=lambda p: (sign * by_player[p][0], by_player[p][1]))
        found[name] = [(player, by_player[player][0]) for player in ranked]
    return found


def names_of(one, time, data, profile, settings):
    label = label_of(one.get("window", "all-time"), time, settings)
    if label is None:
        return
    heads = [one["name"] + (f"@{label}" if label else "")]
    for dimension in ("quest", "division", "region", "cohort"):
        if dimension in one.get("scope", []):
            values = {"quest": [data.get("quest")], "division": data.get("divisions")}.get(dimension)
            values = [profile[dimension]] if values is None else values
            heads = [f"{head}:{value}" for head in heads for value in values if value is not None]
    yield from heads


def count(by_player, one, player, value, seq):
    if player not in by_player:
        by_player[player] = (value, seq)
    elif one["metric"] != "elapsed":
        by_player[player] = (by_player[player][0] + value, seq)
    elif (value < by_player[player][0]) == (one.get("direction", "most") == "least") and value != by_player[player][0]:
        by_player[player] = (value, seq)
