"""Who runs which partition: what must hold whatever workers there are and whatever they run."""

from hypothesis import given
from hypothesis import strategies as st

from bus.sharing import Member, shares

NAMES = st.sampled_from("abcdefg")
RUNS = st.dictionaries(st.just("t"), st.lists(st.integers(0, 9), max_size=8).map(tuple))
MEMBERS = st.dictionaries(
    NAMES,
    st.builds(
        Member,
        serves=st.sampled_from([None, ("t",), ("other",)]),
        runs=RUNS,
        ends=RUNS,
        is_away=st.booleans(),
        is_leaving=st.booleans(),
    ),
)


def serving(members):
    return {n for n, m in members.items() if not m.is_leaving and (m.serves is None or "t" in m.serves)}


@given(MEMBERS, st.integers(1, 10))
def test_every_partition_falls_to_exactly_one_who_serves_and_shares_differ_by_one_at_most(members, partitions):
    given_to = shares(partitions, "t", members)

    counts = [list(given_to.values()).count(name) for name in serving(members)]
    assert set(given_to) == (set(range(partitions)) if counts else set())
    assert set(given_to.values()) <= serving(members)
    assert not counts or max(counts) - min(counts) <= 1


@given(MEMBERS, st.integers(1, 10))
def test_once_everybody_runs_his_share_nothing_moves_any_more(members, partitions):
    given_to = shares(partitions, "t", members)

    settled = {
        name: Member(serves=m.serves, runs={"t": tuple(n for n, owner in given_to.items() if owner == name)})
        for name, m in members.items()
        if name in serving(members)
    }
    assert shares(partitions, "t", settled) == given_to


def running(**runs):
    return {name: Member(runs={"t": tuple(numbers)}) for name, numbers in runs.items()}


def test_who_comes_gets_what_is_too_much_for_the_others_and_the_rest_stays():
    given_to = shares(8, "t", running(a=[0, 1, 2, 3], b=[4, 5, 6, 7], c=[]))

    assert {number for number, name in given_to.items() if name == "c"} == {3, 7}
    assert all(given_to[number] == "a" for number in (0, 1, 2))
    assert all(given_to[number] == "b" for number in (4, 5, 6))


def test_what_one_who_is_gone_ran_is_shared_out_and_the_rest_stays():
    given_to = shares(8, "t", running(a=[0, 1, 2], b=[3, 4, 5]))

    assert given_to == {0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 5: "b", 6: given_to[6], 7: given_to[7]}
    assert {given_to[6], given_to[7]} == {"a", "b"}


def test_of_two_that_run_the_same_it_stays_with_who_was_not_away_then_with_the_first():
    both = {"a": Member(runs={"t": (0, 1)}), "b": Member(runs={"t": (0, 1)})}
    late = {"a": Member(runs={"t": (0,)}, is_away=True), "b": Member(runs={"t": (0,)}), "c": Member()}

    assert shares(4, "t", both)[0] == "a"
    assert shares(4, "t", late)[0] == "b"


def test_tenants_do_not_all_burden_the_same_worker_with_one_more():
    members = {name: Member() for name in "abc"}

    assert len({shares(1, tenant, members)[0] for tenant in ("x", "y", "z")}) == 3
