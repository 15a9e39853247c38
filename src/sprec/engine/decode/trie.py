"""A trie over token sequences as flat arrays: children by one gather, sequences below a node as one range.

Nodes are numbered breadth first, siblings by token. So the children of a node are neighbours, and a node only needs the
number of its first child and their count. The sorted sequences below a node are one contiguous range.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = 0


class Children(NamedTuple):
    """The children of W nodes in each of B rows, side by side, padded to the widest row: shapes (B, T).

    Attributes:
        parents: column (0..W-1) of each child's parent.
        nodes: the children, siblings by token; the root where ``mask`` is False.
        tokens: the token that leads to each child; 0 where ``mask`` is False.
        mask: which entries are children.
    """

    parents: Tensor
    nodes: Tensor
    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Trie:
    """N nodes over n token sequences. The sequences carry ids 0..n-1; equal sequences share a leaf.

    Attributes:
        token: the token that leads to each node (N,); 0 for the root.
        depth: tokens from the root (N,).
        first_child: number of the lowest child (N,).
        branching: number of children (N,); 0 at a leaf.
        start: where the ids below each node start in ``ids`` (N,).
        stop: where they stop (N,).
        single: whether only one sequence (of one or several ids) is below (N,).
        ids: the ids, sorted by their sequences, ties by id (n,).
        leaf: the node where the sequence of each id ends (n,).
        tokens: all sequences, concatenated.
        begin: where the sequence of each entry of ``ids`` begins in ``tokens`` (n,).
        length: its length (n,).
    """

    token: Tensor
    depth: Tensor
    first_child: Tensor
    branching: Tensor
    start: Tensor
    stop: Tensor
    single: Tensor
    ids: Tensor
    leaf: Tensor
    tokens: Tensor
    begin: Tensor
    length: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "Trie":
        """Build the trie of ``sequences``; sequence i has the id i.

        Raises:
            ValueError: there are none, one is empty, or one is a prefix of another; end all of them with a token that
                occurs nowhere else.
        """
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        if not lengths.all() or not len(lengths):
            raise ValueError("a trie needs at least one sequence, and sequences of at least one token")
        tokens = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(lengths.sum()))
        begin = np.cumsum(lengths) - lengths
        token, parent, levels, leaf = _grow(tokens, begin, lengths)
        branching = np.bincount(parent[1:], minlength=len(token))
        if branching[leaf].any():
            raise ValueError("a sequence is the beginning of another one; end all with a token of their own")
        first_child = np.cumsum(branching) - branching + 1
        start, stop = _ranges(np.bincount(leaf, minlength=len(token)), parent, levels)
        leaves = _sum_below((branching == 0).astype(np.int64), parent, levels)
        order = np.argsort(start[leaf], kind="stable")
        depth = np.repeat(np.arange(len(levels) - 1), np.diff(levels))
        nodes = (array.astype(np.int32) for array in (depth, first_child, branching, start, stop))
        entries = (order, leaf, tokens.astype(np.int32), begin[order], lengths[order])
        return cls(*map(torch.from_numpy, (token.astype(np.int64), *nodes, leaves == 1, *entries)))

    def __len__(self) -> int:
        return len(self.token)

    def to(self, device: torch.device | str) -> "Trie":
        """The same trie on another ``device``."""
        return Trie(*(getattr(self, field.name).to(device) for field in fields(self)))

    def children(self, nodes: Tensor) -> Children:
        """The children of ``nodes``, (B, W) to (B, T), T the largest number of children in a row."""
        branching = _taken(self.branching, nodes)
        ends = branching.cumsum(1)
        place = torch.arange(int(ends[:, -1].max()) if ends.numel() else 0, device=nodes.device)
        mask = place < ends[:, -1:]
        parents = torch.searchsorted(ends, place.expand_as(mask).contiguous(), right=True).clamp_(
            max=nodes.shape[1] - 1
        )
        first = _taken(self.first_child, nodes) - (ends - branching)
        child = torch.where(mask, first.gather(1, parents) + place, ROOT)
        return Children(parents, child, _taken(self.token, child), mask)

    def ids_below(self, node: int) -> Tensor:
        """All ids below a ``node``; at a leaf, the ids that share its sequence, ascending."""
        return self.ids[int(self.start[node]) : int(self.stop[node])]


@dataclass(frozen=True)
class Closed:
    """Ids that must not be reached: some by no prompt, others by certain prompts. No id is in both parts.

    Attributes:
        before: how many of the first i entries of ``Trie.ids`` are closed to all (n+1,).
        own: the indices in ``Trie.ids`` that are closed to each prompt, ascending, padded with n, (N, X).
    """

    before: Tensor
    own: Tensor

    @classmethod
    def of(cls, trie: Trie, own: Tensor, barred: Tensor) -> "Closed":
        """The closed ids, in the order of a trie.

        Args:
            trie: with n ids.
            own: ids that are closed to each prompt, padded with n, (N, X).
            barred: which ids are closed to all, bool (n,).
        """
        ids = trie.ids.cpu()
        place = torch.full((len(ids) + 1,), len(ids)).scatter_(0, ids, torch.arange(len(ids)))
        before = torch.nn.functional.pad(barred[ids].long().cumsum(0), (1, 0))
        return cls(before, place[own].sort(1).values)

    def take(self, rows: list[int]) -> "Closed":
        """The same for the prompts ``rows``."""
        return Closed(self.before, self.own[rows])

    def to(self, device: torch.device | str) -> "Closed":
        """The same on another ``device``."""
        return Closed(self.before.to(device), self.own.to(device))

    def shuts(self, trie: Trie, nodes: Tensor, rows: Tensor) -> Tensor:
        """Whether all ids below ``nodes`` (B, T) of the ``trie`` are closed to the prompts ``rows`` (B,); (B, T)."""
        start, stop = _taken(trie.start, nodes).long(), _taken(trie.stop, nodes).long()
        own = self.own[rows]
        gone = torch.searchsorted(own, stop) - torch.searchsorted(own, start)
        gone = gone + _taken(self.before, stop) - _taken(self.before, start)
        return gone == stop - start


class Masses:
    """Sums of values per id below the nodes of a trie.

    A sum adds only the values below its node, so its relative error does not depend on the others. (Differences of
    prefix sums would lose values that are small relative to the total.) Nodes with the same ids below them share a sum;
    one product with a 0/1 matrix of sums (S) by ids (n) makes them all.

    Args:
        trie: on the device of the sums.
        dtype: of the sums.
    """

    def __init__(self, trie: Trie, dtype: torch.dtype = torch.float64) -> None:
        ranges = torch.stack([trie.start, trie.stop], 1).cpu().numpy()
        distinct, which = np.unique(ranges, axis=0, return_inverse=True)
        start, count = distinct[:, 0].astype(np.int64), np.diff(distinct, axis=1)[:, 0].astype(np.int64)
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - start, count)
        cells = np.stack([np.repeat(np.arange(len(start)), count), trie.ids.cpu().numpy()[place]])
        ones, shape = torch.ones(cells.shape[1], dtype=dtype), (len(start), len(trie.ids))
        matrix = torch.sparse_coo_tensor(torch.from_numpy(cells), ones, shape, check_invariants=True)
        self._sum_of = torch.from_numpy(which.reshape(-1)).to(trie.token.device)
        with warnings.catch_warnings():  # CSR takes half the time, and warns that it is in beta
            warnings.simplefilter("ignore", UserWarning)
            self._matrix = matrix.to(trie.token.device).coalesce().to_sparse_csr()

    def of(self, values: Tensor) -> Tensor:
        """All sums of ``values`` per id, (B, n) to (S, B), for :meth:`below`."""
        sums: Tensor = torch.sparse.mm(self._matrix, values.to(self._matrix.dtype).T)
        return sums

    def below(self, sums: Tensor, nodes: Tensor, rows: Tensor | None = None) -> Tensor:
        """Sum of the values of all ids below nodes, shape of ``nodes``.

        Args:
            sums: of :meth:`of`.
            nodes: of the trie, (B, ...).
            rows: the row of the values for each row of ``nodes`` (B,); by default the same.
        """
        row = torch.arange(len(nodes), device=nodes.device) if rows is None else rows
        at = _taken(self._sum_of, nodes.flatten(1)) * sums.shape[1] + row[:, None]
        return _taken(sums.flatten(), at).view(nodes.shape)


def _taken(values: Tensor, at: Tensor) -> Tensor:
    """``values[at]`` of a vector, in half the time of indexing."""
    return values.index_select(0, at.flatten()).view(at.shape)


def _grow(
    tokens: np.ndarray, begin: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The nodes, level by level: token and parent of each, first node of each level, leaf of each sequence."""
    vocabulary = int(tokens.max()) + 1
    at = np.zeros(len(lengths), dtype=np.int64)  # the node that each sequence has reached
    all_tokens, parents, levels = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)], [0, 1]
    running = np.arange(len(lengths))
    for depth in range(int(lengths.max())):
        running = running[lengths[running] > depth]
        branch = at[running] * vocabulary + tokens[begin[running] + depth]
        new, which = np.unique(branch, return_inverse=True)
        at[running] = levels[-1] + which
        all_tokens.append(new % vocabulary)
        parents.append(new // vocabulary)
        levels.append(levels[-1] + len(new))
    return np.concatenate(all_tokens), np.concatenate(parents), np.array(levels), at


def _sum_below(own: np.ndarray, parent: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Sum of ``own`` over each node and all nodes below it."""
    total = own.copy()
    for low, high in zip(levels[-2:0:-1], levels[:1:-1], strict=True):
        first = parent[low]
        total[first : parent[high - 1] + 1] += np.bincount(parent[low:high] - first, weights=total[low:high]).astype(
            np.int64
        )
    return total


def _ranges(ids_at: np.ndarray, parent: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The range of sorted ids below each node: siblings share the parent's range in order, from its start."""
    size = _sum_below(ids_at, parent, levels)
    start = np.zeros_like(size)
    for low, high in pairwise(levels[1:].tolist()):
        before = np.cumsum(size[low:high]) - size[low:high]
        eldest = np.searchsorted(parent[low:high], parent[low:high])
        start[low:high] = start[parent[low:high]] + before - before[eldest]
    return start, start + size
