"""Exact nearest rows by L2 distance: a float32 matrix product proposes candidates, float64 decides."""

import torch
from torch import Tensor

_SLACK = 16  # candidates beyond k, so that rounding of the proposal almost never leaves a doubt
_QUERIES = 512
_PROPOSALS = 7 << 20  # float32 numbers held at once by the matrix product: 28 MiB; 32 would be mapped anew each time
_DIFFERENCES = 1 << 17  # float64 numbers held at once by the exact distances: 1 MiB, about what a core caches
_BLOCK = 32  # neighbouring rows of which the smallest value stands for all


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
    step = max(1, _PROPOSALS // max(1, rows.shape[1]))
    norms = torch.cat([chunk.square().sum(1) for chunk in torch.split(rows, step)])
    parts = [_nearest_block(block, rows, norms, k) for block in torch.split(queries, _QUERIES)]
    indices, distances = zip(*parts, strict=True)
    return torch.cat(indices), torch.cat(distances)


def _nearest_block(queries: Tensor, rows: Tensor, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    proposed, values = _propose(queries, rows, norms, min(k + _SLACK, len(rows)))
    limit = values[:, k - 1] + 2 * _rounding(queries, norms)
    query, place = torch.nonzero(values <= limit[:, None], as_tuple=True)
    distances = torch.full(values.shape, torch.inf, dtype=torch.float64, device=values.device)
    distances[query, place] = _distances(queries, rows, query, proposed[query, place])
    indices, distances = _sorted(proposed, distances, k)
    if values.shape[1] == len(rows):
        return indices, distances
    for doubtful in torch.nonzero(values[:, -1] <= limit)[:, 0].tolist():
        own = torch.addmv(norms, rows, queries[doubtful], alpha=-2)
        close = torch.nonzero(own <= limit[doubtful])[:, 0]
        exact = _distances(queries, rows, torch.full_like(close, doubtful), close)
        best, best_distances = _sorted(close[None], exact[None], k)
        indices[doubtful], distances[doubtful] = best[0], best_distances[0]
    return indices, distances


def _propose(queries: Tensor, rows: Tensor, norms: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The ``m`` rows with the smallest |row|^2 - 2 query.row in float32, and these values, ascending.

    The m smallest of many values lie in the m blocks with the smallest minima. So only those blocks are sorted, and of
    later chunks only the blocks that beat the m-th best so far.
    """
    values = queries.new_full((len(queries), m), torch.inf)
    indices = torch.zeros(values.shape, dtype=torch.long, device=queries.device)
    if not len(queries):
        return indices, values
    step = _BLOCK * max(1, min(_PROPOSALS // len(queries), len(rows) + _BLOCK - 1) // _BLOCK)
    product = queries.new_empty(len(queries), step)
    blocks = product.view(len(queries), -1, _BLOCK)
    first = torch.arange(0, blocks[..., 0].numel(), blocks.shape[1], device=queries.device)[:, None]
    inside = torch.arange(_BLOCK, device=queries.device)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        torch.addmm(norms[start : start + step], queries, chunk.T, alpha=-2, out=product[:, : len(chunk)])
        product[:, len(chunk) :] = torch.inf
        minima = blocks.amin(2)
        count = min(m, int((minima < values[:, -1:]).sum(1, dtype=torch.int32).max()))
        best = minima.topk(count, dim=1, largest=False, sorted=False).indices
        near = blocks.flatten(0, 1).index_select(0, (first + best).flatten()).view(len(queries), -1)
        where = start + (best[:, :, None] * _BLOCK + inside).flatten(1)
        values, order = torch.cat([values, near], 1).topk(m, dim=1, largest=False)
        indices = torch.cat([indices, where], 1).gather(1, order)
    return indices, values


def _rounding(queries: Tensor, norms: Tensor) -> Tensor:
    """How far |row|^2 - 2 query.row in float32 may be off, shape (n,).

    A dot product of length d is off by at most d u |query| |row|, u = 2^-24, in whatever order it is summed
    (Higham 2002, Eq. 3.5).
    """
    longest = norms.max().sqrt()
    off: Tensor = (queries.shape[1] + 4) * 2.0**-24 * (longest.square() + 2 * longest * queries.norm(dim=1))
    return off


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
