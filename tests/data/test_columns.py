import datetime as dt
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data.readers.columns import to_events, to_genres, to_id, to_time
from sprec.data.readers.log import LINE, Faults
from sprec.system.errors import UserError

NOON = 1_500_000_000_000


def in_milliseconds(times: pl.Series) -> list[int | None]:
    return [None if time is None else time // 1_000_000 for time in times.to_list()]


def test_a_format_of_ones_own_is_as_precise_as_iso_dates() -> None:
    """Before 1970 too; a date that 64 bits of nanoseconds cannot hold is none, with any format."""
    texts = [f"{year}-01-01 10:00:00.12345600{last}" for year, last in ((2020, 3), (2020, 1), (1960, 1), (3000, 1))]
    times = to_time(pl.Series("time", [*texts, "soon", None]), "log", "%Y-%m-%d %H:%M:%S%.f").to_list()
    assert times == [1577872800123456003, 1577872800123456001, -315583199876543999, None, None, None]
    assert times == to_time(pl.Series("time", [*texts, "soon", None]), "log").to_list()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1_500_000_000, 0], [NOON, 0]),
        ([1_500_000_000_000], [NOON]),
        ([1_500_000_000_000_000], [NOON]),
        ([1_500_000_000_000_000_000], [NOON]),
        ([1.5e9, 1.5000000005e9, None], [NOON, NOON + 500, None]),
        (["1500000000", "881250949.0", "yesterday"], [NOON, 881_250_949_000, None]),
        (["2017-07-14", "2017-07-14 02:40:00", None], [1_499_990_400_000, NOON, None]),
        (["2017-07-14T02:40:00.250", "2017/07/14"], [NOON + 250, 1_499_990_400_000]),
        (["2017-07-14T02:40:00Z", "2017-07-14T04:40:00+02:00"], [NOON, NOON]),
        (["2017-07-14", "1500000000", "soon", "2017-07-14 02:40:00"], [1_499_990_400_000, NOON, None, NOON]),
        (["Thu Jul 13 19:40:00 -0700 2017"], [NOON]),
        ([dt.date(2017, 7, 14)], [1_499_990_400_000]),
        ([dt.datetime(2017, 7, 14, 2, 40)], [NOON]),
        ([dt.datetime(2017, 7, 14, 2, 40, tzinfo=dt.UTC)], [NOON]),
    ],
)
def test_times_of_all_kinds_become_milliseconds(values: list[Any], expected: list[int | None]) -> None:
    assert in_milliseconds(to_time(pl.Series("time", values), "log")) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1_500_000_000, 1_500_000_000_500, 0, -5], [NOON, NOON + 500, 0, -5000]),
        ([1.5e9, 1e19, float("inf"), float("nan"), 1.5e15], [NOON, None, None, None, NOON]),
        (["1500000000", "1e19", "inf", "1500000000000000000"], [NOON, None, None, NOON]),
        (pl.Series([2**64 - 1, 1_500_000_000], dtype=pl.UInt64), [None, NOON]),
        (pl.Series([1_500_000_000], dtype=pl.Int32), [NOON]),
    ],
)
def test_each_number_has_a_unit_of_its_own(values: Any, expected: list[int | None]) -> None:
    assert in_milliseconds(to_time(pl.Series("time", values), "log")) == expected


@given(st.datetimes(min_value=dt.datetime(1975, 1, 1), max_value=dt.datetime(2100, 1, 1)))
def test_a_date_and_its_number_are_the_same_time(moment: dt.datetime) -> None:
    moment = moment.replace(microsecond=0)
    seconds = int(moment.replace(tzinfo=dt.UTC).timestamp())
    forms = [pl.Series([moment.isoformat()]), pl.Series([moment]), pl.Series([seconds]), pl.Series([seconds * 1000])]
    assert {to_time(values, "log")[0] for values in forms} == {seconds * 1_000_000_000}


def test_times_that_nobody_can_read_are_one_line() -> None:
    with pytest.raises(UserError, match="log: cannot read the time 'soon'; use numbers"):
        next(to_events([events_at("soon", "later")], "log", Faults()))


def test_times_that_are_missing_are_one_line() -> None:
    with pytest.raises(UserError, match="log: no time can be read; use numbers"):
        next(to_events([events_at(None, None)], "log", Faults()))


def events_at(*times: str | None) -> pl.DataFrame:
    return pl.DataFrame({"user": "a", "item": "1", "time": pl.Series(times, dtype=pl.String)})


def test_a_late_batch_of_malformed_times_is_counted() -> None:
    faults = Faults()
    batches = [events_at("5", "soon"), events_at("soon", None), events_at("6")]
    assert [in_milliseconds(batch["time"]) for batch in to_events(batches, "log", faults)] == [[5000], [], [6000]]
    assert faults.counts == {"interactions_dropped_without_time": 3}


def test_a_rating_that_is_no_number_is_no_rating() -> None:
    frame = pl.concat([events_at("5")] * 3).with_columns(rating=pl.Series([4.5, float("nan"), None]))
    assert next(to_events([frame], "log", Faults()))["rating"].to_list() == [4.5, None, None]


def test_ids_are_whole_numbers_or_text() -> None:
    assert to_id(pl.Series("user", [1.0, 2.5, None]), "log").to_list() == [1, None, None]
    assert to_id(pl.Series("user", [2**64 - 1, 5], dtype=pl.UInt64), "log").to_list() == [2**64 - 1, 5]
    assert to_id(pl.Series("user", [" a ", "", None]), "log").to_list() == ["a", None, None]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_events_depend_neither_on_batches_nor_on_the_order_of_rows(batch: int) -> None:
    rows = [("a", "1500000000"), ("-1", "2017-07-14"), ("-2", "2017-07-14 02:40:00"), ("-3", "1500000001"), ("b", "5")]
    frame = pl.DataFrame(rows, schema=["user", "time"], orient="row").with_columns(item="user")
    known = [("-1", 1_499_990_400_000), ("-2", NOON), ("-3", NOON + 1000), ("a", NOON), ("b", 5000)]
    for order in (frame, frame.reverse(), frame.sort("time"), frame.sort("user")):
        faults = Faults()
        found = list(to_events(order.iter_slices(batch), "log", faults))
        assert sorted(pl.concat(found).select("user", pl.col("time") // 1_000_000).rows()) == known
        assert faults.counts == {}


@pytest.mark.parametrize("ids", [["1", "-3", "2"], [1, -3, 2], ["1", "-3", None]])
def test_a_column_of_numbers_that_are_negative_is_one_line(ids: list[Any]) -> None:
    frame = pl.DataFrame({"user": "a", "item": ids, "time": 5})
    for order in (frame, frame.reverse()):
        with pytest.raises(UserError, match="log: item id -3 is negative"):
            list(to_events(order.iter_slices(1), "log", Faults()))


def test_rows_without_a_user_item_or_time_are_counted_and_shown() -> None:
    frame = pl.DataFrame(
        {
            "user": ["a", "", "b", "c"],
            "item": ["1", "2", None, "4"],
            "time": ["5", "6", "7", "soon"],
            "rating": ["1", "x", "3", "4"],
            LINE: [2, 3, 4, 5],
        }
    )
    faults = Faults()
    events = next(to_events([frame], "log.csv", faults))
    assert events.rows() == [("a", 1, 5_000_000_000, 1.0)]
    assert faults.counts == {f"interactions_dropped_without_{name}": 1 for name in ("user", "item", "time")}
    assert faults.examples["malformed_lines"][0] == "log.csv:3: user='', item='2', time='6'"


def test_genres_are_split_trimmed_and_unique() -> None:
    texts = pl.Series(["Drama| Crime |Drama", "", None, "(no genres listed)"])
    assert [kinds or [] for kinds in to_genres(texts, "items").to_list()] == [["Drama", "Crime"], [], [], []]
    assert to_genres(pl.Series([["b", " a"], ["a", "a"]]), "items").to_list() == [["b", "a"], ["a"]]
