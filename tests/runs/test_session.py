"""What a session keeps in memory, and what it may take from its cache."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sprec.data import Dataset
from sprec.data.demo import demo
from sprec.recommend.exact import catalog_trie
from sprec.runs import run
from sprec.runs.recipes import resolve
from sprec.runs.sasrec_stage import load_sasrec
from sprec.runs.session import Session
from sprec.runs.stages import given
from sprec.runs.store import Store
from sprec.system.errors import UserError

Make = Callable[..., Session]


@pytest.fixture
def make(checkpoint: Callable[[str], Path], toy_dataset: Dataset, tmp_path: Path) -> Make:
    def session(*changes: str) -> Session:
        backbone = f"backbone={{kind: huggingface, path: {checkpoint('llama')}}}"
        return Session(resolve("llama-3.2-1b", [backbone, *changes]), toy_dataset, Store(tmp_path / "run"))

    return session


def test_embeddings_in_another_style_or_precision_are_made_anew(make: Make) -> None:
    """The same titles are read as other tokens in the compact style: the folder of a run may hold both."""
    names = []
    for changes in (["precision=fp32"], ["precision=bf16"], ["precision=fp32", "prompt.style=compact"]):
        session = make(*changes)
        names.append(session.grounder(given(session.recipe)).encoder.name)
    assert len(set(names)) == 3
    again = make("precision=fp32", "prompt.style=official")  # reads titles as unified does
    assert again.grounder(given(again.recipe)).encoder.name == names[0]


def test_the_grounder_keeps_no_policy_alive(make: Make) -> None:
    session = make("precision=fp32")
    backbone = given(session.recipe)
    policy = weakref.ref(session.policy(backbone))
    grounder = session.grounder(backbone)
    before = grounder.top_k(["Alien", "Dune"], 3)
    session.holds("other weights")
    session.policy(backbone)  # loaded again
    gc.collect()
    assert policy() is None
    np.testing.assert_array_equal(grounder.top_k(["Alien", "Dune"], 3), before)


def test_the_trie_is_made_once(make: Make) -> None:
    session = make("precision=fp32")
    policy = session.policy(given(session.recipe))
    trie = session.trie(policy)
    assert trie.token.tolist() == catalog_trie(policy, session.builder).token.tolist()
    assert session.trie(policy) is trie


def test_data_in_memory_only_are_refused(toy_dataset: Dataset, tmp_path: Path) -> None:
    """Runs know data by their hash: two datasets without one would share stages."""
    for dataset in (demo(0, train=20, valid=4, test=4, extra=0), replace(toy_dataset, genres=())):
        assert dataset.hash == ""
        with pytest.raises(UserError, match=r"is in memory only; save it first: .*dataset\.save"):
            run(resolve("demo"), dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert toy_dataset.hash


def test_sasrec_is_trained_once(toy_dataset: Dataset, tmp_path: Path) -> None:
    session = Session(resolve("demo", ["sasrec.epochs=1"]), toy_dataset, Store(tmp_path / "run"))
    first = load_sasrec(session)
    assert load_sasrec(session) is first
    session.recipe = resolve("demo", ["sasrec.epochs=2"])
    assert load_sasrec(session) is not first
