"""Lists for all users: the same as one by one, whole or not at all, resumable, with the shop's ids."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sprec.data import Dataset
from sprec.runs import Recommender, run
from sprec.runs.recipes import resolve
from sprec.serve import batch, users
from sprec.serve.batch import Choice, recommend_to_all
from sprec.system import storage
from sprec.system.errors import UserError
from toy_runs import Cli


@pytest.fixture(scope="module")
def recommender(shop: Path) -> Recommender:
    return Recommender.load(shop / "run")


def bought(shop: Path) -> dict[str, list[str]]:
    """What customers bought, in the order of the log."""
    found: dict[str, list[str]] = {}
    for line in (shop / "orders.csv").read_text().splitlines()[1:]:
        customer, sku, _, what = line.split(";")
        if what == "buy":
            found.setdefault(customer, []).append(sku)
    return found


def by_user(frame: pl.DataFrame) -> dict[str, list[str]]:
    assert frame.columns == ["user", "rank", "item", "source_id", "title", "score"]
    lists = frame.group_by("user", maintain_order=True).agg(pl.col("source_id"), pl.col("rank"))
    assert all(ranks == list(range(1, len(ranks) + 1)) for ranks in lists["rank"].to_list())
    return dict(zip(lists["user"].to_list(), lists["source_id"].to_list(), strict=True))


def test_every_user_of_a_log_gets_the_list_of_their_history(
    shop: Path, recommender: Recommender, tmp_path: Path
) -> None:
    histories, catalog = bought(shop), recommender.catalog
    counts = recommend_to_all(recommender, tmp_path / "recs.parquet", log=shop / "orders.csv", k=6)
    frame = pl.read_parquet(tmp_path / "recs.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]
    found = by_user(frame)
    assert list(found) == sorted(histories)
    assert vars(counts) == {"users": 40, "rows": 240, "popular": 0, "short": 0, "unknown": 0, "unproven": 0}
    popularity = recommender.session.counts
    for customer, history in histories.items():
        items = [catalog.by_source_id[sku] for sku in history]
        alone = recommender.recommend([items], 6, exclude_history=True)[0]
        assert found[customer] == [catalog.source_ids[item] for item in alone]
        assert not set(found[customer]) & set(history)
    row = frame.row(7, named=True)
    assert (row["title"], row["score"]) == (f"Thing {int(row['source_id'])}", popularity[row["item"]])
    assert catalog.source_ids[row["item"]] == row["source_id"]


def test_filters_and_blocks_of_single_users(shop: Path, recommender: Recommender, tmp_path: Path) -> None:
    """Ten kinds of ware are in the catalogue, eight of them in stock, one is blocked for all and two for C03."""
    (tmp_path / "stock.txt").write_text("".join(f"{sku:03}\n" for sku in range(24)) + "999\n")
    (tmp_path / "block.csv").write_text("sku,customer\n002,\n005,C03\nThing 8,C03\n")
    choice = Choice(in_stock=tmp_path / "stock.txt", block=tmp_path / "block.csv", genres=["Ware"], repeat=True)
    counts = recommend_to_all(recommender, tmp_path / "recs.csv", log=shop / "orders.csv", k=6, choice=choice)
    found = by_user(pl.read_csv(tmp_path / "recs.csv", schema_overrides={"source_id": pl.String}))
    stock = {f"{sku:03}" for sku in range(5, 24, 3)}
    assert len(stock) == 7
    assert {sku for own in found.values() for sku in own} <= stock
    assert set(found["C03"]) == stock - {"005", "008"}
    assert all(len(own) == 6 for customer, own in found.items() if customer != "C03")
    assert (counts.short, counts.rows) == (1, 39 * 6 + 5)


def test_histories_of_a_file(shop: Path, recommender: Recommender, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"user": 7, "history": ["Thing 4", "007"]},
        {"user": "new", "history": []},
        {"user": "C1", "history": ["nothing known", "011"], "block": ["000", "gone"]},
    ]
    (tmp_path / "users.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    with pytest.raises(UserError, match="the history of 'C1' names 'nothing known', which the catalog does not have"):
        recommend_to_all(recommender, tmp_path / "recs.jsonl", histories=tmp_path / "users.jsonl", k=29)
    counts = recommend_to_all(
        recommender, tmp_path / "recs.jsonl", histories=tmp_path / "users.jsonl", k=29, unknown="skip"
    )
    frame = pl.read_ndjson(tmp_path / "recs.jsonl")
    found = by_user(frame)
    everything = {f"{sku:03}" for sku in range(30)}
    assert set(found["7"]) == everything - {"004", "007"}
    assert len(found["new"]) == 29
    assert set(found["C1"]) == everything - {"011", "000"}
    assert vars(counts) == {"users": 3, "rows": 28 + 29 + 28, "popular": 1, "short": 2, "unknown": 1, "unproven": 0}
    assert frame.filter(pl.col("user") == "new")["score"].null_count() == 29


def test_a_stopped_call_goes_on_and_other_settings_begin_again(
    shop: Path,
    recommender: Recommender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pieces of 15 users; line 38 is broken, and is mended."""
    for module in (users, batch):
        monkeypatch.setattr(module, "CHUNK", 15)
    names = list(bought(shop).items())
    lines = [json.dumps({"user": name, "history": history}) for name, history in names]
    file, out, parts = tmp_path / "users.jsonl", tmp_path / "recs.parquet", tmp_path / "recs.parquet.parts"
    file.write_text("\n".join([*lines[:37], "{", *lines[38:]]))
    for _ in range(2):
        with pytest.raises(UserError, match=r"users.jsonl, line 38 is no JSON"):
            recommend_to_all(recommender, out, histories=file, k=4)
        assert sorted(path.name for path in parts.glob("0*")) == [
            "000000.json", "000000.parquet", "000001.json", "000001.parquet"
        ]  # fmt: skip
        assert not out.exists()
    made = (parts / "000001.parquet").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"users.jsonl, line 38 is no JSON"):
        recommend_to_all(recommender, out, histories=file, k=4)
    assert (parts / "000001.parquet").stat().st_mtime_ns == made
    with pytest.raises(UserError, match=r"users.jsonl, line 38 is no JSON"):
        recommend_to_all(recommender, out, histories=file, k=5)
    assert "was made of another run, users or settings" in capsys.readouterr().err
    assert (parts / "000001.parquet").stat().st_mtime_ns > made
    file.write_text("\n".join(lines))
    recommend_to_all(recommender, out, histories=file, k=5)
    recommend_to_all(recommender, tmp_path / "log.parquet", log=shop / "orders.csv", k=5)
    ours, theirs = by_user(pl.read_parquet(out)), by_user(pl.read_parquet(tmp_path / "log.parquet"))
    assert ours == theirs
    assert not parts.exists()


def test_a_call_that_was_killed_before_it_removed_its_pieces_removes_them(
    shop: Path, recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "recs.csv", shop / "orders.csv"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "discard", lambda _: None)
        counts = recommend_to_all(recommender, out, log=log, k=2)
    whole = out.read_bytes()
    assert recommend_to_all(recommender, out, log=log, k=2) == counts
    assert [path.name for path in tmp_path.iterdir()] == ["recs.csv"]
    assert out.read_bytes() == whole
    with monkeypatch.context() as patch:
        patch.setattr(storage, "discard", lambda _: None)
        recommend_to_all(recommender, out, log=log, k=2, overwrite=True)
    out.write_text("edited by hand")
    with pytest.raises(UserError, match="already exists"):
        recommend_to_all(recommender, out, log=log, k=2)


def test_a_call_that_was_killed_at_once_is_made_anew(shop: Path, recommender: Recommender, tmp_path: Path) -> None:
    parts = tmp_path / "recs.csv.parts"
    parts.mkdir()
    for name in (".lock", ".key.json.01234567.tmp"):
        (parts / name).touch()
    assert recommend_to_all(recommender, tmp_path / "recs.csv", log=shop / "orders.csv", k=2).users == 40


def test_a_spreadsheet_computes_nothing_of_a_csv(toy_data: Path, tmp_path: Path) -> None:
    """Titles and ids of users are texts from anywhere; ids that are numbers stay what they are."""
    names = ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1 for tea", "-5", "-5.5", "tea", "\t=1"]
    lines = [{"user": name, "history": ["Alien (1979)"]} for name in names]
    (tmp_path / "users.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, lines)))
    run(resolve("demo", ["method=popularity", "cases=10"]), Dataset.load(toy_data), tmp_path / "run")
    recommender = Recommender.load(tmp_path / "run")
    for suffix in ("csv", "jsonl"):
        recommend_to_all(recommender, tmp_path / f"r.{suffix}", histories=tmp_path / "users.jsonl", k=1)
    told = pl.read_csv(tmp_path / "r.csv", infer_schema=False)["user"].to_list()
    assert told == ["'=cmd|' /C calc'!A0", "'@SUM(A1)", "'+1 for tea", "-5", "-5.5", "tea", "'\t=1"]
    assert pl.read_ndjson(tmp_path / "r.jsonl")["user"].to_list() == names


def test_mistakes_are_one_line_and_touch_nothing(shop: Path, recommender: Recommender, tmp_path: Path) -> None:
    out, log = tmp_path / "recs.parquet", shop / "orders.csv"
    file = tmp_path / "list"
    for content, told in (
        ("sku\n998\n999\n", "names no item of the catalog, such as '998'"),
        ("a,b\n1,2\n", 'has no column "sku" or "item"; columns: a, b'),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=told):
            recommend_to_all(recommender, out, log=log, choice=Choice(allow=file))
    file.write_text("001\n")
    with pytest.raises(UserError, match="no item of the catalog is left"):
        recommend_to_all(recommender, out, log=log, choice=Choice(allow=file, block=file))
    with pytest.raises(UserError, match="k=31 is not between 1 and the 30 items"):
        recommend_to_all(recommender, out, log=log, k=31)
    with pytest.raises(UserError, match=r"recs.txt: lists are written as .parquet, .csv, .jsonl"):
        recommend_to_all(recommender, tmp_path / "recs.txt", log=log)
    with pytest.raises(UserError, match="one of them"):
        recommend_to_all(recommender, out)
    for line in ("[1]", '{"user": "a"}', '{"user": "a", "history": "b"}', '{"user": null, "history": []}'):
        file.write_text(line)
        with pytest.raises(UserError, match=r"list, line 1"):
            recommend_to_all(recommender, out, histories=file)
    (tmp_path / "new.csv").write_text("customer;sku;at;what\nC1;777;2025-02-01;buy\n")
    with pytest.raises(UserError, match="the history of 'C1' names '777'"):
        recommend_to_all(recommender, out, log=tmp_path / "new.csv")
    (tmp_path / "recs.parquet.parts" / "key.json").unlink()
    (tmp_path / "recs.parquet.parts" / "mine").touch()
    with pytest.raises(UserError, match="is not a folder of unfinished lists; nothing was touched"):
        recommend_to_all(recommender, out, log=log)
    out.write_text("mine")
    with pytest.raises(UserError, match="already exists; name another file, or pass --overwrite"):
        recommend_to_all(recommender, out, log=log)
    assert out.read_text() == "mine"


def test_the_command(cli: Cli, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "allow").write_text("003\n006\n009\n")
    done = cli("recommend", shop / "run", "--log", shop / "orders.csv", "-o", tmp_path / "r.csv", "--allow",
               tmp_path / "allow", "--repeat", "-k", 4)  # fmt: skip
    assert done.stdout.splitlines() == [
        f"wrote {tmp_path / 'r.csv'}: 120 items for 40 users",
        "  40 of the users got shorter lists: no more items are left for them",
    ]
    one = cli("recommend", shop / "run", "--history", "Thing 1", "--allow", tmp_path / "allow", "--json", "-k", 2)
    assert {entry["source_id"] for entry in json.loads(one.stdout)} < {"003", "006", "009"}
    assert "leave out --history" in cli("recommend", shop / "run", "--history", "x", "--log", "y", code=2).stderr
    assert "give --history TITLE" in cli("recommend", shop / "run", code=2).stderr


def test_a_run_without_a_log_takes_a_table_of_ids(toy_data: Path, tmp_path: Path) -> None:
    run(resolve("demo", ["method=popularity", "cases=10"]), Dataset.load(toy_data), tmp_path / "run")
    (tmp_path / "log.csv").write_text("user,item,time\nu,3,1\nu,4,2\nv,5,1\n")
    recommend_to_all(Recommender.load(tmp_path / "run"), tmp_path / "r.parquet", log=tmp_path / "log.csv", k=3)
    assert list(by_user(pl.read_parquet(tmp_path / "r.parquet"))) == ["u", "v"]
