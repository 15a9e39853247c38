"""Exact nearest rows by L2 distance: a quick matrix product proposes candidates, float64 decides.

The product is in float32; where many queries come at once and the processor multiplies bf16 matrices, first in bf16.
That is about three times as fast, but rounds more, so it leaves more candidates and more doubts; what one product
leaves in doubt goes to the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor

from sprec.engine.hardware import cpu_multiplies_bf16

_Precision = Literal["bf16", "ieee"]  # of the factors; products are added up in float32
_SLACK: dict[_Precision, int] = {"bf16": 24, "ieee": 16}
"""Candidates beyond k, so that rounding of the proposal seldom leaves a doubt."""
_MANY = 64  # queries from which on a product in bf16 saves more than its preparation takes
_QUERIES = 512
_PROPOSALS = 7 << 20  # float32 numbers held at once by the matrix product: 28 MiB; 32 would be mapped anew each time
_DIFFERENCES = 1 << 17  # float64 numbers held at once by the exact distances: 1 MiB, about what a core caches
_BLOCK = 32  # neighbouring rows of which the smallest value stands for all
_SETTING = Lock()  # the precision is one of the whole process: two threads must not put back each other's


class FlatIndex:
    """Rows to search, with what every search needs of them.

    Args:
        rows: float32, shape (m, d), m >= 1.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._chunks = torch.split(rows, max(1, _PROPOSALS // max(1, rows.shape[1])))
        self._norms = torch.cat([chunk.square().sum(1) for chunk in self._chunks])
        self._longest = self._norms.max().sqrt()

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` rows closest to each query, nearest first, ties by row number.

        Args:
            queries: float32, shape (n, d), on the device of the rows.
            k: how many; at most m.

        Returns:
            Row numbers and squared distances in float64, both of shape (n, k). The result is the one of sorting
            all distances computed in float64, whatever the rounding of the matrix product; memory stays
            bounded.
        """
        indices = torch.zeros(len(queries), k, dtype=torch.long, device=queries.device)
        distances = indices.double()
        left = torch.arange(len(queries), device=queries.device)
        precisions: tuple[_Precision, ...] = ("ieee",)
        if queries.device.type == "cpu" and len(queries) >= _MANY and cpu_multiplies_bf16():
            precisions = ("bf16", "ieee")
        for precision in precisions:
            doubtful = [left[:0]]
            for some in torch.split(left, _QUERIES) if len(left) else ():
                indices[some], distances[some], doubt = self._search_block(queries[some], k, precision)
                doubtful.append(some[doubt])
            left = torch.cat(doubtful)
        for query in left.tolist():
            indices[query], distances[query] = self._scan(queries[query], distances[query])
        return indices, distances

    def _search_block(self, queries: Tensor, k: int, precision: _Precision) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest rows and their distances, and whether others may be nearer, (n,)."""
        with _multiplying(precision, queries.device):
            proposed, values = _propose(queries, self.rows, self._norms, min(k + _SLACK[precision], len(self.rows)))
        limit = values[:, k - 1] + 2 * self._off(queries, precision)
        query, place = torch.nonzero(values <= limit[:, None], as_tuple=True)
        distances = torch.full(values.shape, torch.inf, dtype=torch.float64, device=values.device)
        distances[query, place] = _distances(queries, self.rows, query, proposed[query, place])
        everything = values.shape[1] == len(self.rows)
        doubtful = torch.zeros_like(limit, dtype=torch.bool) if everything else values[:, -1] <= limit
        return *_sorted(proposed, distances, k), doubtful

    def _scan(self, query: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest rows of one query, (d,), among all that are no farther than the largest known distance, (k,)."""
        with _multiplying("ieee", query.device):
            own = torch.addmv(self._norms, self.rows, query, alpha=-2)
        limit = known.max() - query.double().square().sum() + self._off(query[None], "ieee")
        close = torch.nonzero(own.double() <= limit)[:, 0]
        exact = _distances(query[None], self.rows, torch.zeros_like(close), close)
        indices, distances = _sorted(close[None], exact[None], len(known))
        return indices[0], distances[0]

    def _off(self, queries: Tensor, precision: _Precision) -> Tensor:
        """How far a product may be off in |row|^2 - 2 query.row, shape (n,).

        A dot product of length d is off by at most d u |query| |row|, u = 2^-24, in whatever order it is summed
        (Higham 2002, Eq. 3.5). With factors rounded to q' and r': q.r - q'.r' = (q - q').r + q'.(r - r'), and both
        are at most the products of the lengths.
        """
        longest = self._longest
        off: Tensor = (queries.shape[1] + 4) * 2.0**-24 * (longest.square() + 2 * longest * queries.norm(dim=1))
        if precision == "bf16":
            rounded = queries.bfloat16().float()
            off *= 1 + 2.0**-6  # rounded factors may each be longer by 2^-8
            off += 2 * ((queries - rounded).norm(dim=1) * longest + rounded.norm(dim=1) * self._lost)
        return off

    @cached_property
    def _lost(self) -> Tensor:
        """The largest length that a row loses when it is rounded to bf16."""
        return torch.stack([part.bfloat16().float().sub_(part).norm(dim=1).max() for part in self._chunks]).max()


@contextmanager
def _multiplying(precision: _Precision, device: torch.device) -> Iterator[None]:
    """Inside the block float32 matrices are multiplied with factors of this precision, whatever the process has set."""
    backends: Any = torch.backends  # their settings have no types
    backend = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
    with _SETTING:
        before, backend.fp32_precision = backend.fp32_precision, precision
        try:
            yield
        finally:
            backend.fp32_precision = before


def _propose(queries: Tensor, rows: Tensor, norms: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The ``m`` rows with the smallest |row|^2 - 2 query.row as a product gives it, and these values, ascending.

    The m smallest of many values lie in the m blocks with the smallest minima. So only those blocks are sorted, and of
    later chunks only the blocks that beat the m-th best so far.
    """
    values = queries.new_full((len(queries), m), torch.inf)
    indices = torch.zeros(values.shape, dtype=torch.long, device=queries.device)
    step = _BLOCK * max(1, min(_PROPOSALS // len(queries), len(rows) + _BLOCK - 1) // _BLOCK)
    product = queries.new_empty(len(queries), step)
    blocks = product.view(len(queries), -1, _BLOCK)
    first = torch.arange(0, blocks[..., 0].numel(), blocks.shape[1], device=queries.device)[:, None]
    inside = torch.arange(_BLOCK, device=queries.device)
    turned = -2 * queries
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        torch.mm(turned, chunk.T, out=product[:, : len(chunk)]).add_(norms[start : start + step])
        product[:, len(chunk) :] = torch.inf
        minima = blocks.amin(2)
        count = min(m, int((minima < values[:, -1:]).sum(1, dtype=torch.int32).max()))
        best = minima.topk(count, dim=1, largest=False, sorted=False).indices
        near = blocks.flatten(0, 1).index_select(0, (first + best).flatten()).view(len(queries), -1)
        where = start + (best[:, :, None] * _BLOCK + inside).flatten(1)
        values, order = torch.cat([values, near], 1).topk(m, dim=1, largest=False)
        indices = torch.cat([indices, where], 1).gather(1, order)
    return indices, values


def _distances(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """Squared distances of pairs, by number of query and row, in float64, shape (pairs,)."""
    step = max(1, _DIFFERENCES // max(1, rows.shape[1]))
    parts = []
    for left, right in zip(torch.split(query, step), torch.split(row, step), strict=True):
        one, two = queries.index_select(0, left), rows.index_select(0, right)  # twice as fast as brackets
        parts.append(one.double().sub_(two).square_().sum(1))
    return torch.cat(parts)


def _sorted(indices: Tensor, distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest distances of each query, ties by index."""
    indices, order = indices.sort(dim=1)
    distances, best = distances.gather(1, order).sort(dim=1, stable=True)
    return indices.gather(1, best[:, :k]), distances[:, :k]
