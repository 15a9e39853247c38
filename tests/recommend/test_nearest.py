import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprec.recommend import nearest as module
from sprec.recommend.nearest import nearest


def brute_force(queries: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """All rows by (float64 distance, row number): stable argsort of the full distance matrix."""
    distances = (queries.double().numpy()[:, None] - rows.double().numpy()[None]) ** 2
    distances = distances.sum(2)
    order = np.argsort(distances, axis=1, kind="stable")
    return order, np.take_along_axis(distances, order, 1)


@given(
    n=st.integers(0, 5), m=st.integers(1, 60), d=st.integers(1, 4), levels=st.integers(1, 4), seed=st.integers(0, 999)
)
def test_equals_brute_force_with_many_ties(n: int, m: int, d: int, levels: int, seed: int) -> None:
    """On a small grid most distances tie, and more rows tie than are proposed."""
    g = torch.Generator().manual_seed(seed)
    queries, rows = (torch.randint(levels, (size, d), generator=g).float() for size in (n, m))
    for k in {1, min(5, m), m}:
        indices, distances = nearest(queries, rows, k)
        order, expected = brute_force(queries, rows)
        assert indices.tolist() == order[:, :k].tolist()
        np.testing.assert_array_equal(distances.numpy(), expected[:, :k])


def test_equals_brute_force_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROPOSALS", 16 * 500)
    monkeypatch.setattr(module, "_DIFFERENCES", 2000)
    monkeypatch.setattr(module, "_QUERIES", 16)
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(40, 24, generator=g), torch.randn(3000, 24, generator=g)
    indices, _ = nearest(queries, rows, 7)
    assert indices.tolist() == brute_force(queries, rows)[0][:, :7].tolist()


@settings(max_examples=60)
@given(
    m=st.integers(1, 120), width=st.integers(1, 60), block=st.sampled_from([1, 3, 8]), near_first=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_equals_brute_force_wherever_the_nearest_rows_lie(
    m: int, width: int, block: int, near_first: bool, seed: int
) -> None:
    """All in one block, or spread; in the first chunk, or each chunk better than the one before; a narrow last one."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, 3, generator=g)
    rows = rows[rows.norm(dim=1).argsort(descending=not near_first)]
    queries = 0.1 * torch.randn(4, 3, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_PROPOSALS", 4 * width), ("_BLOCK", block), ("_SLACK", 2)):
            patch.setattr(module, name, value)
        indices, distances = nearest(queries, rows, min(5, m))
    order, expected = brute_force(queries, rows)
    assert indices.tolist() == order[:, :5].tolist()
    np.testing.assert_allclose(distances.numpy(), expected[:, :5], rtol=1e-12)


def test_only_doubtful_pairs_are_computed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far apart: k pairs a query. More ties than proposals: that query's ties, not all rows."""
    pairs: list[int] = []
    whole = module._distances

    def counted(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
        pairs.append(len(query))
        return whole(queries, rows, query, row)

    monkeypatch.setattr(module, "_distances", counted)
    rows = torch.arange(100.0)[:, None]
    assert nearest(torch.tensor([[7.2], [50.1]]), rows, 3)[0].tolist() == [[7, 8, 6], [50, 51, 49]]
    assert pairs == [6]
    rows[40:70] = 40
    pairs.clear()
    assert nearest(torch.tensor([[7.2], [41.0]]), rows, 3)[0].tolist() == [[7, 8, 6], [40, 41, 42]]
    assert pairs == [3 + 19, 30]


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_rounding_of_the_matrix_product_does_not_show(seed: int) -> None:
    """Rows far from the origin and close together: |row|^2 - 2 query.row has no correct digit left in float32."""
    g = torch.Generator().manual_seed(seed)
    rows = 1000 + 1e-2 * torch.randn(200, 8, generator=g)
    queries = 1000 + 1e-2 * torch.randn(3, 8, generator=g)
    indices, distances = nearest(queries, rows, 5)
    order, expected = brute_force(queries, rows)
    assert indices.tolist() == order[:, :5].tolist()
    np.testing.assert_allclose(distances.numpy(), expected[:, :5], rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_result_on_a_gpu() -> None:
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(50, 64, generator=g), torch.randn(5000, 64, generator=g)
    indices, _ = nearest(queries.cuda(), rows.cuda(), 5)
    assert indices.tolist() == nearest(queries, rows, 5)[0].tolist()
