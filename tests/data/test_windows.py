import itertools
from collections import defaultdict
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data.events import Events, collect, core, drop_repeats, long_enough, previous, tied
from sprec.data.readers.log import Faults
from sprec.data.windows import PARTS, Protocol, Sizes, assign, draw, examples, find_windows, late_training_targets
from sprec.system.errors import UserError

Row = tuple[int, int, int]
rows_of = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=60)
SMALL = Protocol(history=3, min_history=1, min_length=1, sizes=Sizes(1000, 1000, 1000, 1000))


def batch(rows: list[Row], **more: Any) -> pl.DataFrame:
    user, item, time = zip(*rows, strict=True)
    return pl.DataFrame({"user": user, "item": item, "time": time, **more})


def events_of(rows: list[Row]) -> Events:
    return collect([batch(rows)])[0]


def listed(events: Events) -> list[tuple[Any, ...]]:
    users, items = events.users.to_list(), events.items.to_list()
    columns = zip(events.user.tolist(), events.item.tolist(), events.time.tolist(), strict=True)
    return [(users[user], items[item], time) for user, item, time in columns]


def by_user(rows: list[Row]) -> dict[int, list[Row]]:
    sequences = defaultdict(list)
    for row in in_order(rows):
        sequences[row[0]].append(row)
    return sequences


def in_order(rows: list[Row]) -> list[Row]:
    """By user and time; ties keep their order."""
    return sorted(rows, key=lambda row: (row[0], row[2]))


@given(rows_of, st.integers(1, 5))
def test_events_are_sorted_by_user_and_time_and_ties_stay_as_they_come(rows: list[Row], size: int) -> None:
    batches = [batch(rows[i : i + size]) for i in range(0, len(rows), size)]
    assert listed(collect(batches)[0]) == in_order(rows)
    backwards = [batch[::-1] for batch in reversed(batches)]
    assert listed(collect(backwards)[0]) == in_order(rows[::-1])


@given(rows_of, st.integers(1, 5), st.randoms(use_true_random=False))
def test_shuffled_ties_depend_on_the_seed_and_not_on_the_order_of_the_rows(
    rows: list[Row], size: int, random: Random
) -> None:
    others = random.sample(rows, len(rows))
    batches = [batch(others[i : i + size]) for i in range(0, len(rows), size)]
    shuffled = listed(collect([batch(rows)], ties="shuffle")[0])
    assert listed(collect(batches, ties="shuffle")[0]) == shuffled
    assert [(user, time) for user, _, time in shuffled] == [(user, time) for user, _, time in in_order(rows)]
    assert sorted(shuffled) == sorted(rows)


def test_shuffled_ties_are_a_fair_coin_for_every_user_and_seed() -> None:
    """Items 0 and 1 on one day: with a hash of the item alone all users would have them in the same order."""
    rows = [(user, item, 0) for user in range(2000) for item in (0, 1)]
    firsts = [collect([batch(rows)], ties="shuffle", seed=seed)[0].item[::2] for seed in (0, 1)]
    for first in (*firsts, firsts[0] ^ firsts[1]):
        assert abs(first.mean() - 0.5) < 0.05  # 4.5 standard errors


def test_a_log_of_dates_teaches_nothing_about_what_comes_next() -> None:
    """Sorted by item, the next of two tied items had the higher id every time."""
    rng = np.random.default_rng(0)
    rows = list(zip(*(rng.integers(0, high, 4000).tolist() for high in (100, 50, 5)), strict=True))
    for ties in ("file", "shuffle"):
        events, _ = collect([batch(rows)], ties=ties)
        same = (np.diff(events.user) == 0) & (np.diff(events.time) == 0)
        assert same.sum() > 3000
        assert abs((np.diff(events.item)[same] > 0).mean() - 0.49) < 0.05  # 0.49: one in fifty is the same item
    assert tied(events).mean() > 0.99


def test_tied_events_share_user_and_time() -> None:
    rows = [(0, 0, 1), (0, 1, 1), (0, 2, 2), (1, 3, 2), (1, 4, 3), (1, 5, 3), (1, 6, 3)]
    assert tied(events_of(rows)).tolist() == [True, True, False, False, True, True, True]


def test_wide_times_and_ids_are_sorted_alike() -> None:
    """Beyond 63 bits the columns are sorted one by one; the result is the same."""
    rng = np.random.default_rng(0)
    rows = list(zip(*(rng.integers(0, high, 500).tolist() for high in (400, 400, 2**60)), strict=True))
    assert listed(events_of(rows)) == in_order(rows)


def test_ids_of_digits_sort_as_numbers_and_others_as_text() -> None:
    frame = pl.DataFrame({"user": ["10", "9", "b"], "item": ["10", "9", "2"], "time": [1, 2, 3]})
    events, _ = collect([frame])
    assert events.items.to_list() == ["2", "9", "10"]
    assert events.users.to_list() == ["10", "9", "b"]


def test_low_and_missing_ratings_are_left_out() -> None:
    faults = Faults()
    log = batch([(0, 0, 1), (0, 1, 2), (0, 2, 3)], rating=[2.0, 4.0, None])
    events, rows = collect([log], min_rating=3, faults=faults)
    assert (listed(events), rows) == ([(0, 1, 2)], 3)
    assert faults.counts == {"interactions_dropped_low_rating": 1, "interactions_dropped_without_rating": 1}
    with pytest.raises(UserError, match="the log has no ratings"):
        collect([batch([(0, 0, 1)])], min_rating=3)
    with pytest.raises(UserError, match="no interactions are left"):
        collect([batch([(0, 0, 1)], rating=[1.0])], min_rating=3)
    with pytest.raises(UserError, match="no interactions were found"):
        collect([])


@given(rows_of)
def test_repeats_against_the_definition(rows: list[Row]) -> None:
    events = events_of(rows)
    assert listed(drop_repeats(events, "keep")) == list(dict.fromkeys(in_order(rows)))
    consecutive, first = [], []
    for sequence in by_user(list(dict.fromkeys(rows))).values():
        consecutive += [row for i, row in enumerate(sequence) if i == 0 or row[1] != sequence[i - 1][1]]
        first += [row for i, row in enumerate(sequence) if row[1] not in {before[1] for before in sequence[:i]}]
    assert listed(drop_repeats(events, "consecutive")) == consecutive
    assert listed(drop_repeats(events, "first")) == first


@given(rows_of)
def test_previous_finds_the_last_time_the_user_met_the_item(rows: list[Row]) -> None:
    order = in_order(rows)
    expected = [max((j for j in range(i) if order[j][:2] == order[i][:2]), default=-1) for i in range(len(order))]
    assert previous(events_of(rows)).tolist() == expected


@given(rows_of, st.integers(1, 4))
def test_the_core_is_the_largest_part_with_k_of_everything(rows: list[Row], k: int) -> None:
    left = rows
    while True:
        kept = [
            row
            for row in left
            if sum(other[0] == row[0] for other in left) >= k and sum(other[1] == row[1] for other in left) >= k
        ]
        if len(kept) == len(left):
            break
        left = kept
    if left:
        assert sorted(listed(core(events_of(rows), k))) == sorted(left)
    else:
        with pytest.raises(UserError, match=f"left in the {k}-core"):
            core(events_of(rows), k)


def test_short_sequences_are_left_out() -> None:
    assert listed(long_enough(events_of([(0, 0, 0), (1, 0, 0), (1, 1, 1)]), 2)) == [(1, 0, 0), (1, 1, 1)]


@given(rows_of, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.sampled_from(["sliding", "last"]))
def test_windows_against_the_definition(rows: list[Row], history: int, lowest: int, unseen: bool, kind: str) -> None:
    """Windows are ordered, never cross users, and have no seen target when asked."""
    lowest = min(lowest, history)
    protocol = replace(SMALL, history=history, min_history=lowest, drop_seen_targets=unseen, windows=kind)  # type: ignore[arg-type]
    expected = []
    for sequence in by_user(rows).values():
        windows = [
            (tuple(row[1] for row in sequence[max(0, i - history) : i]), sequence[i][1])
            for i in range(lowest, len(sequence))
        ]
        windows = windows[-1:] if kind == "last" else windows
        expected += [(before, target) for before, target in windows if not (unseen and target in before)]
    events = events_of(rows)
    if not expected:
        with pytest.raises(UserError, match="no user has more than"):
            find_windows(events, protocol)
        return
    targets = np.flatnonzero(find_windows(events, protocol))
    split = examples(events, targets, history, events.items.to_numpy())
    assert [tuple(row) for row in split] == expected


logs_with_windows = rows_of.filter(lambda rows: any(len(sequence) > 1 for sequence in by_user(rows).values()))


@given(logs_with_windows)
def test_splits_by_time_are_exact_shares_in_order(rows: list[Row]) -> None:
    events = events_of(rows)
    windows = find_windows(events, SMALL)
    parts = assign(events, windows, SMALL)
    n = int(windows.sum())
    counts = np.bincount(parts, minlength=4)
    assert counts.tolist() == [int(n * 0.8), int(n * 0.9) - int(n * 0.8), n - int(n * 0.9), len(events) - n]
    times = [events.time[parts == part] for part in range(3)]
    filled = [part for part in times if len(part)]
    assert all(before.max() <= after.min() for before, after in itertools.pairwise(filled))
    if len(times[0]) and len(times[2]):
        assert late_training_targets(events, parts) == 0


@given(logs_with_windows)
def test_leave_one_out_holds_out_the_last_two_of_each_user(rows: list[Row]) -> None:
    events = events_of(rows)
    parts = assign(events, find_windows(events, SMALL), replace(SMALL, split="leave-one-out"))
    expected = []
    for sequence in by_user(rows).values():
        windows = len(sequence) - 1
        expected += [3] + [0] * (windows - 2) + [1] * (windows > 1) + [2] * (windows > 0)
    assert parts.tolist() == expected


@given(logs_with_windows, st.integers(0, 5))
def test_splits_by_user_keep_users_together(rows: list[Row], seed: int) -> None:
    events = events_of(rows)
    windows = find_windows(events, SMALL)
    parts = assign(events, windows, replace(SMALL, split="user", seed=seed))
    users = {(user, part) for user, part in zip(events.user[windows].tolist(), parts[windows].tolist(), strict=True)}
    assert len({user for user, _ in users}) == len(users)


@given(logs_with_windows, st.integers(1, 5), st.integers(0, 5), st.integers(0, 3))
def test_draws_are_disjoint_ordered_and_of_the_right_size(rows: list[Row], train: int, extra: int, seed: int) -> None:
    events = events_of(rows)
    protocol = replace(SMALL, sizes=Sizes(train, 2, 2, extra), shares=(0.5, 0.0, 0.5), seed=seed)
    parts = assign(events, find_windows(events, protocol), protocol)
    counts = np.bincount(parts, minlength=3)
    if not counts[0]:
        with pytest.raises(UserError, match="no window is left for the train split"):
            draw(events, parts, protocol)
        return
    drawn = draw(events, parts, protocol)
    assert len(drawn["train"]) == min(train, counts[0])
    assert len(drawn["extra"]) == min(extra, max(0, counts[0] - train))
    assert (len(drawn["valid"]), len(drawn["test"])) == (0, min(2, counts[2]))
    everything = np.concatenate(list(drawn.values()))
    assert len(set(everything.tolist())) == len(everything)
    for name, part in (*zip(PARTS, range(3), strict=True), ("extra", 0)):
        assert (parts[drawn[name]] == part).all()
        assert (np.diff(events.time[drawn[name]]) >= 0).all()


def test_every_window_is_drawn_equally_often() -> None:
    events = events_of([(0, 0, time) for time in range(11)])
    protocol = replace(SMALL, sizes=Sizes(2, 0, 1, 2), shares=(0.5, 0.0, 0.5))
    parts = assign(events, find_windows(events, protocol), protocol)
    drawn = [draw(events, parts, replace(protocol, seed=seed)) for seed in range(2000)]
    for name in ("train", "extra"):
        counts = np.bincount(np.concatenate([positions[name] for positions in drawn]), minlength=6)[1:]
        assert np.abs(counts - 800).max() < 100  # binomial(2000, 0.4): 4.5 standard deviations


def test_draws_reach_beyond_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    events = events_of([(0, 0, time) for time in range(101)])
    parts = assign(events, find_windows(events, SMALL), SMALL)
    whole = draw(events, parts, SMALL)
    monkeypatch.setattr("sprec.data.windows._BLOCK", 7)
    assert all(np.array_equal(draw(events, parts, SMALL)[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"history": 0}, "history must be at least 1"),
        ({"history": 2, "min_history": 3}, "at least min_history, got 2 and 3"),
        ({"shares": (0.5, 0.2, 0.2)}, "sum to 1"),
        ({"shares": (1.0, 0.0, 0.0)}, "shares must be positive"),
        ({"sizes": Sizes(train=0)}, "train and test need at least one"),
        ({"sizes": Sizes(extra=-1)}, "no size may be negative"),
        ({"windows": "last", "split": "leave-one-out"}, "leave-one-out needs sliding windows"),
    ],
)
def test_impossible_protocols_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Protocol(**settings)


def test_an_integer_and_its_digits_are_one_id_whatever_the_batches() -> None:
    numbers = pl.DataFrame({"user": [7, 7], "item": [1, 2], "time": [1, 2]})
    texts = pl.DataFrame({"user": ["7", "07"], "item": ["2", "x"], "time": [3, 4]})
    for batches in ([numbers, texts], [texts, numbers]):
        events, _ = collect(batches)
        assert sorted(listed(events)) == [("07", "x", 4), ("7", "1", 1), ("7", "2", 2), ("7", "2", 3)]
