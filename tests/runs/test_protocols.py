"""A protocol is a row: one of our own goes through run, cache and table; threads get what one thread gets."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sprec.data import Dataset
from sprec.methods.histories import item_counts
from sprec.methods.table import METHODS
from sprec.recommend.protocols import PROTOCOLS, Context, Need, Protocol, Recommendations, of_language_models
from sprec.runs import Recommender, evaluate_run, run
from sprec.runs.examples import pretraining_examples
from sprec.runs.recipes import resolve
from sprec.runs.stages import read_recommendations, write_recommendations
from sprec.study.execute import execute
from sprec.study.plan import plan
from sprec.study.tables import paper_table, sampled
from sprec.system import storage
from sprec.system.errors import UserError

SOURCE = Path(__file__).parents[2] / "src" / "sprec"


def rarest(context: Context) -> Recommendations:
    """The least frequent items, from the one that ``beams`` names on."""
    order = np.lexsort((np.arange(context.items), context.counts()))[context.settings.beams :]
    return Recommendations(np.tile(order[: context.settings.top_k], (len(context.examples), 1)))


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Protocol:
    own = Protocol("the least frequent items", "rarest", ("beams",), Need.MODEL | Need.COUNTS, rarest)
    monkeypatch.setitem(PROTOCOLS, "rarest", own)
    return own


TINY = ["backbone.hidden=32", "backbone.heads=1", "backbone.layers=1", "backbone.vocabulary=400", "backbone.epochs=0",
        "sft.epochs=0", "sft.valid=0", "cases=10"]  # fmt: skip


@pytest.mark.usefixtures("row")
def test_a_new_row_goes_through_run_cache_and_table(toy_dataset: Dataset, tmp_path: Path) -> None:
    def lists_of(*changes: str) -> list[int]:
        """The list that everybody gets, and when it was made."""
        recipe = resolve("demo", [*TINY, "method=bigrec", "recommend.protocol=rarest", *changes])
        run(recipe, toy_dataset, tmp_path / "run", overwrite=True)
        stage = tmp_path / "run" / "stages" / "01-evaluate-sft-0"
        (same,) = {tuple(row) for row in pl.read_parquet(stage / "recommendations.parquet")["items"].to_list()}
        return [*same, (stage / storage.MANIFEST).stat().st_mtime_ns]

    counts = item_counts(pretraining_examples(toy_dataset), len(toy_dataset.catalog))
    order = np.lexsort((np.arange(len(counts)), counts)).tolist()
    first = lists_of("recommend.beams=3")
    assert first[:-1] == order[3:8]
    assert Recommender.load(tmp_path / "run").recommend([[0], [1]], k=4) == [order[3:7]] * 2
    assert lists_of("recommend.beams=3", "recommend.alpha=0.5") == first, "it does not read alpha: nothing is made anew"
    assert lists_of("recommend.beams=5")[:-1] == order[5:10]

    assert "rarest" in of_language_models()
    changes = [*TINY, "recommend.beams=3"]
    jobs = plan(
        "table2", [toy_dataset], [0], backbone="demo", protocols=["rarest"], changes=changes, variants=["BIGRec"]
    )
    found = execute(jobs, [toy_dataset], tmp_path / "study")
    ((labels, _),) = paper_table("table2", {toy_dataset.name: sampled(found, toy_dataset)}, "real").rows
    assert labels[1].startswith("ours, rarest")
    assert labels[2] == "BIGRec"


def test_what_does_not_go_together_is_refused(toy_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method sprec trains one that this protocol does not ask: .*=popularity"):
        run(resolve("demo", ["recommend.protocol=popularity"]), toy_dataset, tmp_path / "run")
    with pytest.raises(UserError, match=r"method popularity has no language model: recommend.protocol=exact"):
        run(resolve("demo", ["method=popularity", "recommend.protocol=exact"]), toy_dataset, tmp_path / "run")
    run(resolve("demo", ["method=popularity"]), toy_dataset, tmp_path / "run")
    with pytest.raises(
        UserError, match=r"recommend.protocol=exact needs a language model, which popularity does not have"
    ):
        evaluate_run(tmp_path / "run", ["recommend.protocol=exact"])


def test_threads_with_settings_of_their_own_get_what_one_thread_gets(toy_run: Path) -> None:
    recommender = Recommender.load(toy_run)
    histories = [[3, 1], [7], [2, 5, 9]]
    asked = [
        (k, {"protocol": protocol, "exclude_history": exclude})
        for k in (1, 3, 5, 8)
        for protocol in ("paper", "exact", "popularity", "consensus")
        for exclude in (False, True)
    ]
    alone = [recommender.recommend(histories, k, **settings) for k, settings in asked]
    assert len({str(lists) for lists in alone}) > 10
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda one: recommender.recommend(histories, one[0], **one[1]), asked * 2))
    assert together == alone * 2


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_name_of_a_protocol_is_in_at_most_three_files(name: str) -> None:
    """Those of methods without a model are also names of methods and stages: of them, lines about protocols count."""
    told = name in METHODS and name != "d3"
    pattern = re.compile(rf"""{"[Pp]rotocol.*" if told else ""}["']{name}["']|["']{name}["']: Protocol\(""")
    files = [file for file in SOURCE.rglob("*.py") if pattern.search(file.read_text("utf-8"))]
    assert 1 <= len(files) <= 3, files


def test_the_file_of_lists_says_which_are_proven(tmp_path: Path) -> None:
    """Files of earlier versions do not say, nor do protocols that search nothing."""
    items = np.array([[3, 1], [2, -1]])
    write_recommendations(tmp_path / "one.parquet", Recommendations(items, proven=np.array([True, False])))
    proven = read_recommendations(tmp_path / "one.parquet").proven
    assert proven is not None
    assert proven.tolist() == [True, False]
    pl.read_parquet(tmp_path / "one.parquet").drop("proven").write_parquet(tmp_path / "old.parquet")
    write_recommendations(tmp_path / "none.parquet", Recommendations(items))
    for name in ("old", "none"):
        found = read_recommendations(tmp_path / f"{name}.parquet")
        assert found.items.tolist() == items.tolist()
        assert found.proven is None
