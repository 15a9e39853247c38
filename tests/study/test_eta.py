"""The time left, by hand: runs count by the stages that they add."""

import pytest

from sprec.config import Recipe
from sprec.runs.recipes import resolve
from sprec.study.eta import Outlook, efforts


def _runs(*changes: str) -> list[tuple[str, Recipe]]:
    return [("Steam", resolve("demo", one.split())) for one in changes]


def test_what_an_earlier_run_has_made_does_not_count_again() -> None:
    runs = [
        *_runs("method=bigrec", "method=bigrec recommend.protocol=exact", "method=dmpo", "method=rw"),
        *_runs("method=popularity"),
        *_runs("method=sprec loop.iterations=5", "method=sprec loop.iterations=5 recommend.protocol=consensus"),
        *_runs("method=sprec loop.iterations=5 seed=1"),
    ]  # fmt: skip
    sft, iteration, evaluation, samples = 1.5, 1.2, 0.3, 0.8
    assert efforts(runs) == pytest.approx([
        sft + evaluation, evaluation, iteration + evaluation, sft + evaluation, 0.3,
        5 * iteration + evaluation, samples, sft + 5 * iteration + evaluation,
    ])  # fmt: skip


def test_the_time_left_is_told_from_what_was_run() -> None:
    runs = _runs("method=bigrec", "method=dmpo", "method=sprec loop.iterations=5", "method=popularity")
    outlook = Outlook(runs)  # efforts 1.8, 1.5, 6.3 and 0.3
    assert not str(outlook), "nothing is known yet"
    outlook.finished(3)
    assert not str(outlook), "what was on record tells nothing"
    outlook.finished(0, 180.0)
    assert str(outlook) == "about 13 min left", "100 s a unit, 7.8 units"
    outlook.finished(1, 1200.0)
    assert str(outlook) == "about 44 min left", "1380 s for 3.3 units, 6.3 left"
    outlook.finished(2, 10.0)
    assert not str(outlook)


def test_two_hands_need_half_the_time_and_hours_are_hours() -> None:
    runs = _runs("method=bigrec", "method=sprec loop.iterations=5")
    for hands, words in ((1, "about 5.8 h left"), (2, "about 2.9 h left")):
        outlook = Outlook(runs, hands)
        outlook.finished(0, 6000.0)  # 1.8 units; 6.3 left
        assert str(outlook) == words
