import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sprec.data import Dataset, Example
from sprec.data.logs import Cleaning, import_log
from sprec.data.readers.table import Columns
from sprec.data.stats import stats, table
from sprec.data.windows import Protocol, Sizes
from sprec.system.errors import UserError

ALL = Protocol(history=3, min_history=1, min_length=1, sizes=Sizes(100, 100, 100, 100))
NAMES = Columns(separator=" ")


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Dataset]:
    """Imports rows (user, item, time) and items (item, title, genres[, detail]) as a table."""

    def run(rows: list[Any], items: list[Any], protocol: Protocol = ALL, **cleaning: Any) -> Dataset:
        log, products = tmp_path / "log.csv", tmp_path / "items.csv"
        pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(log)
        columns = ["item", "title", "genres", "detail"][: len(items[0])]
        pl.DataFrame(items, schema=columns, orient="row").write_csv(products)
        return import_log("table", log, "shop", protocol, Cleaning(**cleaning), items=products, columns=NAMES)

    return run


BASKETS = {"a": "1234", "b": "21", "c": "3"}
ROWS = [(user, item, time) for user, items in BASKETS.items() for time, item in enumerate(items)]
ITEMS = [
    ("1", "Tea", "food drink"),
    ("2", "Pot", "kitchen"),
    ("3", "Cup", "kitchen"),
    ("4", "Gift", ""),
    ("5", "Ink", "office"),
]


def test_a_small_shop_by_hand(shop: Callable[..., Dataset]) -> None:
    """Targets by time: b's 1 and a's 2 at time 1, a's 3 at time 2, a's 4 at time 3; ties in the order of the log."""
    dataset = shop(ROWS, ITEMS)
    assert dataset.catalog.titles == ("Tea", "Pot", "Cup", "Gift")
    assert dataset.catalog.source_ids == ("1", "2", "3", "4")
    assert dataset.catalog.genres[0] == ("food", "drink")
    assert list(dataset.train) == [Example((0,), 1), Example((1,), 0), Example((0, 1), 2)]
    assert list(dataset.test) == [Example((0, 1, 2), 3)]
    assert dataset.meta["log"] == {"rows": 7, "users": 3, "items": 4, "interactions": 7, "sequences": 4}
    assert dataset.meta["windows"] == {"train": 3, "valid": 0, "test": 1}
    assert stats(dataset)["table1"] == {"items": 4, "interactions": 7, "sequences": 4}
    assert dataset.genres == ("kitchen", "drink", "food")  # 4, 3 and 3 times in the training rows
    assert dataset.warnings == {}
    assert stats(dataset)["late_training_targets"] == 0
    assert "order        0 training targets are later than the first test target" in table(stats(dataset))


def test_unseen_items_stay_on_request(shop: Callable[..., Dataset]) -> None:
    assert shop(ROWS, ITEMS, unseen_items=True).catalog.titles[4] == "Ink"


def test_the_order_of_the_rows_matters_for_ties_only(shop: Callable[..., Dataset], tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [(f"u{rng.randrange(9)}", str(rng.randrange(5) + 1), rng.randrange(30)) for _ in range(120)]
    protocols = {"apart": ALL, "shuffled": replace(ALL, ties="shuffle"), "file": ALL}
    moments = {(user, time): (user, item, time) for user, item, time in rows}  # one item at a time
    for name, protocol in protocols.items():
        chosen = list(moments.values()) if name == "apart" else rows
        hashes = set()
        for i in range(3):
            hashes.add(shop(chosen, ITEMS, protocol).save(tmp_path / f"{name} {i}").hash)
            rng.shuffle(chosen)
        assert len(hashes) == (3 if name == "file" else 1)
        assert shop(chosen[1:], ITEMS, protocol).save(tmp_path / f"{name} other").hash not in hashes


def test_titles_are_repaired_counted_and_told_apart(shop: Callable[..., Dataset]) -> None:
    items = [
        ("1", "Tea &amp;  Co", "", "1990"),
        ("2", "Pot", "", "1991"),
        ("3", "Pot", "", None),
        ("4", "A very long title: with much", "", None),
        ("4", "listed again", "", None),
        ("6", "never chosen", "", None),
    ]
    dataset = shop(ROWS, items, max_title=20, distinguish="detail")
    assert dataset.catalog.titles == ("Tea & Co", "Pot (1991)", "Pot", "A very long title…")
    assert dataset.warnings == {"items_listed_twice": 1, "titles_shortened": 1, "titles_tidied": 1}
    assert shop(ROWS, items, distinguish="id").catalog.titles[1:3] == ("Pot [2]", "Pot [3]")
    assert shop(ROWS, items).catalog.items_of_title["Pot"] == (1, 2)


def test_genres_are_cleaned_as_titles_are(shop: Callable[..., Dataset]) -> None:
    items = [("1", "Tea", "Food&amp;Drink Food&Drink &nbsp; Hot"), *ITEMS[1:]]
    assert shop(ROWS, items).catalog.genres[0] == ("Food&Drink", "Hot")


def test_items_without_title_leave_the_log_before_windows_are_made(shop: Callable[..., Dataset]) -> None:
    items = [("1", "Tea"), ("2", "..."), ("3", "Cup"), ("4", "Gift")]
    with pytest.raises(
        UserError, match=r"2 of 7 interactions \(29%\) .* the title of '2' cannot be used; pass --drop-unt"
    ):
        shop(ROWS, items)
    dataset = shop(ROWS, items, drop_untitled=True)
    assert dataset.catalog.titles == ("Tea", "Cup", "Gift")
    assert [*dataset.train, *dataset.test] == [Example((0,), 1), Example((0, 1), 2)]
    assert dataset.warnings == {"interactions_dropped_item_without_title": 2, "items_dropped_without_title": 1}


def test_what_the_protocol_drops_is_counted(shop: Callable[..., Dataset]) -> None:
    rows = [*ROWS, ("a", "4", 3), ("a", "4", 4), ("d", "5", 0), ("d", "1", 1)]
    protocol = Protocol(3, 1, min_length=2, core=2, repeats="consecutive", sizes=ALL.sizes)
    dataset = shop(rows, ITEMS, protocol)
    # of 11 rows 2 repeat item 4; c, 4 and 5 occur once; without them d and 3 do; left are 1 and 2 of a and b
    assert dataset.catalog.titles == ("Tea", "Pot")
    assert dataset.warnings == {"interactions_dropped_outside_core": 5, "interactions_dropped_repeated": 2}
    assert dataset.meta["log"]["users"] == 2
    with pytest.raises(UserError, match="--core leaves no items without interactions; leave out --unseen or --core"):
        shop(rows, ITEMS, protocol, unseen_items=True)


def test_a_split_that_leaks_time_says_so(shop: Callable[..., Dataset]) -> None:
    rows = [("a", item, time) for time, item in enumerate("12345")] + [
        ("b", item, 50 + time) for time, item in enumerate("12345")
    ]
    dataset = shop(rows, ITEMS, Protocol(3, 1, 1, split="leave-one-out", sizes=ALL.sizes))
    assert dataset.warnings == {"training_targets_later_than_first_test_target": 2}
    assert stats(dataset)["late_training_targets"] == 2


@pytest.mark.parametrize(
    ("rows", "items", "settings", "message"),
    [
        (ROWS, [("x1", "Tea")], {}, r"log has a title; the log has ids like '1', .* 'x1'"),
        (ROWS, [("1", "")], {}, "none of the 4 items of the log has a title"),
        ([("a", "1", 0), ("b", "2", 0)], ITEMS, {}, "no user has more than 1 interactions; use a smaller history"),
        ([("a", "1", 0), ("a", "2", 1)], ITEMS, {}, "no window is left for the train split"),
        (ROWS, ITEMS, {"min_length": 9}, "no user has 9 interactions"),
        (ROWS, ITEMS, {"core": 5}, "left in the 5-core"),
        (ROWS, ITEMS, {"min_rating": 3}, "the log has no ratings"),
    ],
)
def test_logs_that_leave_nothing_are_one_line(
    shop: Callable[..., Dataset], rows: list[Any], items: list[Any], settings: dict[str, Any], message: str
) -> None:
    protocol = replace(ALL, **settings)
    with pytest.raises(UserError, match=message):
        shop(rows, items, protocol)


def test_files_with_only_a_header_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\n")
    with pytest.raises(UserError, match="no interactions were found"):
        import_log("table", tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("user,item,time\n1,2,3\n")
    (tmp_path / "items.csv").write_text("item,title\n")
    with pytest.raises(UserError, match="ids like '2', the list of items has no ids"):
        import_log("table", tmp_path / "log.csv", items=tmp_path / "items.csv")


def test_an_unknown_genre_or_format_is_one_line(shop: Callable[..., Dataset], tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no item has the genre "noir"; genres: kitchen'):
        shop(ROWS, ITEMS, genres=["noir"])
    with pytest.raises(UserError, match=r'unknown format "csv"; formats: sprec, movielens, .*table'):
        import_log("csv", tmp_path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Files of the process may not grow beyond 4 kB, as on a full disk; the catalog needs more."""
    code = f"""
import resource
from sprec.data.demo import demo
from sprec.system.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    demo().save({str(tmp_path / "out")!r})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'out'}")
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared_data
def test_ml_latest_small(shared_data: Path) -> None:
    dataset = import_log("movielens", shared_data / "raw" / "ml-latest-small")
    assert dataset.name == "ml-latest-small"
    assert dataset.meta["log"] == {
        "rows": 100_836,
        "users": 610,
        "items": 9_742,
        "interactions": 100_836,
        "sequences": 100_836 - 10 * 610,
    }
    assert dataset.meta["windows"] == {"train": 75_788, "valid": 9_474, "test": 9_474}
    assert [len(dataset.splits[split]) for split in ("train", "valid", "test", "extra")] == [4096, 512, 1000, 4096]
    assert dataset.wording.prefix == "The user has watched the following movies before: "
    assert dataset.genres[:4] == ("Drama", "Comedy", "Action", "Thriller")
    assert dataset.warnings == {"items_that_share_a_title": 10, "titles_tidied": 15}
    assert (
        len(
            import_log(
                "movielens", shared_data / "raw" / "ml-latest-small", cleaning=Cleaning(unseen_items=False)
            ).catalog
        )
        == 9_724
    )


@pytest.mark.shared_data
def test_ml_100k(shared_data: Path) -> None:
    dataset = import_log("recbole", shared_data / "raw" / "ml-100k", cleaning=Cleaning(distinguish="detail"))
    log = {"rows": 100_000, "users": 943, "items": 1_682, "interactions": 100_000, "sequences": 100_000 - 10 * 943}
    assert dataset.meta["log"] == log
    assert dataset.meta["windows"] == {"train": 72_456, "valid": 9_057, "test": 9_057}
    assert dataset.catalog.titles[0] == "Toy Story"
    assert len(dataset.catalog.by_title) == 1_682


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_title": -5}, r"max_title must be 0 \(no limit\) or at least 10 characters, got -5"),
        ({"max_title": 9}, "at least 10 characters, got 9"),
        ({"top": -1}, "the number of genres to select must not be negative, got -1"),
    ],
)
def test_limits_that_leave_nothing_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cleaning(**settings)  # type: ignore[arg-type]
    assert Cleaning(max_title=10, top=0).max_title == 10
