"""Completions as a tree: every token is read once, before its descendants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.engine.layout.groups import PromptGroup
from sprec.engine.layout.tree import Tree

COMPLETIONS = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=6)


def test_a_tree_by_hand() -> None:
    # the 9s are ends, which are not read
    tree = Tree.of([[1, 3, 9], [1, 2, 9], [5, 9], [1, 2, 4, 9], [9]])
    assert tree.tokens == [1, 2, 4, 3, 5]
    assert tree.depth == [0, 1, 2, 1, 0]
    assert tree.last == [3, 2, 2, 3, 4]
    assert tree.paths == [[0, 3], [0, 1], [4], [0, 1, 2], []]
    assert PromptGroup([7, 7], ([1, 3, 9], [1, 2, 9])).columns == 5


@given(COMPLETIONS)
def test_what_is_read_is_each_beginning_once(completions: list[list[int]]) -> None:
    tree = Tree.of(completions)
    beginnings = {tuple(one[:size]) for one in completions for size in range(1, len(one))}
    assert len(tree.tokens) == len(beginnings)
    stands_at: dict[tuple[int, ...], int] = {}
    for completion, path in zip(completions, tree.paths, strict=True):
        assert [tree.tokens[node] for node in path] == completion[:-1]
        assert path == sorted(path)
        for size, node in enumerate(path, start=1):
            assert stands_at.setdefault(tuple(completion[:size]), node) == node
            assert tree.depth[node] == size - 1
    for one, node in stands_at.items():
        below = {other for beginning, other in stands_at.items() if beginning[: len(one)] == one}
        assert below == set(range(node, tree.last[node] + 1))


@pytest.mark.parametrize("count", [1, 8])
def test_equal_completions_cost_one(count: int) -> None:
    assert PromptGroup([3], ([4, 5, 6, 9],) * count).columns == 4
