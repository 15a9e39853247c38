"""The time left, by hand: runs count by the stages that they add."""

from collections.abc import Mapping

import pytest

from sprec.config import Recipe
from sprec.data.demo import demo
from sprec.runs.pipeline import planned
from sprec.runs.recipes import resolve
from sprec.study.eta import Outlook, efforts


def _runs(*changes: str) -> list[tuple[Recipe, Mapping[str, str]]]:
    recipes = [resolve("demo", ["baselines=[]", *one.split()]) for one in changes]
    return [(recipe, planned(recipe, demo(0, train=20, valid=4, test=4))) for recipe in recipes]


def test_what_an_earlier_run_has_made_does_not_count_again() -> None:
    runs = [
        *_runs("method=bigrec", "method=bigrec recommend.protocol=exact", "method=dmpo", "method=rw"),
        *_runs("method=popularity"),
        *_runs("method=sprec loop.iterations=5", "method=sprec loop.iterations=5 recommend.protocol=consensus"),
        *_runs("method=sprec loop.iterations=5 seed=1"),
    ]  # fmt: skip
    evaluation, sft, preference = 0.3, 0.5, 0.3 + 0.5  # rollout and preference step
    five = 5 * (preference + 0.4 + 2 * evaluation)  # with the SFT step; both models of an iteration are evaluated
    assert efforts(runs) == pytest.approx([
        1.0 + sft + evaluation, evaluation, preference + evaluation, sft + evaluation, evaluation,
        five, 11 * 3 * evaluation, sft + evaluation + five,
    ])  # fmt: skip


def test_every_kind_of_stage_counts() -> None:
    tilted = _runs("method=sasrec recommend.tilt=true", "method=d3", "method=sprec loop.iterations=1")
    assert {name.partition("-")[0] for _, stages in tilted for name in stages} == {
        "sasrec", "tilt", "evaluate", "backbone", "sft", "rollout", "prefer",
    }  # fmt: skip
    assert efforts(tilted[:1]) == pytest.approx([0.3 + 0.3 + 0.3])
    experts = _runs("method=knn recommend.protocol=scores recommend.experts=[knn,sasrec] baselines=[popularity]")
    assert list(experts[0][1]) == ["sasrec", "weights-knn-0", "evaluate-knn-0", "evaluate-baseline-popularity-0"]
    assert efforts(experts) == pytest.approx([0.3 + 0.3 + 0.3 + 0.01])


def test_the_time_left_is_told_from_what_was_run() -> None:
    runs = _runs("method=bigrec", "method=dmpo", "method=sprec loop.iterations=5", "method=popularity")
    outlook = Outlook(runs)  # efforts 1.8, 1.1, 9 and 0.3
    assert not str(outlook), "nothing is known yet"
    outlook.finished(3)
    assert not str(outlook), "what was on record tells nothing"
    outlook.finished(0, 180.0)
    assert str(outlook) == "about 17 min left", "100 s a unit, 10.1 units"
    outlook.finished(1, 690.0)
    assert str(outlook) == "about 45 min left", "870 s for 2.9 units, 9 left"
    outlook.finished(2, 10.0)
    assert not str(outlook)


def test_two_hands_need_half_the_time_and_hours_are_hours() -> None:
    runs = _runs("method=bigrec", "method=sprec loop.iterations=5")
    for hands, words in ((1, "about 8.3 h left"), (2, "about 4.2 h left")):
        outlook = Outlook(runs, hands)
        outlook.finished(0, 6000.0)  # 1.8 units; 9 left
        assert str(outlook) == words
