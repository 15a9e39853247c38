"""New items are recommended at once by a language model, in the right place; recommenders of ids refuse."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sprec.data import Dataset
from sprec.data.catalog import Catalog
from sprec.methods.tilt import Tilt
from sprec.recommend.encoders import Encoder
from sprec.recommend.grounding import Grounder
from sprec.runs import Recommender, evaluate_run, run
from sprec.runs.items import add_items, remove_items, rename_items
from sprec.runs.lineage import lineage
from sprec.runs.recipes import resolve
from sprec.study.compare import compare_runs
from sprec.system import storage
from sprec.system.errors import UserError
from toy_runs import Cli

NEW = ["Alien: The Return (2026)", "Quiet Harbour (2025)"]


@pytest.fixture(scope="module")
def grown(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("items")
    rows = "".join(f"new-{number},{title},Drama|New\n" for number, title in enumerate(NEW))
    (folder / "goods.csv").write_text("item,title,genres\n" + rows)
    change = add_items(toy_run, folder / "goods.csv", folder / "grown")
    assert (change.kind, change.items) == ("add", 2)
    return folder / "grown"


def test_new_items_are_recommended_as_if_they_had_always_been_there(toy_run: Path, grown: Path) -> None:
    """Of all items, the exact ranking with the new ones is the old one with the new ones in their places."""
    before, after = Recommender.load(toy_run), Recommender.load(grown)
    items = len(before.catalog)
    assert after.catalog.titles == before.catalog.titles + tuple(NEW)
    assert after.catalog.genres[-1] == ("Drama", "New")
    assert after.catalog.source_ids[-2:] == ("new-0", "new-1")
    old = before.recommendations([[3, 1], [7]], items, protocol="exact")
    new = after.recommendations([[3, 1], [7]], items + 2, protocol="exact")
    assert new.log_probs is not None
    assert old.log_probs is not None
    for row in range(2):
        kept = new.items[row] < items
        assert new.items[row][kept].tolist() == old.items[row].tolist()
        assert new.log_probs[row][kept] == pytest.approx(old.log_probs[row], abs=1e-4)
        assert (np.diff(new.log_probs[row]) <= 0).all()
    assert after.recommend([[3]], 1, allow=["new-1"]) == [[items + 1]]
    found = after.recommend([[items, 3], [NEW[0]]], 3, protocol="paper", allow=[items, items + 1])
    assert {item for own in found for item in own} == {items, items + 1, -1}
    assert evaluate_run(grown, ["recommend.protocol=exact"])["HR@5"] >= 0


def test_recommenders_of_ids_say_no(grown: Path, toy_data: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(grown)
    for protocol in ("sasrec", "knn", "d3"):
        with pytest.raises(UserError, match=f"recommend.protocol={protocol} knows items by their ids, and the items"):
            recommender.recommend([[1]], 2, protocol=protocol)
    run(resolve("demo", ["method=knn", "cases=5"]), Dataset.load(toy_data), tmp_path / "knn")
    (tmp_path / "goods.csv").write_text("item,title\nx,A title of its own\n")
    with pytest.raises(UserError, match="knn knows items by their ids and learns each from its log: it cannot"):
        add_items(tmp_path / "knn", tmp_path / "goods.csv", tmp_path / "new")


def test_a_run_knows_where_it_comes_from(toy_run: Path, grown: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "names.csv").write_text("item,title\nnew-0,Alien: The Long Way Home (2026)\n")
    (tmp_path / "gone.txt").write_text(f"new-1\n{Recommender.load(toy_run).catalog.titles[5]}\n")
    cli("items", "rename", grown, tmp_path / "names.csv", "-o", tmp_path / "renamed")
    told = cli("items", "remove", tmp_path / "renamed", tmp_path / "gone.txt", "-o", tmp_path / "last").stdout
    items = len(Recommender.load(toy_run).catalog)
    assert told == f"wrote {tmp_path / 'last'}: 2 items removed, {items:,} left\n"
    steps = lineage(tmp_path / "last")
    assert [(step["run"], step["change"], step["items"]) for step in steps] == [
        ("toy", "add", 2), ("grown", "rename", 1), ("renamed", "remove", 2)
    ]  # fmt: skip
    shown = cli("show", tmp_path / "last").stdout
    assert f"made of    toy: 2 items added ({steps[0]['date']})\n           grown: 1 item renamed" in shown
    assert "none since its items changed; sprec evaluate measures it" in shown
    assert json.loads(cli("show", tmp_path / "last", "--json").stdout)["lineage"] == steps
    assert "NDCG@5" in cli("show", toy_run).stdout
    assert lineage(toy_run) == []
    last = Recommender.load(tmp_path / "last")
    assert last.catalog.titles[-1] == "Alien: The Long Way Home (2026)"
    assert last.recommend([["new-0"]], 3, protocol="paper")


def test_removed_items_leave_histories_and_examples(toy_run: Path, toy_dataset: Dataset, tmp_path: Path) -> None:
    titles = toy_dataset.catalog.titles
    gone = {toy_dataset.test[0].target, toy_dataset.test[1].history[0]}
    remove_items(toy_run, [toy_dataset.catalog.source_ids[item] for item in gone], tmp_path / "less")
    less = Dataset.load(tmp_path / "less" / "dataset")

    def told(dataset: Dataset, split: str) -> list[tuple[list[str], str]]:
        names = dataset.catalog.titles
        return [([names[item] for item in history], names[target]) for history, target in dataset.splits[split]]

    lost = {titles[item] for item in gone}
    for split in toy_dataset.splits:
        expected = [
            ([title for title in history if title not in lost], target)
            for history, target in told(toy_dataset, split)
            if target not in lost
        ]
        assert told(less, split) == expected
    assert less.catalog.titles == tuple(title for title in titles if title not in lost)


def test_mistakes_are_one_line_and_write_nothing(toy_run: Path, tmp_path: Path) -> None:
    catalog: Catalog = Recommender.load(toy_run).catalog
    goods, out = tmp_path / "goods.csv", tmp_path / "out"
    for rows, told in (
        (f"{catalog.source_ids[3]},Something new", f"the id '{catalog.source_ids[3]}' is taken"),
        (f'x,"{catalog.titles[3].upper()}"', "another item is titled"),
        ("x,One\nx,Two", "the id 'x' is taken"),
        ("x,One\ny,ONE ", "another item is titled 'ONE'"),
        ("x,", "the title of 'x' cannot be used"),
        (",One", "1 rows without an id"),
    ):
        goods.write_text(f"item,title\n{rows}\n")
        with pytest.raises(UserError, match=told):
            add_items(toy_run, goods, out)
    for rows, told in (
        ("x,One", "the catalog has no item 'x'"),
        (f'{catalog.source_ids[3]},"{catalog.titles[4]}"', "another item is titled"),
    ):
        goods.write_text(f"item,title\n{rows}\n")
        with pytest.raises(UserError, match=told):
            rename_items(toy_run, goods, out)
    with pytest.raises(UserError, match='no item is titled "No such film"'):
        remove_items(toy_run, ["No such film"], out)
    with pytest.raises(UserError, match="no item of the catalog would be left"):
        remove_items(toy_run, catalog.source_ids, out)
    goods.write_text("item,title\nx,One\n")
    out.mkdir()
    with pytest.raises(UserError, match="already exists; choose another -o"):
        add_items(toy_run, goods, out)
    with pytest.raises(UserError, match="is not a run"):
        add_items(tmp_path, goods, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["goods.csv", "out"]


def test_the_tilt_goes_along_and_does_not_hold_new_items_back(
    cli: Cli, toy_data: Path, toy_run: Path, tmp_path: Path
) -> None:
    """The toy run with a tilt made by hand: the penalties stay with their items, that of a new item is 0."""
    tilted = tmp_path / "tilted"
    shutil.copytree(toy_run, tilted)
    changes = ("recommend.protocol=exact", "recommend.tilt=true", "recommend.caps=[0.2,0.1]", "recommend.candidates=40")
    settings = [part for change in changes for part in ("--set", change)]
    cli("run", toy_run / "recipe.json", "--data", toy_data, "-o", tilted, *settings, "--overwrite")
    before = load_file(tilted / "tilt/tilt.safetensors")
    before["penalty"] = np.random.default_rng(0).random(len(before["penalty"]))
    save_file(before, tilted / "tilt/tilt.safetensors")
    for folder in (tilted / "tilt", tilted):
        manifest = storage.read_manifest(folder)
        storage.seal(folder, manifest, list(manifest["files"]) if folder == tilted else None)
    (tmp_path / "goods.csv").write_text("item,title,genres\nnew,A Film Of Its Own (2026),Drama\n")
    add_items(tilted, tmp_path / "goods.csv", tmp_path / "more")
    remove_items(tmp_path / "more", [Recommender.load(tilted).catalog.source_ids[7]], tmp_path / "less")
    more, less = (load_file(tmp_path / run / "tilt/tilt.safetensors") for run in ("more", "less"))
    assert more["penalty"].tolist() == [*before["penalty"].tolist(), 0.0]
    assert less["penalty"].tolist() == [*np.delete(before["penalty"], 7).tolist(), 0.0]
    for name in ("favour", "shares"):
        assert more[name].tolist() == less[name].tolist() == before[name].tolist()
    for run_ in ("more", "less"):
        recommender = Recommender.load(tmp_path / run_)
        assert recommender.recommend([[3, 1]], 3, allow=["new"])[0][0] == recommender.catalog.by_source_id["new"]
        (offset,) = recommender.session.offsets.values()
        genres = recommender.catalog.genre_matrix(recommender.session.dataset.genres)
        stored = more if run_ == "more" else less
        assert offset == pytest.approx(Tilt(**stored).offset(genres))


def test_the_run_with_other_items_is_evaluated_compared_and_protected(
    grown: Path, toy_run: Path, cli: Cli, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(grown, own)
    with pytest.raises(UserError, match=r"own was not evaluated after its items changed; sprec evaluate .* does that"):
        compare_runs([own])
    cli("evaluate", own, "--set", "recommend.protocol=exact")
    (kept,) = (own / "evaluations").iterdir()
    assert "lists read from" in cli("evaluate", own, "--set", "recommend.protocol=exact").stderr
    metrics, _ = compare_runs([kept])
    assert [labels for labels, _ in metrics.rows] == [("sprec",)]
    refused = cli("run", toy_run / "recipe.json", "--data", own / "dataset", "-o", own, code=2).stderr
    assert "holds a trained model whose items were changed; choose another -o" in refused
    assert storage.verify(own) == ""
    (own / "model" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match=r"model.safetensors is damaged or was edited"):
        Recommender.load(own)


def test_only_new_titles_are_encoded(toy_run: Path, grown: Path) -> None:
    before, after = Recommender.load(toy_run), Recommender.load(grown)
    before.recommend([[1]], 2, protocol="paper")
    asked: list[str] = []
    encoder = after.session._encoder(after.backbone, "lm")

    def encode(texts: Sequence[str]) -> torch.Tensor:
        asked.extend(texts)
        return encoder.encode(texts)

    noting = Encoder(encoder.name, encode)
    known = before.session.grounder(before.backbone)
    grounder = Grounder(noting, after.catalog, toy_run / "cache")
    assert asked == NEW
    items = len(before.catalog)
    assert np.array_equal(grounder.item_embeddings[:items], known.item_embeddings)
    fresh = Grounder(encoder, after.catalog)
    assert grounder.item_embeddings == pytest.approx(fresh.item_embeddings, abs=1e-5)
