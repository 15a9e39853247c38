"""Exact nearest rows by L2 distance: a fast matrix product proposes candidates, float64 decides.

The k-th smallest of the minima of disjoint blocks of rows is at least the k-th smallest value of all. So all rows that
are near enough, with a bound on rounding, are in the few blocks whose minimum is: only minima are sorted.

The product is in float32; with many queries, and a processor that multiplies bf16 matrices faster, bf16 is tried first.
That is about three times as fast with matrix units, but its rounding leaves more candidates. Queries with too many are
repeated in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor

from sprec.system.hardware import cpu_prefers_bf16

_Precision = Literal["bf16", "ieee"]  # of the factors; products are summed in float32
_MANY = 64  # with fewer queries preparing the product in bf16 costs more than it saves
_QUERIES = 512
_PROPOSALS = 7 << 20  # float32 numbers of a matrix product: 28 MiB; malloc would map 32 MiB anew each time
_DIFFERENCES = 1 << 17  # float64 numbers of the exact distances: 1 MiB, about a core's cache
_BLOCK = 32  # maximum number of neighbouring rows in a block
_CROWD = 8  # maximum candidates per row wanted, beyond those of a block
_SETTING = Lock()  # the precision is a setting of the process: threads must not restore each other's


class FlatIndex:
    """Rows to search, with what every search needs to know about them.

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
        if queries.device.type == "cpu" and len(queries) >= _MANY and cpu_prefers_bf16():
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
        """The nearest rows and their distances, and which queries have too many candidates, (n,).

        Those queries have no rows, and as distance only an upper bound for k rows.
        """
        off, most = self._off(queries, precision), _CROWD * k + _BLOCK
        with _multiplying(precision, queries.device):
            query, row, value, bound, crowded = _candidates(queries, self.rows, self._norms, k, off, most)
        each = query.bincount(minlength=len(queries))
        place = torch.arange(len(query), device=query.device) - (each.cumsum(0) - each)[query]
        values = queries.new_full((len(queries), max(k, int(each.max()))), torch.inf)
        values[query, place] = value
        limit = values.topk(k, dim=1, largest=False, sorted=False).values.amax(1) + 2 * off
        near = value <= limit[query]
        crowded |= query[near].bincount(minlength=len(queries)) > most
        near &= ~crowded[query]
        query, row, place = query[near], row[near], place[near]
        distances = torch.full_like(values, torch.inf, dtype=torch.float64)
        indices = torch.zeros_like(distances, dtype=torch.long)
        indices[query, place], distances[query, place] = row, _distances(queries, self.rows, query, row)
        indices, distances = _sorted(indices, distances, k)
        distances[crowded] = (bound.double() + off + queries.double().square().sum(1))[crowded, None]
        return indices, distances, crowded

    def _scan(self, query: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest rows to one query, (d,), among all within the largest known distance, (k,)."""
        with _multiplying("ieee", query.device):
            own = torch.addmv(self._norms, self.rows, query, alpha=-2)
        limit = known.max() - query.double().square().sum() + self._off(query[None], "ieee")
        close = torch.nonzero(own.double() <= limit)[:, 0]
        exact = _distances(query[None], self.rows, torch.zeros_like(close), close)
        indices, distances = _sorted(close[None], exact[None], len(known))
        return indices[0], distances[0]

    def _off(self, queries: Tensor, precision: _Precision) -> Tensor:
        """A bound of the error of a product in |row|^2 - 2 query.row, shape (n,).

        The error of a dot product of length d is at most d u |query| |row|, u = 2^-24, in any order of summation
        (Higham 2002, Eq. 3.5). With factors rounded to q' and r': q.r - q'.r' = (q - q').r + q'.(r - r'), and both
        terms are at most the products of the lengths.
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
        """The largest norm of the rounding error of a row in bf16."""
        return torch.stack([part.bfloat16().float().sub_(part).norm(dim=1).max() for part in self._chunks]).max()


@contextmanager
def _multiplying(precision: _Precision, device: torch.device) -> Iterator[None]:
    """Inside the block float32 matrices are multiplied with factors of this precision, whatever is set elsewhere."""
    backends: Any = torch.backends  # untyped
    backend = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
    with _SETTING:
        before, backend.fp32_precision = backend.fp32_precision, precision
        try:
            yield
        finally:
            backend.fp32_precision = before


def _candidates(
    queries: Tensor, rows: Tensor, norms: Tensor, k: int, off: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All rows that may be among the ``k`` with the smallest |row|^2 - 2 query.row, given errors of up to ``off``.

    Returns:
        Pairs by number of query and row, ordered by both, and their values in the product; a value that at least k rows
        of each query do not exceed, (n,); and which queries have candidates in more than ``most`` blocks, (n,), for
        which some are missing.
    """
    n = len(queries)
    columns, size = max(1, min(_PROPOSALS // n, len(rows))), _BLOCK
    while size > 1 and columns < 4 * k * size:
        size //= 2
    step = -(-columns // size) * size
    product = queries.new_empty(n, step)
    blocks, turned = product.view(n, -1, size), -2 * queries
    best = queries.new_full((n, k), torch.inf)
    seen = torch.zeros(n, dtype=torch.long, device=queries.device)
    found = []
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        torch.mm(turned, chunk.T, out=product[:, : len(chunk)]).add_(norms[start : start + step])
        product[:, len(chunk) :] = torch.inf
        minima = blocks.amin(2)
        best = torch.cat([best, minima], 1).topk(k, dim=1, largest=False, sorted=False).values
        limit = (best.amax(1) + 2 * off).clamp(
            max=torch.finfo(best.dtype).max
        )  # less than the padding of the last chunk
        near = minima <= limit[:, None]
        seen += near.sum(1)
        query, block = (near & (seen <= most)[:, None]).nonzero(as_tuple=True)
        values = blocks.flatten(0, 1).index_select(0, query * blocks.shape[1] + block)
        pair, inside = (values <= limit[query, None]).nonzero(as_tuple=True)
        found.append((query[pair], start + block[pair] * size + inside, values[pair, inside]))
    query, row, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = (value <= limit[query]).nonzero()[:, 0]
    query, order = query[kept].sort(stable=True)
    return query, row[kept][order], value[kept][order], best.amax(1), seen > most


def _distances(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """Squared distances of pairs (numbers of query and row) in float64, shape (pairs,)."""
    step, exact = max(1, _DIFFERENCES // max(1, rows.shape[1])), queries.double()
    parts = []
    for left, right in zip(torch.split(query, step), torch.split(row, step), strict=True):
        # twice as fast as indexing, and as a difference of two types
        parts.append(rows.index_select(0, right).double().sub_(exact.index_select(0, left)).square_().sum(1))
    return torch.cat(parts)


def _sorted(indices: Tensor, distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest distances of each query, ties by index."""
    indices, order = indices.sort(dim=1)
    distances, best = distances.gather(1, order).sort(dim=1, stable=True)
    return indices.gather(1, best[:, :k]), distances[:, :k]
