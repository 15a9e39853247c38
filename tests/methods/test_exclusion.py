"""What lists leave out: the history and, with an item, all that carry its title."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sprec.config import Recommend
from sprec.data import Catalog, Split
from sprec.methods.exclusion import excluded_items, with_twins
from sprec.recommend.protocols import Context

ITEMS = 8


@given(st.lists(st.sampled_from("abc"), min_size=ITEMS, max_size=ITEMS), st.lists(st.lists(st.integers(0, ITEMS - 1))))
def test_all_items_of_a_seen_title_are_left_out(titles: list[str], histories: list[list[int]]) -> None:
    split = Split.of((history, 0) for history in histories)
    seen = excluded_items(split, ITEMS, history=True, target=False)
    found = with_twins(seen, ITEMS, Catalog.of(titles).twins)
    assert (np.sort(found, axis=1) == found).all()
    for row, history in zip(found.tolist(), histories, strict=True):
        known = {titles[item] for item in history}
        wanted = [item for item in range(ITEMS) if titles[item] in known]
        assert [item for item in row if item < ITEMS] == wanted


def test_protocols_leave_out_the_film_just_seen_under_its_other_id() -> None:
    catalog, cases = Catalog.of(["Emma", "Dune", "Emma"]), Split.of([((0,), 1), ((1,), 0)])
    unasked: dict[str, Any] = {field.name: None for field in fields(Context)}
    given = {"examples": cases, "settings": Recommend(exclude_history=True), "items": 3, "twins": catalog.twins}
    context = Context(**unasked | given)
    assert [[item for item in row if item < 3] for row in context.excluded.own.tolist()] == [[0, 2], [1]]
    filtered = replace(context, barred=np.array([False, True, False]), blocked=np.array([[2, 0], [2, 3]]))
    assert [sorted({*row} - {3}) for row in filtered.excluded.own.tolist()] == [[0, 2], [2]]
    assert filtered.excluded.room.tolist() == [0, 1]
