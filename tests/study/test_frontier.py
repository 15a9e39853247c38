import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sprec.data import Catalog, Dataset, Split, Wording
from sprec.evaluation import accumulate, bootstrap
from sprec.evaluation import evaluate as measure
from sprec.methods import knn, sasrec
from sprec.methods.experts import of_titles, product, simplex
from sprec.methods.tilt import Scored, choose_tilt, genre_shares, ndcg
from sprec.runs.examples import held_examples, pretraining_examples, recent_histories
from sprec.study import frontier, frontier_report, scores
from sprec.study.frontier import Frontier, capacity, cells
from sprec.study.frontier_report import hypervolume
from sprec.study.plan import plan
from sprec.study.records import Record, key_of
from sprec.system.errors import UserError

RANDOM = np.random.default_rng(0)
ITEMS = 60


def walkers(n: int) -> Split:
    """Everyone walks on by one or two items, from a start that is often near 0."""
    rows = []
    for _ in range(n):
        start = int(abs(RANDOM.normal(0, 15)))
        steps = (start + np.cumsum(RANDOM.integers(1, 3, 7))) % ITEMS
        rows.append((steps[:-1].tolist(), int(steps[-1])))
    return Split.of(rows)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    catalog = Catalog.of([f"item {i}" for i in range(ITEMS)], [[("low", "high")[i > 20]] for i in range(ITEMS)])
    splits = {name: walkers(n) for name, n in (("train", 300), ("valid", 60), ("test", 80), ("extra", 60))}
    made = Dataset("walk", catalog, splits, ("low", "high"), Wording("", "", ""))
    return made.save(tmp_path_factory.mktemp("data") / "walk")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tries of each, one epoch."""
    rows = {name: [replace(one, epochs=1, lr=0.01) if isinstance(one, sasrec.Settings) else one for one in tries[:2]]
            for name, tries in scores.TRIES.items()}  # fmt: skip
    monkeypatch.setattr(scores, "TRIES", rows)
    monkeypatch.setattr(frontier, "TRIES", rows)


def test_users_who_fit_the_tilt_are_neither_trained_nor_tested_on() -> None:
    rows = [([i, i + 1, i + 2, i + 3], i + 4) for i in range(0, 50, 10)]
    catalog = Catalog.of([f"item {i}" for i in range(ITEMS)])
    splits = {
        "train": Split.of([([7, 7, 7, 7], 7)]),
        "valid": Split.of(rows[:2]),
        "test": Split.of(rows[2:4]),
        "extra": Split.of([rows[0], rows[2], ([0, 1, 2, 3, 20, 21, 22, 23], 5), rows[4]]),
    }
    made = Dataset("rows", catalog, splits, (), Wording("", "", ""))
    assert list(held_examples(made)) == [splits["extra"][0]]  # the third one touches a test row too
    assert list(pretraining_examples(made)) == [splits["train"][0], splits["extra"][3]]
    assert recent_histories(made).tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 0, 1, 2, 3, 40, 41, 42, 43]


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    parts = [Scored.best(RANDOM.normal(size=(n, 9)).astype(np.float32), 4) for n in (3, 0, 2)]
    scores.Scores(*parts).save(tmp_path / "folder" / "some.npz")
    found = scores.Scores.load(tmp_path / "folder" / "some.npz")
    for part, own in zip(parts, (found.valid, found.held, found.test), strict=True):
        assert own.items.tolist() == part.items.tolist()
        assert own.scores.tolist() == part.scores.tolist()
    (tmp_path / "some.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"some\.npz does not hold scores; remove it"):
        scores.Scores.load(tmp_path / "some.npz")


@pytest.mark.usefixtures("quick")
def test_search_keeps_the_best_try_and_trains_nothing_twice(dataset: Dataset, tmp_path: Path) -> None:
    chosen = scores.search("kNN", dataset, tmp_path)
    quality = [
        ndcg(
            Scored.best(knn.ItemKnn.count(pretraining_examples(dataset), ITEMS, one).log_probs(dataset.valid), 5).items,
            dataset.valid.targets,
        )
        for one in scores.TRIES["kNN"]
        if isinstance(one, knn.Settings)
    ]
    assert chosen == scores.TRIES["kNN"][int(np.argmax(quality))]
    about = json.loads((tmp_path / "scores" / "walk" / "knn" / "search.json").read_text())
    assert [one["valid"]["NDCG@5"] for one in about["tries"]] == pytest.approx(quality)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    assert len(files) == 2
    scores.scores_of("kNN", dataset, 1, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")} == files


@pytest.mark.usefixtures("quick")
def test_products_take_the_best_weights_of_the_validation_rows(dataset: Dataset, tmp_path: Path) -> None:
    row = "kNN x SASRec"
    found, weights = frontier._scores(row, dataset, 0, tmp_path)
    each = [scores.scores_of(name, dataset, 0, tmp_path) for name in frontier.EXPERTS[row]]
    alike = np.ones(ITEMS, int)

    def lists(tried: tuple[float, ...]) -> np.ndarray:
        experts = [of_titles(own.valid.items, own.valid.scores, alike) for own in each]
        return Scored.best(product(experts, tried), 5).items

    def area(tried: tuple[float, ...]) -> float:
        """NDCG@5 times the share of different first items."""
        return ndcg(lists(tried), dataset.valid.targets) * len(set(lists(tried)[:, 0])) / len(dataset.valid)

    assert area(tuple(weights.values())) == max(map(area, simplex(2, 5)))
    assert found.valid.top(5).tolist() == lists(tuple(weights.values())).tolist()


@pytest.mark.usefixtures("quick")
def test_rows_are_made_again_from_their_records_alone(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["kNN", "kNN x SASRec"]
    first = frontier.rows_of(dataset, tmp_path, rows, seeds=(0, 1))
    monkeypatch.setattr(frontier, "scores_of", None)
    again = frontier.rows_of(dataset, tmp_path, rows, seeds=(0, 1))
    for row in rows:
        assert list(first[row].plain) == [0, 1]
        assert first[row].chosen == again[row].chosen
        for kind in frontier.KINDS:
            for seed in (0, 1):
                assert getattr(first[row], kind)[seed].tolist() == getattr(again[row], kind)[seed].tolist()
    with pytest.raises(TypeError):  # other seeds are another record
        frontier.rows_of(dataset, tmp_path, rows, seeds=(0,))
    (tmp_path / "lists" / "walk" / "knn.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"knn\.parquet is not a record of the frontier; remove it"):
        frontier.rows_of(dataset, tmp_path, rows, seeds=(0, 1))


@pytest.mark.usefixtures("quick")
def test_tilted_lists_have_the_tilt_that_validation_rows_choose(dataset: Dataset, tmp_path: Path) -> None:
    """Genres in turns, one of them twice as frequent in what is consumed as among the items: a tilt costs little."""
    genres = [["often" if i % 3 else "seldom"] for i in range(ITEMS)]
    catalog = Catalog.of([f"item {i}" for i in range(ITEMS)], genres)
    turns = replace(dataset, catalog=catalog, genres=("often", "seldom")).save(tmp_path / "data")
    found = frontier.rows_of(turns, tmp_path, ["kNN"], seeds=(0,))["kNN"]
    own, matrix = scores.scores_of("kNN", turns, 0, tmp_path), catalog.genre_matrix(turns.genres)
    shares = genre_shares(recent_histories(turns), matrix)
    chosen = choose_tilt(own.valid, turns.valid.targets, own.held, matrix, shares)
    assert chosen.tilt.offset(matrix).any()
    assert found.plain[0].tolist() == own.test.top(5).tolist()
    assert found.tilted[0].tolist() == own.test.top(5, chosen.tilt.offset(matrix)).tolist() != found.plain[0].tolist()


def test_capacity_serves_one_user_after_the_other() -> None:
    """Five users, limit 2: the third one finds items 0 to 4 taken."""
    users = Scored.best(-np.tile(np.arange(30.0), (5, 1)), 20)
    lists = capacity(users, 30, cap=0.08)
    assert lists.tolist() == [[0, 1, 2, 3, 4]] * 2 + [[5, 6, 7, 8, 9]] * 2 + [[10, 11, 12, 13, 14]]
    few = capacity(Scored(users.items[:3, :5], users.scores[:3, :5]), 60, cap=0.04)
    assert few.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]


def random_frontier(dataset: Dataset) -> tuple[Frontier, dict[str, np.ndarray]]:
    rows = np.arange(len(dataset.test))
    names = [frontier.OURS, *frontier.STRONG, "SPRec, exact", "SASRec, ranks items", "Random", "true targets"]
    lists = {name: np.array([RANDOM.permutation(ITEMS)[:5] for _ in rows]) for name in names}
    sampled = {name: frontier.measured({0: own}, dataset, rows) for name, own in lists.items()}
    ours, theirs = names[: 1 + len(frontier.STRONG)], names[1 + len(frontier.STRONG) : -2]
    parts = [{name: sampled[name] for name in part} for part in (ours, theirs, names[-2:-1], names[-1:])]
    return Frontier(*parts), lists


@pytest.mark.usefixtures("quick")
def test_the_cases_are_those_that_the_records_have(dataset: Dataset, tmp_path: Path) -> None:
    """Runs evaluate the first ``cases`` of a split, 30 of 80 here; ours are measured on the same."""
    steam, lists = replace(dataset, name="Steam"), RANDOM.permuted(np.tile(np.arange(ITEMS), (30, 1)), axis=1)[:, :5]
    for job in plan("table2", [steam], [0], protocols=["exact"], variants=["BIGRec", "Popularity"]):
        Record(key_of(job.recipe, steam), lists, [], 1.0, "fp32").write(job.record(tmp_path))
    found = frontier.frontier(steam, tmp_path, tmp_path, ["kNN"])
    assert {sample.n for sample in found.all.values()} == {30}
    part, genres = steam.test[:30], steam.catalog.genre_matrix(steam.genres)
    theirs = measure(lists, part.targets, part.items, part.offsets, genres)
    assert found.theirs["BIGRec, exact"].interval("NDCG@5").value == pytest.approx(theirs["NDCG@5"])
    some = frontier.frontier(steam, tmp_path, tmp_path, ["kNN"], np.array([2, 29, 30, 79]))
    assert {sample.n for sample in some.all.values()} == {2}
    with pytest.raises(UserError, match="no case of Steam is in all of the lists"):
        frontier.frontier(steam, tmp_path, tmp_path, ["kNN"], np.array([30]))


def test_fresh_rows_share_no_four_items_with_what_was_trained_on() -> None:
    catalog, rows = Catalog.of([f"item {i}" for i in range(ITEMS)]), [([i, i + 1, i + 2], i + 3) for i in (0, 10, 20)]
    splits = {
        "train": Split.of([([9, 20, 21, 22], 23)]),
        "valid": Split.of([([40, 41, 42], 43)]),
        "test": Split.of(rows),
        "extra": Split.of([rows[0], ([50, 51, 52], 53)]),  # the first one is left out of training
    }
    assert frontier.fresh_rows(Dataset("rows", catalog, splits, (), Wording("", "", ""))).tolist() == [0, 1]


def test_cells_compare_the_chosen_method_with_the_best_of_each_group(dataset: Dataset) -> None:
    found, lists = random_frontier(dataset)
    test, genres = dataset.test, dataset.catalog.genre_matrix(dataset.genres)
    values = {name: measure(own, test.targets, test.items, test.offsets, genres) for name, own in lists.items()}
    made = cells({"walk": found})["walk"]
    assert list(made) == ["DivRatio@1", "DivRatio@5", "ORRatio@1", "ORRatio@5", "MGU@1", "MGU@5", "HR@5", "NDCG@5"]
    for metric, cell in made.items():
        pick = min if metric[0] in "OM" else max
        theirs = {name: values[name][metric] for name in found.theirs}
        assert cell["best_other"] == pytest.approx(pick(theirs.values()))
        assert theirs[cell["other"]] == cell["best_other"]
        assert cell["strong"] == pytest.approx(pick(values[name][metric] for name in frontier.STRONG))
        assert cell["ours"] == pytest.approx(values[frontier.OURS][metric])
        assert cell["difference"] == pytest.approx(cell["ours"] - cell["best_other"])
        assert cell["interval"][0] <= cell["difference"] <= cell["interval"][1]


def test_every_lost_cell_is_named(dataset: Dataset) -> None:
    found, _ = random_frontier(dataset)
    table = frontier_report.comparison({"walk": found})
    assert len(table.rows) == 16
    made = cells({"walk": found})["walk"]
    for labels, row in table.rows:
        better = row["ours"].value > row["other"].value
        if "↓" in labels[2]:
            better = row["ours"].value < row["other"].value
        assert labels[4] == ("best" if better else "lost")
        if labels[1] == "the paper's":
            assert labels[3] == made[labels[2].split()[0]]["other"]


def test_rows_may_be_left_out(dataset: Dataset) -> None:
    """The second table measures the other rows as a table of their own."""
    lists, rows = np.array([RANDOM.permutation(ITEMS)[:5] for _ in range(80)]), np.arange(0, 80, 3)
    part = dataset.test.take(rows)
    genres = dataset.catalog.genre_matrix(dataset.genres)
    alone = bootstrap([accumulate(lists[rows], part.targets, part.items, part.offsets, genres)])
    found = frontier.measured({0: lists}, dataset, rows)
    for metric in found.per_seed:
        assert found.interval(metric) == alone.interval(metric)


def test_volumes_count_what_is_better_when_lower_from_its_other_end(dataset: Dataset) -> None:
    found, _ = random_frontier(dataset)
    rows = dict(frontier_report.volumes({"walk": found}).rows)
    values = {name: {m: own.interval(m).value for m in ("DivRatio@1", "ORRatio@5", "NDCG@5")}
              for name, own in found.theirs.items()}  # fmt: skip
    cells = rows["walk", "the paper's systems"]
    assert cells["NDCG@5 x DivRatio@1"].value == hypervolume([(v["DivRatio@1"], v["NDCG@5"]) for v in values.values()])
    assert cells["NDCG@5 x ORRatio@5"].value == pytest.approx(
        hypervolume([(1 - v["ORRatio@5"], v["NDCG@5"]) for v in values.values()])
    )


def test_hypervolume_by_hand() -> None:
    """Rectangles 3 x 1, 2 x 2 and 1 x 3 cover 6 cells; what lies inside them adds nothing."""
    assert hypervolume([(3, 1), (1, 3), (2, 2), (1, 1), (2, 1)]) == 6
    assert hypervolume([]) == 0
    points = RANDOM.random((9, 2))
    inside = np.any(np.all(RANDOM.random((200_000, 1, 2)) < points, axis=2), axis=1).mean()
    assert hypervolume([tuple(point) for point in points]) == pytest.approx(inside, abs=0.005)
