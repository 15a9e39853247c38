"""Exact nearest rows by L2 distance: a float32 matrix product proposes candidates, float64 decides."""

import torch
from torch import Tensor

_SLACK = 16  # candidates beyond k, so that rounding of the proposal almost never leaves a doubt
_QUERIES = 1024
_PROPOSALS = 1 << 24  # float32 numbers held at once by the matrix product: 64 MiB
_DIFFERENCES = 1 << 22  # float64 numbers held at once by the exact distances: 32 MiB


def nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` rows closest to each query, nearest first, ties by row number.

    Args:
        queries: float32, shape (n, d).
        rows: float32, shape (m, d), m >= k.
        k: how many.

    Returns:
        Row numbers and squared distances in float64, both of shape (n, k). The result is the one of sorting
        all distances computed in float64, whatever the rounding of the matrix product; memory stays
        bounded.
    """
    norms = rows.square().sum(1)
    parts = [_nearest_block(block, rows, norms, k) for block in torch.split(queries, _QUERIES)]
    indices, distances = zip(*parts, strict=True)
    return torch.cat(indices), torch.cat(distances)


def _nearest_block(queries: Tensor, rows: Tensor, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    proposed, values = _propose(queries, rows, norms, min(k + _SLACK, len(rows)))
    distances = _distances(queries, rows, proposed)
    indices, distances = _sorted(proposed, distances, k)
    for query in _doubtful(queries, values, norms, k, len(rows)).tolist():
        everything = torch.arange(len(rows), device=rows.device)
        exact = _distances_to_all(queries[query], rows)
        best, best_distances = _sorted(everything[None], exact[None], k)
        indices[query], distances[query] = best[0], best_distances[0]
    return indices, distances


def _propose(queries: Tensor, rows: Tensor, norms: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The ``m`` rows with the smallest |row|^2 - 2 query.row in float32, and these values, ascending."""
    values = queries.new_empty(len(queries), 0)
    indices = values.long()
    step = _PROPOSALS // max(len(queries), 1)
    for start in range(0, len(rows), step):
        chunk = torch.addmm(norms[start : start + step], queries, rows[start : start + step].T, alpha=-2)
        best, where = chunk.topk(min(m, chunk.shape[1]), dim=1, largest=False)
        values, indices = torch.cat([values, best], 1), torch.cat([indices, where + start], 1)
        values, order = values.topk(min(m, values.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, order)
    return indices, values


def _doubtful(queries: Tensor, values: Tensor, norms: Tensor, k: int, rows: int) -> Tensor:
    """Queries for which a row that was not proposed could still be among the k nearest.

    A dot product of length d in float32 is off by at most d u |query| |row|, u = 2^-24 (Higham 2002, Eq.
    3.5).
    """
    if values.shape[1] == rows:
        return torch.empty(0, dtype=torch.long)
    longest = norms.max().sqrt()
    off = (queries.shape[1] + 4) * 2.0**-24 * (longest.square() + 2 * longest * queries.norm(dim=1))
    return torch.nonzero(values[:, -1] - values[:, k - 1] <= 2 * off)[:, 0]


def _distances(queries: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """Squared distances of each query to its own candidates in float64, shape of ``indices``."""
    step = max(1, _DIFFERENCES // (indices.shape[1] * rows.shape[1]))
    parts = [
        (query[:, None].double() - rows[index].double()).square().sum(2)
        for query, index in zip(torch.split(queries, step), torch.split(indices, step), strict=True)
    ]
    return torch.cat(parts)


def _distances_to_all(query: Tensor, rows: Tensor) -> Tensor:
    """Squared distances of one query to all rows in float64, shape (m,)."""
    step = max(1, _DIFFERENCES // rows.shape[1])
    return torch.cat([(chunk.double() - query.double()).square().sum(1) for chunk in torch.split(rows, step)])


def _sorted(indices: Tensor, distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest distances of each query, ties by index."""
    indices, order = indices.sort(dim=1)
    distances, best = distances.gather(1, order).sort(dim=1, stable=True)
    return indices.gather(1, best[:, :k]), distances[:, :k]
