"""A time stamp that the policy promises and that is not there: removed, or never made; the audit names it."""

import shutil
from datetime import UTC, datetime

import pytest
from kept_places import MONTH, NOW_MS, keep

from adapters.root_check import check_roots
from ledger.audit import audit_log
from ledger.beside import STAMP_WITHIN_S, stamp_path
from ledger.errors import Malformed, ObjectMissing
from ledger.months import month_bounds, next_month, previous_month
from ledger.policy import parse_policy

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (Debian: openssl)")
PATH = stamp_path(MONTH, "one")
ENDED_S = int(datetime.fromisoformat(month_bounds(MONTH)[1]).replace(tzinfo=UTC).timestamp())


@pytest.fixture
def stamped(place, one):
    assert keep(place.write(one))
    return place


def with_range(place, first, last):
    data = (place.settings.keys_dir / "boston" / "policy").read_bytes()
    return parse_policy("p", data + f"# tally-stamps one {first} {last}\n".encode())


def test_a_removed_time_stamp_is_named_by_the_audit(stamped):
    audit_log(stamped.folder, stamped.policy())
    stamped.folder.remove(PATH)

    with pytest.raises(ObjectMissing) as found:
        audit_log(stamped.folder, stamped.policy())

    assert str(found.value) == (
        f"{PATH}: expected the time stamp of a month that ended at {month_bounds(MONTH)[1]}, which one stamps by the "
        "policy, found none"
    )


def test_the_stamp_of_one_authority_does_not_stand_for_that_of_another(place, one, two, server):
    assert keep(place.write(one, (two, server.url)))
    place.folder.remove(stamp_path(MONTH, "two"))

    with pytest.raises(ObjectMissing, match=rf"{MONTH}\.two\.tsr: expected the time stamp"):
        audit_log(place.folder, place.policy())


@pytest.mark.parametrize(("later_s", "is_due"), [(60, False), (STAMP_WITHIN_S - 1, False), (STAMP_WITHIN_S, True)])
def test_an_authority_has_three_days_by_the_clock_of_the_auditor(stamped, later_s, is_due):
    stamped.folder.remove(PATH)
    policy = stamped.policy().as_of(ENDED_S + later_s)

    if not is_due:
        audit_log(stamped.folder, policy)
        return
    with pytest.raises(ObjectMissing, match="expected the time stamp"):
        audit_log(stamped.folder, policy)


def test_months_outside_the_range_that_the_policy_gives_need_no_stamp(stamped):
    stamped.folder.remove(PATH)
    now_s = NOW_MS // 1000

    audit_log(stamped.folder, with_range(stamped, "2020-01", previous_month(MONTH)).as_of(now_s))
    audit_log(stamped.folder, with_range(stamped, next_month(MONTH), "-").as_of(now_s))
    for first, last in (("2020-01", "-"), (MONTH, MONTH), ("2020-01", next_month(MONTH))):
        with pytest.raises(ObjectMissing, match="expected the time stamp"):
            audit_log(stamped.folder, with_range(stamped, first, last).as_of(now_s))


BAD_RANGES = {
    "an unknown authority": "# tally-stamps two 2026-01 -",
    "no last month": "# tally-stamps one 2026-01",
    "no month": "# tally-stamps one 2026-13 -",
    "a number": "# tally-stamps one 2026-01 12",
    "backwards": "# tally-stamps one 2026-02 2026-01",
    "too many words": "# tally-stamps one 2026-01 - -",
}


@pytest.mark.parametrize("case", BAD_RANGES)
def test_a_range_of_months_that_makes_no_sense_is_refused(stamped, case):
    data = (stamped.settings.keys_dir / "boston" / "policy").read_bytes()

    with pytest.raises(
        Malformed, match="expected an authority that has its tally-timestamp above, first and last month"
    ):
        parse_policy("p", data + BAD_RANGES[case].encode())
    again = "# tally-stamps one 2026-01 -\n" * 2
    with pytest.raises(Malformed, match="first and last month or -, once"):
        parse_policy("p", data + again.encode())


def test_an_authority_that_is_not_asked_any_more_is_told_by_the_status_until_the_policy_says_so(stamped):
    stamped.config.write_text("")
    assert "one: the policy says that it stamps every month, and nobody asks it" in stamped.status().waiting[0]
    stamped.folder.remove(PATH)
    details = [check.detail for check in check_roots(stamped.settings, "boston", stamped.policy(), None)]
    assert "time stamp of one: missing, tally status says why" in details

    with (stamped.settings.keys_dir / "boston" / "policy").open("a") as policy:
        policy.write(f"# tally-stamps one 2020-01 {previous_month(MONTH)}\n")

    assert stamped.status().waiting == ()
