"""Users' tables: the options for reading them, and what is reported, dropped and refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from sprec.cli.data import app
from sprec.data import Dataset, Example
from sprec.data.logs import Cleaning, import_log
from sprec.data.readers.table import Columns, Reading
from sprec.data.readers.text import Dialect
from sprec.data.stats import doubts, period, stats, table, when
from sprec.data.windows import Protocol, Sizes
from sprec.system.errors import UserError

ALL = Protocol(history=3, min_history=1, min_length=1, sizes=Sizes(1000, 1000, 1000, 1000))
BY_USER = Protocol(history=3, min_history=1, min_length=1, split="leave-one-out", sizes=ALL.sizes)


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Dataset]:
    """Imports the text of a log and, perhaps, of a list of items."""

    def run(
        log: str, items: str | None = None, *, protocol: Protocol = ALL, name: str = "log.csv", **more: Any
    ) -> Dataset:
        (tmp_path / name).write_text(log, "utf-8")
        listed = None
        if items is not None:
            listed = tmp_path / ("items" + Path(name).suffix)
            listed.write_text(items, "utf-8")
        return import_log("table", tmp_path / name, "shop", protocol, items=listed, **more)

    return run


def windows(dataset: Dataset) -> dict[tuple[tuple[str, ...], str], int]:
    """How often each history and target occurs, by the source ids."""
    ids = dataset.catalog.source_ids
    counts: dict[tuple[tuple[str, ...], str], int] = {}
    for split in dataset.splits.values():
        for history, target in split:
            key = tuple(ids[item] for item in history), ids[target]
            counts[key] = counts.get(key, 0) + 1
    return counts


def log_of(times: Callable[[int, int], object], users: int = 4) -> str:
    """Every user has the items 3, 1, 2, 0, in this order."""
    rows = [f"{user},{item},{times(user, place)}" for user in range(users) for place, item in enumerate((3, 1, 2, 0))]
    return "user,item,time\n" + "\n".join(rows) + "\n"


TRUE = {(("3",), "1"): 4, (("3", "1"), "2"): 4, (("3", "1", "2"), "0"): 4}
START = 1_700_000_000


@pytest.mark.parametrize(
    "times",
    [
        lambda user, place: (START + user) * 1_000_000 + 100 * place,  # microseconds
        lambda user, place: (START + user) * 1_000_000_000 + place,  # nanoseconds
        lambda user, place: f"{START + user}.{place:06}",
        lambda user, place: f"{START + user}.{place:09}",
        lambda user, place: f"2025-04-03T12:00:00.{place:09}",
        lambda user, place: f"2025-04-03 12:0{place}:00 UTC",
        lambda user, place: f"2025-04-03T12:0{place}",
        lambda user, place: f"2025-04-03T12:0{place}Z",
        lambda user, place: f"2025/04/03 12:0{place}",
        lambda user, place: ("2025-04-03T12:00", "2025-04-03T12:00:30", "2025-04-03T12:01", "2025-04-03T12:02:30")[
            place
        ],
    ],
)
def test_times_count_to_their_last_digit(shop: Callable[..., Dataset], times: Callable[[int, int], object]) -> None:
    dataset = shop(log_of(times))
    assert windows(dataset) == TRUE
    assert dataset.meta["time"]["tied"] == 0


@pytest.mark.parametrize("kind", [pl.Int64, pl.Datetime("us"), pl.Datetime("ns")])
def test_times_of_parquet_count_to_their_last_digit(tmp_path: Path, kind: Any) -> None:
    unit = 1000 if kind == pl.Datetime("ns") else 1
    rows = [(user, item, unit * (10**15 + place)) for user in range(4) for place, item in enumerate((3, 1, 2, 0))]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").cast({"time": kind})
    frame.reverse().write_parquet(tmp_path / "log.parquet")  # the order of the file would be wrong
    dataset = import_log("table", tmp_path / "log.parquet", "log", ALL)
    assert windows(dataset) == TRUE
    assert dataset.meta["time"]["tied"] == 0


def test_dates_are_read_as_they_are_told(shop: Callable[..., Dataset]) -> None:
    log = log_of(lambda user, place: f"{place + 3}/{user + 1}/2018")
    with pytest.raises(UserError, match=r"cannot read the time '3/1/2018'; .*--date-format '%d/%m/%Y'"):
        shop(log)
    dataset = shop(log, reading=Reading(date_format="%d/%m/%Y"))
    assert windows(dataset) == TRUE
    assert stats(dataset)["time"] == {
        "first": "2018-01-03T00:00:00",
        "last": "2018-04-06T00:00:00",
        "tied": 0,
        "share": 0,
        "ascending": 0,
    }
    months = shop(log, reading=Reading(date_format="%m/%d/%Y"))
    assert stats(months)["time"]["last"] == "2018-06-04T00:00:00"
    with pytest.raises(UserError, match="cannot read the time '3/1/2018' as '%Y'"):
        shop(log, reading=Reading(date_format="%Y"))
    with pytest.raises(UserError, match="--date-format '%H': "):
        shop(log, reading=Reading(date_format="%H"))


@pytest.mark.parametrize("word", ["nan", "NULL", "None", r"\N", "NA", "<NA>", "", "  "])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_words_for_nothing_are_no_user_and_no_item(tmp_path: Path, word: str, suffix: str) -> None:
    rows = [(user, item, START + place) for user in "ab" for place, item in enumerate("3120")]
    rows += [(word, "3", START), (word, "1", START + 1), ("a", word, START + 9)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    path = tmp_path / f"log{suffix}"
    writers: dict[str, Callable[[Path], object]]
    writers = {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}
    writers[suffix](path)
    dataset = import_log("table", path, "log", ALL)
    assert dataset.meta["log"]["users"] == 2
    assert dataset.catalog.source_ids == ("0", "1", "2", "3")
    assert dataset.warnings == {"interactions_dropped_without_item": 1, "interactions_dropped_without_user": 2}


def test_decimal_commas_and_unreadable_ratings(shop: Callable[..., Dataset]) -> None:
    ratings = ("5", "4,5", "4,4", "?")
    rows = [f"{user};{item};{START + place};{ratings[place]}" for user in "abcd" for place, item in enumerate("3120")]
    log = "user;item;time;rating\n" + "\n".join(rows)
    for lowest, low in ((4, 0), (4.45, 4)):
        dataset = shop(log, protocol=Protocol(3, 1, 1, min_rating=lowest, sizes=ALL.sizes))
        assert dataset.meta["log"]["interactions"] == 12 - low
        assert dataset.warnings.get("interactions_dropped_low_rating", 0) == low
        assert dataset.warnings["interactions_dropped_without_rating"] == 4


def test_events_to_keep(shop: Callable[..., Dataset]) -> None:
    kinds = ("buy", "view", "buy", "cart")
    rows = [
        f"{user},{item},{START + place},{kinds[place]},{user}" for user in "abcd" for place, item in enumerate("3120")
    ]
    log = "user,item,time,type,shop\n" + "\n".join(rows)
    bought = shop(log, reading=Reading(where={"type": ["buy"]}))
    assert windows(bought) == {(("3",), "2"): 4}
    assert bought.warnings == {"interactions_dropped_other_events": 8}
    both = shop(log, reading=Reading(where={"type": ["buy", "cart"], "shop": ["a", "b"]}))
    assert windows(both) == {(("3",), "2"): 2, (("3", "2"), "0"): 2}
    with pytest.raises(UserError, match=r"no event has type=sell; values found: type: buy, cart, view"):
        shop(log, reading=Reading(where={"type": ["sell"]}))
    with pytest.raises(UserError, match='has no column "kind"'):
        shop(log, reading=Reading(where={"kind": ["buy"]}))


def test_fields_of_json_objects_in_lines_and_arrays(shop: Callable[..., Dataset]) -> None:
    events = [
        {"u": {"id": user}, "product": {"id": item, "n": {"t": f"Item {item}"}}, "at": START + place, "ok": place != 1}
        for user in "abcd"
        for place, item in enumerate("3120")
    ]
    columns = Columns("u.id", "product.id", "at", title="product.n.t")
    reading = Reading(where={"ok": ["true"]})
    texts = ["".join(json.dumps(event) + "\n" for event in events), json.dumps(events), json.dumps(events, indent=2)]
    for text in texts:
        dataset = shop(text, name="log.json", columns=columns, reading=reading)
        assert windows(dataset) == {(("3",), "2"): 4, (("3", "2"), "0"): 4}
        assert dataset.catalog.titles == ("Item 0", "Item 2", "Item 3")
    with pytest.raises(UserError, match=r'has no column "product\.name"; columns: u, product, at, ok'):
        shop(
            texts[0], name="log.json", columns=Columns("u.id", "product.id", "at", title="product.name"), items=texts[0]
        )


def test_byte_order_marks_lose_no_line(shop: Callable[..., Dataset]) -> None:
    events = [
        {"user": user, "item": item, "time": START + place} for user in "abcd" for place, item in enumerate("312")
    ]
    items = [{"item": str(item), "title": f"Item {item}"} for item in range(1, 4)]
    texts = ["\ufeff" + "".join(json.dumps(row) + "\n" for row in rows) for rows in (events, items)]
    dataset = shop(*texts, name="log.jsonl")
    assert dataset.meta["log"]["rows"] == 12
    assert dataset.catalog.titles == ("Item 1", "Item 2", "Item 3")
    assert dataset.warnings == {}


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(gzip.compress(log_of(lambda user, place: START + place).encode()))
    assert windows(import_log("table", tmp_path / "log.csv", "log", ALL)) == TRUE


def test_logs_without_times_are_ordered_by_their_rows(shop: Callable[..., Dataset]) -> None:
    log = "user,item\n" + "".join(f"{user},{item}\n" for item in "3120" for user in range(4))
    with pytest.raises(UserError, match='has no column "time"'):
        shop(log, protocol=BY_USER)
    with pytest.raises(UserError, match="shop has no times, only an order per user; use --split leave-one-out"):
        shop(log, reading=Reading(order="file"))
    dataset = shop(log, protocol=BY_USER, reading=Reading(order="file"))
    assert windows(dataset) == TRUE
    assert (when(dataset), dataset.meta.get("late_training_targets")) == (None, None)
    timed = shop(log_of(lambda user, place: START - place), protocol=BY_USER, reading=Reading(order="file"))
    assert windows(timed) == TRUE  # the times, which are backwards, do not count


def test_tables_without_headers_and_a_key_of_another_name(shop: Callable[..., Dataset]) -> None:
    log = "".join(f"{user}::{item}::{START + place}\n" for user in range(4) for place, item in enumerate((3, 1, 2, 0)))
    items = "".join(f"{item}::Item: {item}::x\n" for item in range(4))
    bare = Reading(Dialect("::", header=False))
    dataset = shop(log, items, columns=Columns("1", "2", "3", title="2", key="1", genres="3"), reading=bare)
    assert windows(dataset) == TRUE
    assert dataset.catalog.titles[2] == "Item: 2"
    assert dataset.genres == ("x",)
    with pytest.raises(UserError, match='has no column "user"; columns: 1, 2, 3'):
        shop(log, items, reading=bare)


def test_ways_to_cut_text_are_refused_where_no_file_is_text(shop: Callable[..., Dataset], tmp_path: Path) -> None:
    events = [{"user": user, "item": item, "time": START + place} for user in "ab" for place, item in enumerate("312")]
    reading = Reading(Dialect(";", quote=None, header=False))
    with pytest.raises(
        UserError, match=r"--separator, --quote, --no-header apply to delimited text, which .*log.json is not"
    ):
        shop(json.dumps(events), name="log.json", reading=reading)
    (tmp_path / "items.csv").write_text("item;title\n" + "".join(f"{item};Item {item}\n" for item in "123"))
    (tmp_path / "log.json").write_text(json.dumps(events))
    mixed = Reading(Dialect(";"))
    dataset = import_log("table", tmp_path / "log.json", "x", ALL, items=tmp_path / "items.csv", reading=mixed)
    assert dataset.catalog.titles == ("Item 1", "Item 2", "Item 3")


def test_one_column_in_two_roles_is_refused(shop: Callable[..., Dataset]) -> None:
    with pytest.raises(UserError, match='the column "rating" cannot be both time and rating'):
        Columns(time="rating")
    with pytest.raises(UserError, match='the column "item" cannot be both user and item'):
        Columns(user="item")
    assert Columns(title="item").title == "item"  # the ids are titles


def test_implausible_dates_are_told(shop: Callable[..., Dataset]) -> None:
    late, early = shop(log_of(lambda user, place: START + place)), shop(log_of(lambda user, place: place))
    assert period(when(late) or {}) == "2023-11-14 to 2023-11-14"
    line = "the first interaction is dated 1970-01-01, before 1990; "
    line += "is this the time column, and are its numbers Unix times?"
    assert (doubts(when(late) or {}), doubts(when(early) or {})) == ([], [line])
    assert f"time         1970-01-01 to 1970-01-01\n  {line}\n" in table(stats(early))


def test_ties_are_told_and_shuffled_on_request(shop: Callable[..., Dataset]) -> None:
    log = log_of(lambda user, place: f"2025-04-{1 + place // 2:02}", users=200)
    dataset = shop(log)
    assert {key: count // 50 for key, count in windows(dataset).items()} == TRUE  # the file's order
    assert stats(dataset)["time"]["share"] == 1
    told = "2025-04-01 to 2025-04-02; 100.0% of the interactions have the same time as another one of the same user"
    assert f"time         {told}" in table(stats(dataset))
    shuffled = shop(log, protocol=Protocol(3, 1, 1, ties="shuffle", sizes=ALL.sizes))
    firsts = {key: count for key, count in windows(shuffled).items() if len(key[0]) == 1}
    assert set(firsts) == {(("3",), "1"), (("1",), "3")}
    assert all(70 < count < 130 for count in firsts.values())


def test_a_file_that_is_sorted_by_item_is_told(shop: Callable[..., Dataset]) -> None:
    """MovieLens is published in this order, which says nothing about time."""
    rows = [f"u{user:02},{item},2025-04-{1 + item // 6:02}" for user in range(20) for item in range(12)]
    log = "user,item,time\n" + "\n".join(rows)
    line = "interactions at the same time are sorted by item, which a model can learn; --ties shuffle avoids that"
    assert doubts(when(shop(log)) or {}) == [line]
    shuffled = shop(log, protocol=Protocol(3, 1, 1, ties="shuffle", sizes=ALL.sizes))
    assert doubts(when(shuffled) or {}) == []
    assert 0.35 < stats(shuffled)["time"]["ascending"] < 0.65


ITEMS = "item,title\n" + "".join(f"{item:03},Item {item}\n" for item in range(4))


def test_ids_are_texts_on_both_sides(shop: Callable[..., Dataset], tmp_path: Path) -> None:
    log = log_of(lambda user, place: START + place).replace("\n", "\n0").replace(",", ",00").replace("00time", "time")
    log = log.replace("user,00item", "user,item").removesuffix("0")
    dataset = shop(log.replace(",00170", ",170"), ITEMS)
    assert dataset.catalog.source_ids == ("000", "001", "002", "003")
    assert windows(dataset) == {tuple_of(key): count for key, count in TRUE.items()}
    with pytest.raises(
        UserError, match=r"none of the 4 items of the log has a title; the log has ids like '0', .* ids like '000'"
    ):
        shop(log_of(lambda user, place: START + place), ITEMS)


def tuple_of(window: tuple[tuple[str, ...], str]) -> tuple[tuple[str, ...], str]:
    return tuple("00" + item for item in window[0]), "00" + window[1]


def test_a_parquet_log_of_numbers_and_a_list_of_texts(tmp_path: Path) -> None:
    rows = [(user, item, START + place) for user in range(4) for place, item in enumerate((3, 1, 2, 0))]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item,title\n0,Zero\n1,One\n2,Two\n003,Three\n")
    with pytest.raises(
        UserError, match=r"4 of 16 interactions \(25%\) .* ids like '3', the list of items has .* '003'"
    ):
        import_log("table", tmp_path / "log.parquet", "log", ALL, items=tmp_path / "items.csv")
    cleaning = Cleaning(drop_untitled=True)
    dataset = import_log("table", tmp_path / "log.parquet", "log", ALL, cleaning, items=tmp_path / "items.csv")
    assert dataset.warnings == {"interactions_dropped_item_without_title": 4}
    assert dataset.train[0] == Example((1,), 2)


def test_movielens_with_leading_zeros(tmp_path: Path) -> None:
    rows = [
        f"{user}::{10 * item:04}::4::{START + place}" for user in range(9) for place, item in enumerate((3, 1, 2, 0))
    ]
    (tmp_path / "ratings.dat").write_text("\n".join(rows) + "\n")
    (tmp_path / "movies.dat").write_text("".join(f"{10 * item:04}::Film {item}::Drama\n" for item in range(4)))
    dataset = import_log("movielens", tmp_path, "films", ALL)
    assert dataset.catalog.source_ids == ("0000", "0010", "0020", "0030")
    assert dataset.meta["log"] | {"sequences": 27} == dataset.meta["log"]
    assert dataset.warnings == {}


def test_every_option_of_a_table_reaches_it(tmp_path: Path) -> None:
    rows = "".join(
        f"{user}~'{item}'~{1 + place}.4.2018~{'buy' if place else 'see'}\n"
        for user in range(9)
        for place, item in enumerate("é123")
    )
    (tmp_path / "log.txt").write_bytes(rows.encode("cp1252"))
    command = [
        "import",
        "table",
        str(tmp_path / "log.txt"),
        "-o",
        str(tmp_path / "out"),
        "--columns",
        "user=1,item=2,time=3",
    ]
    command += ["--separator", "~", "--quote", "'", "--escape", "\\", "--no-header", "--encoding", "cp1252"]
    command += ["--where", "4=buy", "--where", "4=see", "--date-format", "%d.%m.%Y", "--order", "time"]
    command += ["--history", "3", "--min-history", "1", "--min-length", "1", "--ties", "shuffle"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.catalog.titles == ("1", "2", "3", "é")
    assert dataset.meta["log"]["interactions"] == 36
    reading = dataset.meta["reading"]
    assert reading["dialect"] == {
        "separator": "~",
        "quote": "'",
        "escape": "\\",
        "header": False,
        "encoding": "cp1252",
        "ragged": False,
    }
    assert (reading["where"], reading["date_format"], reading["user"]) == ({"4": ["buy", "see"]}, "%d.%m.%Y", "1")
    with pytest.raises(UserError, match="--where takes COLUMN=VALUE like type=purchase, got 'buy'"):
        CliRunner().invoke(app, [*command, "--where", "buy"], catch_exceptions=False)


@pytest.mark.parametrize("kind", [pl.Decimal(10, 2), pl.Decimal(10, 0), pl.Float64, pl.UInt8, pl.String])
@pytest.mark.parametrize("listed", [pl.Decimal(10, 2), pl.Float64, pl.Int64, pl.String])
def test_ids_of_every_type_of_number_are_the_same_ids(tmp_path: Path, kind: Any, listed: Any) -> None:
    rows = [(user, item, START + place) for user in range(4) for place, item in enumerate((3, 1, 2, 0))]
    log = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").with_columns(
        pl.col("user", "item").cast(kind)
    )
    log.write_parquet(tmp_path / "log.parquet")
    items = pl.DataFrame({"item": range(4), "title": ["Zero", "One", "Two", "Three"]}).cast({"item": listed})
    items.write_parquet(tmp_path / "items.parquet")
    dataset = import_log("table", tmp_path / "log.parquet", "log", ALL, items=tmp_path / "items.parquet")
    assert dataset.catalog.titles == ("Zero", "One", "Two", "Three")
    assert windows(dataset) == TRUE


@pytest.mark.parametrize("suffix", [".inter", ".csv"])
def test_blanks_around_ids_mean_nothing(tmp_path: Path, suffix: str) -> None:
    rows = [(user, f" {item} ", START + place) for user in range(4) for place, item in enumerate("dbca")]
    events, items = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows), "".join(f"  {i}\tItem {i}\n" for i in "abcd")
    typed = suffix == ".inter"
    names = "user_id:token item_id:token timestamp:float title:token_seq" if typed else "user item time title"
    user, item, moment, title = names.split()
    (tmp_path / f"log{suffix}").write_text(f"{user}\t{item}\t{moment}\n{events}")
    (tmp_path / ("log.item" if typed else "items.csv")).write_text(f"{item}\t{title}\n{items}")
    source = tmp_path if typed else tmp_path / "log.csv"
    listed = None if typed else tmp_path / "items.csv"
    dataset = import_log("recbole" if typed else "table", source, "log", ALL, items=listed)
    assert dataset.catalog.source_ids == ("a", "b", "c", "d")
    assert dataset.warnings == {}
