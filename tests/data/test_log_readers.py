import datetime as dt
import gzip
import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sprec.data.logs import READERS, Cleaning, import_log
from sprec.data.readers import files, tables
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.table import Columns
from sprec.data.readers.table import read as read_table
from sprec.data.windows import Protocol
from sprec.system.errors import UserError

Event = tuple[Any, ...]


def events(log: Log) -> list[Event]:
    """User, item and milliseconds of each event."""
    return [row[:3] for row in rated(log)]


def rated(log: Log) -> list[Event]:
    """User, item, milliseconds and rating."""
    texts = (batch.with_columns(pl.col("user", "item").cast(pl.String)) for batch in log.events)
    return pl.concat(texts, how="vertical").with_columns(pl.col("time") // 1_000_000).rows()


def items(log: Log) -> list[tuple[Any, ...]]:
    assert list(log.items.columns) == list(ITEMS)
    return [(item, title, list(genres or ()), detail) for item, title, genres, detail in log.items.rows()]


def write_gz(path: Path, records: Iterable[Any], write: Any = json.dumps) -> None:
    path.write_bytes(gzip.compress("".join(write(record) + "\n" for record in records).encode()))


# MovieLens -----------------------------------------------------------------------------------------------------------


def ml_10m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("1::122::5::838985046\n1::185::4.5::838983525\n2::122::0.5::838983000\n")
    movies = "122::Boomerang: The Film (1992)::Comedy|Romance\n185::Amélie (2001)::(no genres listed)\n"
    (folder / "movies.dat").write_text(movies, "utf-8")


def ml_1m(folder: Path) -> None:
    ml_10m(folder)
    (folder / "movies.dat").write_text((folder / "movies.dat").read_text("utf-8"), "latin-1")


def ml_latest(folder: Path) -> None:
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,122,5.0,838985046\n1,185,4.5,838983525\n2,122,0.5,838983000\n"
    )
    (folder / "movies.csv").write_text(
        "movieId,title,genres\r\n"
        "122,Boomerang: The Film (1992),Comedy|Romance\r\n185,Amélie (2001),(no genres listed)\r\n",
        "utf-8",
    )


def ml_100k(folder: Path) -> None:
    (folder / "u.data").write_text("1\t122\t5\t838985046\n1\t185\t4\t838983525\n2\t122\t1\t838983000\n")
    flags = {"122": {5, 14}, "185": {0}}
    titles = {"122": "Boomerang: The Film (1992)", "185": "Amélie (2001)"}
    lines = [
        f"{item}|{title}|01-Jan-1992||http://x|{'|'.join(str(int(i in flags[item])) for i in range(19))}\n"
        for item, title in titles.items()
    ]
    (folder / "u.item").write_text("".join(lines), "latin-1")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", [ml_10m, ml_1m, ml_latest, ml_100k])
def test_movielens_in_every_layout(tmp_path: Path, layout: Any, zipped: bool) -> None:
    inner = tmp_path / "source" / "ml"
    inner.mkdir(parents=True)
    layout(inner)
    source = tmp_path / "source"
    if zipped:
        source = tmp_path / "ml.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in inner.iterdir():
                archive.write(path, f"ml/{path.name}")
    faults = Faults()
    log = READERS["movielens"](source, faults)
    assert events(log) == [("1", "122", 838_985_046_000), ("1", "185", 838_983_525_000), ("2", "122", 838_983_000_000)]
    assert items(log) == [
        ("122", "Boomerang: The Film (1992)", ["Comedy", "Romance"], None),
        ("185", "Amélie (2001)", [], None),
    ]
    assert log.whole_catalog
    assert not faults.counts


def test_malformed_movielens_lines_are_counted(tmp_path: Path) -> None:
    ml_10m(tmp_path)
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write("3::x::1::5\n4::122\n")
    with (tmp_path / "movies.dat").open("a") as file:
        file.write("9\n")
    faults = Faults()
    log = READERS["movielens"](tmp_path, faults)
    assert events(log)[3:] == [("3", "x", 5000)]
    assert faults.counts == {"malformed_lines": 1, "interactions_dropped_without_time": 1}
    assert [place.split(": ")[0] for place in faults.examples["malformed_lines"]] == ["movies.dat:3", "ratings.dat:5"]


def test_movielens_ratings_are_read_by_the_names_of_their_columns(tmp_path: Path) -> None:
    ml_latest(tmp_path)
    (tmp_path / "ratings.csv").write_text(
        "timestamp,note,movieId,userId,rating\n2017-07-14 02:40:00,x,122,1,5\n1500000001.5,,185,1,4,further\n5,,,1,4\n"
    )
    faults = Faults()
    found = rated(READERS["movielens"](tmp_path, faults))
    assert found == [("1", "122", 1_500_000_000_000, 5.0), ("1", "185", 1_500_000_001_500, 4.0)]
    assert faults.counts == {"interactions_dropped_without_item": 1}


def test_a_missing_column_of_movielens_ratings_is_one_line(tmp_path: Path) -> None:
    ml_latest(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,122,5.0\n")
    with pytest.raises(
        UserError, match=r'ratings.csv in .* has no column "timestamp"; columns: userId, movieId, rating$'
    ):
        events(READERS["movielens"](tmp_path, Faults()))


# UCSD ----------------------------------------------------------------------------------------------------------------


def test_goodreads(tmp_path: Path) -> None:
    write_gz(
        tmp_path / "goodreads_interactions_poetry.json.gz",
        [
            {"user_id": "u1", "book_id": "7", "rating": 5, "date_added": "Thu Jul 13 19:40:00 -0700 2017"},
            {"user_id": "u1", "book_id": 8, "rating": 0, "date_added": "Thu Jul 13 19:40:01 -0700 2017"},
            {"user_id": "u2", "book_id": "7", "rating": 3, "date_added": ""},
        ],
    )
    books = [{"book_id": "7", "title": "Odes", "publication_year": "1819"}, {"book_id": "8", "title": ""}]
    write_gz(tmp_path / "goodreads_books_poetry.json.gz", books)
    genres = [{"book_id": "7", "genres": {"poetry": 9, "history, biography": 1}}, {"book_id": "8", "genres": {}}]
    write_gz(tmp_path / "goodreads_book_genres_initial.json.gz", genres)
    faults = Faults()
    log = READERS["goodreads"](tmp_path, faults)
    assert rated(log) == [("u1", "7", 1_500_000_000_000, 5.0), ("u1", "8", 1_500_000_001_000, None)]
    assert items(log) == [("7", "Odes", ["poetry", "history, biography"], "1819"), ("8", "", [], None)]
    assert faults.examples == {
        "malformed_lines": ["goodreads_interactions_poetry.json.gz:3: user='u2', item='7', time=''"]
    }


AMAZON = {
    2014: (
        {"reviewerID": "A1", "asin": "B1", "overall": 4.0, "unixReviewTime": 1_500_000_000},
        {"asin": "B1", "title": 'It\'s "Live"', "categories": [["CDs", "Pop"], ["CDs", "Jazz"]], "brand": "Seal"},
    ),
    2018: (
        {"reviewerID": "A1", "asin": "B1", "overall": 4.0, "unixReviewTime": 1_500_000_000},
        {"asin": "B1", "title": 'It\'s "Live"', "category": ["CDs", "Pop", "Jazz"], "brand": "Seal"},
    ),
    2023: (
        {"user_id": "A1", "asin": "B0", "parent_asin": "B1", "rating": 4.0, "timestamp": 1_500_000_000_000},
        {"parent_asin": "B1", "title": 'It\'s "Live"', "categories": ["CDs", "Pop", "Jazz"], "store": "Seal"},
    ),
}


@pytest.mark.parametrize("year", AMAZON)
def test_amazon_of_all_years(tmp_path: Path, year: int) -> None:
    review, item = AMAZON[year]
    write_gz(tmp_path / "CDs_5.json.gz", [review, review])
    write_gz(tmp_path / "meta_CDs.json.gz", [item], repr if year == 2014 else json.dumps)
    log = READERS["amazon"](tmp_path, Faults())
    assert rated(log) == [("A1", "B1", 1_500_000_000_000, 4.0)] * 2
    assert items(log) == [("B1", 'It\'s "Live"', ["CDs", "Pop", "Jazz"], "Seal")]


def python_2(record: dict[str, Any]) -> str:
    """As Python 2 wrote it: u'' strings."""
    fields = (f"u{key!r}: {'u' if isinstance(value, str) else ''}{value!r}" for key, value in record.items())
    return "{" + ", ".join(fields) + "}"


def steam_games(folder: Path) -> None:
    games = [
        {"id": "10", "app_name": "Counter-Strike", "genres": ["Action"], "release_date": "2000-11-01"},
        {"id": "20", "title": "Team Fortress", "release_date": "soon"},
        {"title": "no id"},
    ]
    write_gz(folder / "steam_games.json.gz", games, python_2)


GAMES = [("10", "Counter-Strike", ["Action"], "2000"), ("20", "Team Fortress", [], "soon")]


def test_steam_reviews(tmp_path: Path) -> None:
    steam_games(tmp_path)
    review = {"username": "Chaos", "product_id": "10", "date": "2017-07-14", "text": 'It\'s\n"good"'}
    write_gz(tmp_path / "steam_reviews.json.gz", [review, {"username": "x"}], python_2)
    faults = Faults()
    log = READERS["steam"](tmp_path, faults)
    assert events(log) == [("Chaos", "10", 1_499_990_400_000)]
    assert items(log) == GAMES
    assert faults.counts == {"interactions_dropped_without_item": 1, "items_dropped_without_id": 1}


def test_steam_libraries_without_times_keep_their_order(tmp_path: Path) -> None:
    steam_games(tmp_path)
    libraries = [{"user_id": "u", "items": [{"item_id": "20"}, {"item_id": "10"}, "?"]}, {"user_id": "v"}]
    write_gz(tmp_path / "australian_users_items.json.gz", libraries, repr)
    faults = Faults()
    log = READERS["steam"](tmp_path, faults)
    assert events(log) == [("u", "20", 0), ("u", "10", 1000)]
    assert faults.counts == {
        "malformed_lines": 1,
        "interactions_dropped_without_item": 1,
        "items_dropped_without_id": 1,
    }


def test_steam_libraries_are_not_split_by_time(tmp_path: Path) -> None:
    steam_games(tmp_path)
    libraries = [{"user_id": user, "items": [{"item_id": id_} for id_ in ("20", "10") * 2]} for user in "uv"]
    write_gz(tmp_path / "australian_users_items.json.gz", libraries, repr)
    with pytest.raises(UserError, match="lib has no times, only an order per user; use --split leave-one-out or --spl"):
        import_log("steam", tmp_path, "lib", Protocol(1, min_length=1))
    dataset = import_log("steam", tmp_path, "lib", Protocol(1, min_length=1, split="leave-one-out"))
    assert list(dataset.test) == [((1,), 0), ((1,), 0)]
    assert dataset.warnings == {"items_dropped_without_id": 1}


# RecBole and tables --------------------------------------------------------------------------------------------------


def recbole(folder: Path) -> None:
    (folder / "shop.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t5\t881250949\nu1\ti2\t\t881250950.5\n"
    )
    (folder / "shop.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        'i1\tThe "Real" Thing\t1995\tDrama Sci-Fi\ni2\tOther\t\t\n'
    )


def test_recbole(tmp_path: Path) -> None:
    recbole(tmp_path)
    log = READERS["recbole"](tmp_path, Faults())
    assert rated(log) == [("u1", "i1", 881_250_949_000, 5.0), ("u1", "i2", 881_250_950_500, None)]
    assert items(log) == [("i1", 'The "Real" Thing', ["Drama", "Sci-Fi"], "1995"), ("i2", "Other", [], None)]


SHOP = pl.DataFrame({"customer": ["a", "a", "b"], "sku": ["1", "02", "1"], "at": ["2017-07-14"] * 3})
PRODUCTS = pl.DataFrame({"sku": ["1", "02"], "name": ["Tea, green", " Pot "], "kind": ["Food;Drink", None]})
NAMES = Columns(user="customer", item="sku", time="at", title="name", genres="kind", separator=";")


def write_table(frame: pl.DataFrame, path: Path) -> Path:
    if path.name.endswith(".parquet"):
        frame.write_parquet(path)
    elif path.name.endswith(".jsonl"):
        frame.write_ndjson(path)
    else:
        text = frame.write_csv(separator="\t" if ".tsv" in path.name else ",").encode()
        path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet", ".jsonl"])
def test_tables_of_all_kinds(tmp_path: Path, suffix: str) -> None:
    log_file = write_table(SHOP, tmp_path / f"log{suffix}")
    item_file = write_table(PRODUCTS, tmp_path / f"items{suffix}")
    log = read_table(log_file, item_file, Faults(), NAMES)
    day = 1_499_990_400_000
    assert events(log) == [("a", "1", day), ("a", "02", day), ("b", "1", day)]
    assert items(log) == [("1", "Tea, green", ["Food", "Drink"], None), ("02", "Pot", [], None)]


def test_spreadsheets_and_their_habits(tmp_path: Path) -> None:
    """A byte order mark, semicolons, Windows line ends, quotes around everything."""
    rows = '"customer";"sku";"at"\r\n"a";"1";"2017-07-14 02:40"\r\n'
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert events(read_table(tmp_path / "log.csv", None, Faults(), NAMES)) == [("a", "1", 1_500_000_000_000)]


def test_bad_lines_of_json_are_counted(tmp_path: Path) -> None:
    content = '{"customer": 7, "sku": "1", "at": 5.25, "name": "Tea"}\n{bad\n{"customer": 8, "sku": "1", "at": 1j}\n'
    (tmp_path / "log.jsonl").write_text(content)
    faults = Faults()
    log = read_table(tmp_path / "log.jsonl", None, faults, NAMES)
    assert events(log) == [("7", "1", 5250)]
    assert items(log) == [("1", "Tea", [], None)]
    assert faults.counts == {"malformed_lines": 1, "interactions_dropped_without_time": 1}


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["a", "b", "1", "02", "2017-07-14", "4.5"]), pl.Binary])
def test_texts_of_parquet_may_be_categories_or_bytes(tmp_path: Path, kind: Any) -> None:
    log = write_table(SHOP.with_columns(rating=pl.lit("4.5")).cast(kind), tmp_path / "log.parquet")
    products = PRODUCTS.cast({"sku": pl.Binary, "name": pl.Categorical, "kind": pl.Categorical})
    read = read_table(log, write_table(products, tmp_path / "items.parquet"), Faults(), NAMES)
    assert rated(read)[:2] == [
        ("a", "1", 1_499_990_400_000, 4.5),
        ("a", "02", 1_499_990_400_000, 4.5),
    ]
    assert items(read) == [("1", "Tea, green", ["Food", "Drink"], None), ("02", "Pot", [], None)]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("time", [dt.time(1, 2)], "type Time as time"),
        ("time", [dt.timedelta(1)], r"type Duration\(.*\) as time"),
        ("time", [[5]], r"type List\(Int64\) as time"),
        ("user", [["a"]], r"type List\(String\) as user"),
        ("user", [b"\xff"], "type Binary as user"),
        ("item", [{"a": 1}], r"type Struct\(.*\) as item"),
        ("rating", [[5]], r"type List\(Int64\) as rating"),
        ("title", [["Tea"]], r"type List\(String\) as title"),
        ("detail", [["Tea"]], r"type List\(String\) as detail"),
        ("genres", [{"a": 1}], r"type Struct\(.*\) as genres"),
        ("genres", [[["a"]]], r"type List\(String\) as genres"),
    ],
)
def test_columns_of_unusable_types_are_one_line(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    frame = pl.DataFrame({"user": ["a"], "item": ["1"], "time": [5], "title": ["Tea"]})
    path = write_table(frame.with_columns(pl.Series(column, values)), tmp_path / "log.parquet")
    with pytest.raises(UserError, match=rf"log.parquet: cannot use the column of {message}; write numbers or text"):
        events(read_table(path, None, Faults()))


def test_half_of_a_character_in_json_is_no_id_no_time_and_no_title(tmp_path: Path) -> None:
    log: list[dict[str, Any]] = [{"user": f"u{i % 3}", "item": f"i{i % 4}", "time": i} for i in range(40)]
    log += [{"user": "\ud83d", "item": "i1", "time": 50}, {"user": "u1", "item": "i1", "time": "\ud83d"}]
    titles = ["Tea \ud83d", "Pot", "Mug", "Cup"]
    products = [{"item": f"i{i}", "title": title, "genres": ["a", "\ud83d"]} for i, title in enumerate(titles)]
    for name, records in (("log", log), ("items", products)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    cleaning = Cleaning(drop_untitled=True)
    products_file = tmp_path / "items.jsonl"
    dataset = import_log("table", tmp_path / "log.jsonl", "log", Protocol(3), cleaning, items=products_file)
    assert dataset.save(tmp_path / "data").catalog.titles == ("Pot", "Mug", "Cup")
    assert set(dataset.catalog.genres) == {("a",)}
    assert dataset.warnings["interactions_dropped_without_user"] == 1
    assert dataset.warnings["interactions_dropped_without_time"] == 1
    assert dataset.warnings["items_dropped_without_title"] == 1


def test_a_truth_value_is_no_time_beside_numbers_and_texts(tmp_path: Path) -> None:
    for others in ("5", '"5"', "5.0"):
        line = '{"user": 1, "item": 1, "time": %s}\n'
        (tmp_path / "log.jsonl").write_text(line % "true" + line % others)
        assert events(read_table(tmp_path / "log.jsonl", None, Faults())) == [("1", "1", 5000)]


def test_whole_numbers_written_as_floats_are_ids(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"user": 7.0, "item": 1.0, "time": 5}\n{"user": 7.5, "item": 1, "time": 6}\n')
    faults = Faults()
    log = read_table(tmp_path / "log.jsonl", None, faults)
    assert (events(log), items(log)) == ([("7", "1", 5000)], [("1", "1", [], None)])
    assert faults.counts == {"interactions_dropped_without_user": 1}
    pl.DataFrame({"user": [7.0], "item": [1.0], "time": [5]}).write_parquet(tmp_path / "log.parquet")
    log = read_table(tmp_path / "log.parquet", None, Faults())
    assert (events(log), items(log)) == ([("7", "1", 5000)], [("1", "1", [], None)])


def test_large_unsigned_ids_of_parquet_are_kept(tmp_path: Path) -> None:
    ids = pl.Series([2**64 - 1, 2**63], dtype=pl.UInt64)
    pl.DataFrame({"user": ids, "item": ids, "time": [5, 6]}).write_parquet(tmp_path / "log.parquet")
    log = read_table(tmp_path / "log.parquet", None, Faults())
    large, small = str(2**64 - 1), str(2**63)
    assert events(log) == [(large, large, 5000), (small, small, 6000)]
    assert {title: item for item, title, _, _ in items(log)} == {large: large, small: small}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_of_several_titles_in_a_log_the_most_frequent_counts(tmp_path: Path, suffix: str) -> None:
    told = [("1", "Tea", "Food"), ("1", "Tea", "Drink"), ("1", "tea?", "Food"), ("1", None, None), ("1", None, None)]
    told += [("1", None, None), ("2", "Pot", "B"), ("2", "Mug", "A"), ("3", "Cup", "A"), ("3", "Cup", "B")]
    frame = pl.DataFrame(told, schema=["sku", "name", "kind"], orient="row").with_columns(customer=pl.lit("a"), at=5)
    for seed in range(5):
        faults = Faults()
        path = write_table(frame.sample(fraction=1, shuffle=True, seed=seed), tmp_path / f"log{suffix}")
        found = items(read_table(path, None, faults, NAMES))
        assert sorted(found) == [("1", "Tea", ["Drink"], None), ("2", "Mug", ["A"], None), ("3", "Cup", ["A"], None)]
        assert faults.counts == {"items_with_several_titles": 2}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_row_with_too_many_fields_is_one_line(tmp_path: Path, suffix: str) -> None:
    rows = gzip.compress if suffix.endswith(".gz") else bytes
    (tmp_path / f"items{suffix}").write_bytes(rows(b"sku,name,kind,price\n1,Pot,Ware,2\n12,Tea, green,Food,3\n"))
    log = write_table(SHOP, tmp_path / "log.csv")
    with pytest.raises(
        UserError, match=rf"cannot read .*items{suffix}: a row has more fields than the header; put quo"
    ):
        read_table(log, tmp_path / f"items{suffix}", Faults(), NAMES)
    (tmp_path / f"log{suffix}").write_bytes(rows(b"sku,customer,at,note\n1,a,5,x\n1,b,6,x, y\n"))
    with pytest.raises(UserError, match=rf"cannot read .*log{suffix}: a row has more fields"):
        events(read_table(tmp_path / f"log{suffix}", log, Faults(), Columns("customer", "sku", "at", title="sku")))


def test_a_log_can_carry_its_titles_or_use_ids_as_titles(tmp_path: Path) -> None:
    titled = write_table(SHOP.with_columns(name=pl.col("sku") + " tea"), tmp_path / "titled.csv")
    assert sorted(items(read_table(titled, None, Faults(), NAMES))) == [
        ("02", "02 tea", [], None),
        ("1", "1 tea", [], None),
    ]
    bare = write_table(SHOP, tmp_path / "bare.csv")
    assert sorted(items(read_table(bare, None, Faults(), NAMES))) == [("02", "02", [], None), ("1", "1", [], None)]


def test_titles_of_a_log_are_counted_over_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 2)
    told = ["Tea", "Mug", "Tea", "Mug", "Pot", "Pot", "Pot", "Tea"]
    for suffix in (".csv", ".parquet"):
        frame = pl.DataFrame({"user": "a", "item": "1", "time": 5, "title": told})
        faults = Faults()
        log = read_table(write_table(frame, tmp_path / f"log{suffix}"), None, faults)
        assert items(log) == [("1", "Pot", [], None)]
        assert len(events(log)) == 8
        assert faults.counts == {"items_with_several_titles": 1}


@pytest.mark.parametrize("listed", [False, True])
def test_a_parquet_log_that_gives_fewer_rows_than_it_promises_is_one_line(tmp_path: Path, listed: bool) -> None:
    frame = pl.DataFrame({"user": ["a"] * 1500, "item": ["1"] * 1500, "time": range(1500)})
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=1000)
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    at = content.rindex(b"\x16\xe8\x07")  # the 500 rows of the second group, as Thrift writes them
    content[at + 1] += 2  # 501: a thread of polars panics
    (tmp_path / "log.parquet").write_bytes(content)
    products = write_table(pl.DataFrame({"item": ["1"], "title": ["Tea"]}), tmp_path / "items.csv")
    with pytest.raises(UserError, match=r"cannot read .*log.parquet: [\d,]+ of 1,500 rows are there; it is damaged"):
        events(read_table(tmp_path / "log.parquet", products if listed else None, Faults()))


def write_lists_with_gaps(folder: Path) -> None:
    """Lists of every format with one item, 7, and two without an id."""
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,7,5,5\n")
    (folder / "movies.csv").write_text('movieId,title,genres\n7,Tea,A\n,Pot,A\n"",Mug,A\n')
    write_gz(folder / "goodreads_interactions.json.gz", [{}])
    write_gz(folder / "goodreads_books.json.gz", [{"book_id": 7}, {"title": "Pot"}, {"book_id": ""}])
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t7\t5\n")
    (folder / "shop.item").write_text("item_id:token\ttitle:token\n7\tTea\n\tPot\n \tMug\n")


@pytest.mark.parametrize("format", ["movielens", "goodreads", "recbole"])
def test_listed_items_without_an_id_are_counted(tmp_path: Path, format: str) -> None:
    write_lists_with_gaps(tmp_path)
    faults = Faults()
    log = READERS[format](tmp_path, faults)
    assert [item for item, *_ in items(log)] == ["7"]
    assert faults.counts["items_dropped_without_id"] == 2


def test_products_without_an_id_are_counted(tmp_path: Path) -> None:
    write_gz(tmp_path / "CDs_5.json.gz", [{}])
    write_gz(tmp_path / "meta_CDs.json.gz", [{"asin": "7"}, {"title": "Pot"}, {"asin": None}])
    faults = Faults()
    assert [item for item, *_ in items(READERS["amazon"](tmp_path, faults))] == ["7"]
    assert faults.counts == {"items_dropped_without_id": 2}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_rows_without_an_id_are_counted_in_a_list_and_in_a_log(tmp_path: Path, suffix: str) -> None:
    rows = {"user": ["a"] * 3, "item": ["7", None, " "], "time": [5] * 3, "title": ["Tea", "Pot", "Mug"]}
    log = write_table(pl.DataFrame(rows), tmp_path / f"log{suffix}")
    listed = write_table(pl.DataFrame(rows).select("item", "title"), tmp_path / f"items{suffix}")
    for source, counts in (
        (listed, {"items_dropped_without_id": 2, "interactions_dropped_without_item": 2}),
        (None, {"interactions_dropped_without_item": 2}),
    ):
        faults = Faults()
        read = read_table(log, source, faults)
        assert events(read) == [("a", "7", 5000)]
        assert items(read) == [("7", "Tea", [], None)]
        assert faults.counts == counts


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("movielens", r"holds no MovieLens ratings \(ratings.dat, ratings.csv or u.data\)"),
        ("goodreads", "holds no Goodreads interactions"),
        ("amazon", "holds no Amazon metadata"),
        ("steam", "holds no Steam games"),
        ("recbole", "holds no RecBole interactions"),
    ],
)
def test_a_folder_of_another_format_is_one_line(tmp_path: Path, format: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=message):
        READERS[format](tmp_path, Faults())


@pytest.mark.parametrize("format", READERS)
def test_a_missing_source_is_one_line(tmp_path: Path, format: str) -> None:
    with pytest.raises(UserError, match="nowhere"):
        READERS[format](tmp_path / "nowhere", Faults())


def test_a_broken_zip_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ml.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UserError, match=r"ml.zip is not a readable zip"):
        READERS["movielens"](tmp_path / "ml.zip", Faults())


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(6, 1, "password required"), (8, 99, "compression method"), (41, 7, "invalid block type"), (41, None, "zip")],
    ids=["password", "method", "damaged", "cut"],
)
def test_an_unreadable_zip_is_one_line(tmp_path: Path, at: int, value: int | None, message: str) -> None:
    ml_latest(tmp_path)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("ratings.csv", "movies.csv"):
            archive.write(tmp_path / name, name)
    content = bytearray((tmp_path / "ml.zip").read_bytes())
    if value is None:
        del content[at:]
    else:
        content[at] = value
        if at < 30:  # also in the table of contents
            content[content.find(b"PK\x01\x02") + at + 2] = value
    (tmp_path / "ml.zip").write_bytes(content)
    with pytest.raises(UserError, match=rf"{message}.*fetch"):
        READERS["movielens"](tmp_path / "ml.zip", Faults())


def test_a_zip_that_unpacks_to_absurdly_much_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UNPACKED", 1 << 20)
    for name, filling in (("ratings.csv", "1,2,5,5\n" * 1_000_000), ("movies.csv", "0" * 8_000_000)):
        ml_latest(tmp_path)
        with (tmp_path / name).open("a") as file:
            file.write(filling)
        with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for part in ("ratings.csv", "movies.csv"):
                archive.write(tmp_path / part, part)
        with pytest.raises(UserError, match=rf"{name} in .*ml.zip unpacks to more than 200 times its size"):
            events(READERS["movielens"](tmp_path / "ml.zip", Faults()))


def test_a_layout_with_a_file_missing_or_empty_is_one_line(tmp_path: Path) -> None:
    ml_10m(tmp_path)
    (tmp_path / "movies.dat").write_text("")
    with pytest.raises(UserError, match=r"movies.dat in .* is empty"):
        READERS["movielens"](tmp_path, Faults())
    (tmp_path / "movies.dat").unlink()
    with pytest.raises(UserError, match=r"holds no movies.dat"):
        READERS["movielens"](tmp_path, Faults())
    (tmp_path / "ratings.dat").write_text("")
    with pytest.raises(UserError, match=r"ratings.dat in .* is empty"):
        READERS["movielens"](tmp_path, Faults())


def test_names_that_are_not_utf8_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"b\xff")
    folder.mkdir()
    ml_latest(folder)
    with pytest.raises(UserError, match=r"/b\? has a name that is not UTF-8; rename it"):
        import_log("movielens", folder, "films")
    recbole(tmp_path)
    (tmp_path / "shop.item").rename(tmp_path / os.fsdecode(b"shop\xff.item"))
    with pytest.raises(UserError, match=r"/shop\?.item has a name that is not UTF-8"):
        READERS["recbole"](tmp_path, Faults())
    with pytest.raises(UserError, match=r"^\? has a name that is not UTF-8"):
        import_log("movielens", tmp_path, os.fsdecode(b"\xff"))


def test_amazon_needs_one_file_of_reviews(tmp_path: Path) -> None:
    write_gz(tmp_path / "meta_CDs.json.gz", [{}])
    with pytest.raises(UserError, match=r"one file of reviews beside meta_CDs.json.gz, found none"):
        READERS["amazon"](tmp_path, Faults())
    write_gz(tmp_path / "meta_Books.json.gz", [{}])
    with pytest.raises(UserError, match=r"several files of Amazon metadata: meta_Books.json.gz, meta_CDs.json.gz"):
        READERS["amazon"](tmp_path, Faults())


def test_recbole_headers_are_checked(tmp_path: Path) -> None:
    recbole(tmp_path)
    (tmp_path / "shop.item").write_text("item_id:token\tprice:float\n1\t2\n")
    with pytest.raises(UserError, match="needs the columns item_id and title; columns: item_id, price"):
        READERS["recbole"](tmp_path, Faults())
    (tmp_path / "shop.item").write_text("item_id\ttitle\n1\tx\n")
    with pytest.raises(UserError, match=r"shop.item:1: a RecBole header types its columns like item_id:token"):
        READERS["recbole"](tmp_path, Faults())


def damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "log.csv is empty"),
        ("log.csv", b"user,item\n1,2\n", 'log.csv has no column "time"; columns: user, item'),
        ("log.csv", b"user,item,time\n\xff\xfe,1,2\n", "cannot read .*log.csv: .*[uU][tT][fF]"),
        ("log.csv", b"user,item,time\n-5,1,2\n1,1,2\n", "log.csv: user id -5 is negative"),
        ("log.csv", b"user,item,time\n1,1,soon\n", "log.csv: cannot read the time 'soon'"),
        ("log.parquet", b"PAR1 is not enough", "cannot read .*log.parquet"),
        ("log.jsonl", b"[1]\n{not json\n", "log.jsonl holds no JSON objects"),
        ("log.jsonl", b'{"user": 1, "item": 2}\n', 'log.jsonl has no column "time"; columns: user, item'),
        ("log.csv.gz", b"\x1f\x8b\x08 cut", "cannot read .*log.csv.gz"),
    ],
)
def test_malformed_tables_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = damaged(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_table(path, None, Faults()).events)
    assert "\n" not in str(caught.value)
