from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sprec.engine.decode.trie import ROOT, Masses, Trie

END = 9
TITLES = [(1, 2, END), (1, 2, 3, END), (4, END), (1, 2, END), (4, 5, 6, 7, END), (1, END)]
SEQUENCES = st.lists(
    st.lists(st.integers(0, 8), max_size=5).map(lambda tokens: (*tokens, END)), min_size=1, max_size=25
)


def nested(sequences: list[tuple[int, ...]]) -> dict[Any, Any]:
    """The dict-of-dicts trie; the key "ids" of a node lists all ids below it."""
    root: dict[Any, Any] = {"ids": []}
    for number, sequence in enumerate(sequences):
        node = root
        node["ids"].append(number)
        for token in sequence:
            node = node.setdefault(token, {"ids": []})
            node["ids"].append(number)
    return root


def walk(
    trie: Trie, twin: dict[Any, Any], node: int = ROOT, depth: int = 0
) -> Iterator[tuple[int, dict[Any, Any], int]]:
    """All nodes with their twins in the dict-of-dicts trie."""
    yield node, twin, depth
    children = trie.children(torch.tensor([[node]]))
    for child, token in zip(children.nodes[0].tolist(), children.tokens[0].tolist(), strict=True):
        yield from walk(trie, twin[token], child, depth + 1)


@given(SEQUENCES)
def test_every_node_equals_its_twin_in_a_dict_of_dicts(sequences: list[tuple[int, ...]]) -> None:
    trie, visited = Trie.of(sequences), 0
    for node, twin, depth in walk(trie, nested(sequences)):
        visited += 1
        tokens = trie.children(torch.tensor([[node]])).tokens[0].tolist()
        assert tokens == sorted(key for key in twin if key != "ids")
        assert sorted(trie.ids_below(node).tolist()) == twin["ids"]
        assert trie.depth[node] == depth
        distinct = {sequences[number] for number in twin["ids"]}
        assert trie.single[node].item() == (len(distinct) == 1)
        if len(distinct) == 1:
            begin, length = trie.begin[trie.start[node]], trie.length[trie.start[node]]
            assert tuple(trie.tokens[begin : begin + length].tolist()) == distinct.pop()
    assert visited == len(trie)


@given(SEQUENCES, st.integers(0, 99))
def test_mass_below_nodes_is_the_sum_over_their_ids(sequences: list[tuple[int, ...]], seed: int) -> None:
    trie = Trie.of(sequences)
    g = torch.Generator().manual_seed(seed)
    values = (100 * torch.randn(3, len(sequences), generator=g, dtype=torch.float64)).exp()  # from 1e-150 to 1e150
    nodes = torch.randint(len(trie), (3, 2, 4), generator=g)
    masses = Masses(trie)
    sums = masses.of(values)
    mass = masses.below(sums, nodes)
    asked = masses.below(sums, nodes[:2], torch.tensor([2, 0]))
    assert asked.tolist() == masses.below(masses.of(values[[2, 0]]), nodes[:2]).tolist()
    expected = [
        [values[case, trie.ids_below(node)].sum().item() for node in row]
        for case, row in enumerate(nodes.flatten(1).tolist())
    ]
    np.testing.assert_allclose(mass.flatten(1).numpy(), expected, rtol=1e-12, atol=0)


def test_children_lie_side_by_side_and_are_padded() -> None:
    trie = Trie.of(TITLES)
    root = trie.children(torch.tensor([[ROOT]]))
    assert root.tokens.tolist() == [[1, 4]]
    one, four = root.nodes[0].tolist()
    leaf = int(trie.children(torch.tensor([[four]])).nodes[0, 1])
    batch = trie.children(torch.tensor([[leaf, one, four], [four, leaf, leaf], [leaf, leaf, leaf]]))
    assert batch.tokens.tolist() == [[2, END, 5, END], [5, END, 0, 0], [0, 0, 0, 0]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]
    assert [parents[mask].tolist() for parents, mask in zip(batch.parents, batch.mask, strict=True)] == [
        [1, 1, 2, 2],
        [0, 0],
        [],
    ]
    assert batch.nodes[2].tolist() == [ROOT] * 4
    assert trie.children(torch.tensor([[leaf]])).nodes.shape == (1, 0)


@given(SEQUENCES, st.integers(0, 99))
def test_children_of_several_nodes_are_those_of_each(sequences: list[tuple[int, ...]], seed: int) -> None:
    trie = Trie.of(sequences)
    nodes = torch.randint(len(trie), (3, 4), generator=torch.Generator().manual_seed(seed))
    children = trie.children(nodes)
    for row in range(3):
        own = children.mask[row]
        alone = [trie.children(node[None, None]) for node in nodes[row]]
        assert children.nodes[row][own].tolist() == [child for each in alone for child in each.nodes[0].tolist()]
        assert children.tokens[row][own].tolist() == [token for each in alone for token in each.tokens[0].tolist()]
        assert children.parents[row][own].tolist() == [w for w, each in enumerate(alone) for _ in each.nodes[0]]


def test_equal_sequences_share_a_leaf_and_keep_all_ids() -> None:
    trie = Trie.of(TITLES)
    node = ROOT
    for token in TITLES[0]:
        children = trie.children(torch.tensor([[node]]))
        node = int(children.nodes[0, children.tokens[0].tolist().index(token)])
    assert trie.ids_below(node).tolist() == [0, 3]
    assert trie.leaf[0] == trie.leaf[3] == node
    assert trie.single[node]


def test_ids_are_sorted_by_their_sequences() -> None:
    assert Trie.of(TITLES).ids.tolist() == sorted(range(6), key=lambda number: (TITLES[number], number))


def test_small_masses_beside_large_ones_are_exact() -> None:
    trie = Trie.of([(0, END), (1, END), (2, END)])
    masses = Masses(trie)
    nodes = trie.children(torch.tensor([[ROOT]])).nodes
    values = torch.tensor([[1.0, 1e-30, 1e-3]], dtype=torch.float64)
    assert masses.below(masses.of(values), nodes).tolist() == values.tolist()


def test_one_title_only() -> None:
    trie = Trie.of([(5, END)])
    assert len(trie) == 3
    assert trie.depth.tolist() == [0, 1, 2]
    assert trie.single.all()
    assert trie.tokens.tolist() == [5, END]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [([], "at least one"), ([(1, END), ()], "at least one"), ([(1, 2), (1, 2, 3)], "beginning of another")],
)
def test_impossible_sequences_are_refused(sequences: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.of(sequences)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_moves_to_a_gpu() -> None:
    trie = Trie.of(TITLES).to("cuda")
    nodes = trie.children(torch.tensor([[ROOT]], device="cuda"))
    assert nodes.tokens.tolist() == [[1, 4]]
    masses = Masses(trie)
    values = torch.tensor([[1e-30, 1e-31, 1.0, 1e-32, 1e-5, 1e-33]], device="cuda", dtype=torch.float64)
    sums = masses.below(masses.of(values), nodes.nodes)
    assert sums[0].tolist() == pytest.approx([1.111e-30, 1.00001], rel=1e-12)
