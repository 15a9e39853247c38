from hypothesis import given
from hypothesis import strategies as st

from sprec.data import Split
from sprec.methods.histories import item_counts, longest, padded

SPLITS = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 9)), max_size=6).map(Split.of)
SPLIT = Split.of([([1, 2, 3], 4), ([], 5), ([3], 3)])


def test_padded_by_hand() -> None:
    assert padded(SPLIT, 2, 9).tolist() == [[2, 3], [9, 9], [3, 9]]
    assert padded(SPLIT, 4, -1).tolist() == [[1, 2, 3, -1], [-1, -1, -1, -1], [3, -1, -1, -1]]
    assert longest(SPLIT) == 3


def test_counts_by_hand() -> None:
    assert item_counts(SPLIT, 7).tolist() == [0, 1, 1, 3, 1, 1, 0]


@given(SPLITS, st.integers(0, 8))
def test_padded_keeps_the_last_items(split: Split, width: int) -> None:
    rows = padded(split, width, -1)
    assert rows.shape == (len(split), width)
    for (history, _), row in zip(split, rows.tolist(), strict=True):
        kept = list(history[max(len(history) - width, 0) :])
        assert row == kept + [-1] * (width - len(kept))
