from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import pytest

from simulations.checks import Official, check_board, check_totals, check_types
from simulations.prediction import DATA, predict, read_rows

HEADER = "bib,gender,age,country,5k,10k,20k,half,25k,30k,35k,40k,official,overall,genderdiv,division\n"
FOUR = HEADER + (
    "W2,M,41,RSA,7.75,16.62,36.10,38.03,45.80,56.45,67.42,76.10,80.60,1,1,1\n"
    "19,M,38,USA,15.15,30.48,61.08,64.35,76.00,91.17,106.62,121.82,128.62,1,1,1\n"
    "F1,F,33,KEN,16.22,,65.83,69.47,82.43,99.33,,132.10,138.95,21,1,1\n"
    "7,M,28,KEN,15.18,30.52,61.63,64.87,76.97,92.52,107.47,121.95,128.62,2,2,2\n"
)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_four_finishers_are_predicted_as_counted_by_hand():
    prediction = predict(rows_of(FOUR))

    assert prediction.players == 4
    assert prediction.crossings == 8 + 8 + 6 + 8 + 4
    assert prediction.finishers_who_missed_a_mat == 1
    assert prediction.commands == {
        "publish-quest/1": 1,
        "register-player/1": 4,
        "accept-quest/1": 4,
        "reach-step/1": 30,
        "complete-quest/1": 4,
    }
    assert prediction.events == {
        "quest-published/1": 1,
        "player-registered/1": 4,
        "quest-accepted/1": 4,
        "step-reached/1": 30,
        "quest-completed/1": 4,
        "xp-awarded/1": 4,
        "badge-awarded/1": 4,
        "tokens-minted/1": 4,
    }
    assert prediction.xp == {"bW2": 1080, "b19": 1080, "bF1": 1060, "b7": 1080}
    assert prediction.xp_total == 4300
    assert prediction.tokens == {"bW2": 26, "b19": 26, "bF1": 26, "b7": 26}
    assert (prediction.tokens_total, prediction.treasury) == (104, -104)
    assert prediction.order == {
        "runners": [("b19", 7_717_200), ("b7", 7_717_200), ("bF1", 8_337_000)],
        "runners-men": [("b19", 7_717_200), ("b7", 7_717_200)],
        "runners-women": [("bF1", 8_337_000)],
        "wheelchairs": [("bW2", 4_836_000)],
        "wheelchairs-men": [("bW2", 4_836_000)],
    }


def test_the_whole_race_has_the_known_size():
    prediction = predict(read_rows())

    assert (prediction.players, prediction.crossings, prediction.finishers_who_missed_a_mat) == (31_984, 287_302, 335)
    assert len(prediction.order["runners"]) == 31_931
    assert prediction.events_total == 447_223


def test_official_ranks_do_not_enter_the_prediction():
    without = [{**row, "overall": "?", "genderdiv": "?", "division": "?"} for row in rows_of(FOUR)]

    assert predict(without) == predict(rows_of(FOUR))


@pytest.mark.parametrize("program", ["prediction.py", "clients/marathon.py", "clients/burst.py"])
def test_the_prediction_and_the_clients_import_nothing_of_ours(program):
    source = (DATA.parent.parent / program).read_text(encoding="utf-8")
    ours = {path.name for path in DATA.parent.parent.parent.iterdir() if (path / "__init__.py").is_file()}

    imported = {name.split(".")[0] for node in ast.walk(ast.parse(source)) for name in names_imported(node)}

    assert ours >= {"domain", "bus", "ledger", "simulations"}
    assert imported & ours == set()
    assert imported - {"nats"} <= set(__import__("sys").stdlib_module_names)


def names_imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["simulations" if node.level else str(node.module)]
    return []


def test_the_data_file_is_the_one_that_its_page_describes():
    page = Path(DATA.parent / "README.md").read_text(encoding="utf-8")

    assert DATA.is_file()
    for fact in ("llimllib/bostonmarathon", "MIT", "names"):
        assert fact in page


@pytest.mark.parametrize(
    ("line", "altered"),
    [
        pytest.param("F1,F,33,KEN,16.22,,65.83", "F1,F,33,KEN,16.22,33.00,65.83", id="a mat more"),
        pytest.param("7,M,28,KEN,15.18,30.52", "7,M,28,KEN,15.18,", id="a mat less"),
        pytest.param("7,M,28,KEN,15.18", "8,M,28,KEN,15.18", id="another start-number"),
        pytest.param("121.95,128.62,2", "121.95,128.63,2", id="a hundredth of a minute"),
    ],
)
def test_one_altered_input_is_noticed_against_what_the_race_left(line, altered):
    left, wanted = predict(rows_of(FOUR)), predict(rows_of(FOUR.replace(line, altered)))

    findings = [
        check_types("events", left.events, wanted.events),
        check_totals("XP", {"prediction": wanted.xp, "events": left.xp}),
        *(
            check_board(name, left.order[name], {player: Official(elapsed, elapsed) for player, elapsed in order})
            for name, order in wanted.order.items()
        ),
    ]

    assert line in FOUR
    assert not all(finding.ok for finding in findings)
