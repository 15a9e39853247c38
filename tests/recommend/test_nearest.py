from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprec.recommend import nearest as module
from sprec.recommend.nearest import FlatIndex

BF16 = torch.finfo(torch.bfloat16).eps / 2  # the largest relative error of rounding to the nearest


@pytest.fixture(autouse=True, params=["float32", "bf16 first"])
def first_product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both precisions on every machine: without bf16 instructions PyTorch ignores the setting."""
    quick = request.param == "bf16 first"
    monkeypatch.setattr(module, "cpu_prefers_bf16", lambda: quick)
    monkeypatch.setattr(module, "_MANY", 1)


def nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return FlatIndex(rows).search(queries, k)


def brute_force(queries: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """All rows by (float64 distance, row number): stable argsort of the full distance matrix."""
    distances = (queries.double().numpy()[:, None] - rows.double().numpy()[None]) ** 2
    distances = distances.sum(2)
    order = np.argsort(distances, axis=1, kind="stable")
    return order, np.take_along_axis(distances, order, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 120), width=st.integers(1, 60), block=st.sampled_from([1, 3, 8]), crowd=st.sampled_from([0, 1, 8]),
    near_first=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_equals_brute_force_wherever_the_nearest_rows_lie(
    m: int, width: int, block: int, crowd: int, near_first: bool, seed: int
) -> None:
    """All in one block, or spread; in the first chunk, or each chunk better than the one before; a narrow last one."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, 3, generator=g)
    rows = rows[rows.norm(dim=1).argsort(descending=not near_first)]
    queries = 0.1 * torch.randn(4, 3, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_PROPOSALS", 4 * width), ("_BLOCK", block), ("_CROWD", crowd)):
            patch.setattr(module, name, value)
        indices, distances = nearest(queries, rows, min(5, m))
    order, expected = brute_force(queries, rows)
    assert indices.tolist() == order[:, :5].tolist()
    np.testing.assert_allclose(distances.numpy(), expected[:, :5], rtol=1e-12)


def test_only_candidates_are_computed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far apart: k pairs a query. Ties: these, too. A crowd of them: the query's ties in a scan, not all rows."""
    pairs: list[int] = []
    whole = module._distances

    def counted(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
        pairs.append(len(query))
        return whole(queries, rows, query, row)

    monkeypatch.setattr(module, "_distances", counted)
    monkeypatch.setattr(module, "_MANY", 100)
    rows = torch.arange(100.0)[:, None]
    assert nearest(torch.tensor([[7.2], [50.1]]), rows, 3)[0].tolist() == [[7, 8, 6], [50, 51, 49]]
    assert pairs == [6]
    rows[40:70] = 40
    pairs.clear()
    assert nearest(torch.tensor([[7.2], [41.0]]), rows, 3)[0].tolist() == [[7, 8, 6], [40, 41, 42]]
    assert pairs == [3 + 30]
    monkeypatch.setattr(module, "_CROWD", 0)
    monkeypatch.setattr(module, "_BLOCK", 4)
    pairs.clear()
    assert nearest(torch.tensor([[7.2], [41.0]]), rows, 3)[0].tolist() == [[7, 8, 6], [40, 41, 42]]
    assert pairs == [3, 30]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.parametrize("below", [2.0**-20, BF16], ids=["nearly a bf16 number", "halfway between two"])
def test_the_bound_holds_for_rounded_factors(below: float) -> None:
    """All errors have one sign: |row|^2 - 2 query.row is as far off as it can be. Cutting digits off would be worse."""
    queries, rows = (torch.full((size, 96), 1 + 2 * BF16 - below) for size in (64, 300))
    norms = rows.square().sum(1)
    exact = rows.double().square().sum(1) - 2 * (queries.double() @ rows.double().T)
    off = FlatIndex(rows)._off(queries, "bf16")
    with module._multiplying("bf16", queries.device):
        bound = module._candidates(queries, rows, norms, 1, off, 1000)[3]
    assert ((bound - exact[:, 0]).abs() <= off).all()
    assert (off >= 0.9 * 4 * 96 * min(below, BF16)).all(), "and it is not far above the worst that there is"
    assert (off <= 1.2 * 4 * 96 * min(below, BF16) + 0.02).all()


def test_what_bf16_leaves_in_doubt_is_found_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows a hundred times as far from the origin as from each other: bf16 cannot tell them apart, float32 can."""
    asked: dict[str, int] = {}
    whole = FlatIndex._search_block

    def noted(self: FlatIndex, queries: Tensor, k: int, precision: module._Precision) -> Any:
        asked[precision] = asked.get(precision, 0) + len(queries)
        return whole(self, queries, k, precision)

    monkeypatch.setattr(FlatIndex, "_search_block", noted)
    monkeypatch.setattr(module, "cpu_prefers_bf16", lambda: True)
    g = torch.Generator().manual_seed(0)
    rows, queries = (100 + torch.randn(size, 32, generator=g) for size in (500, 70))
    assert nearest(queries, rows, 5)[0].tolist() == brute_force(queries, rows)[0][:, :5].tolist()
    assert asked == {"bf16": 70, "ieee": 70}


def test_the_precision_that_a_process_has_set_is_neither_used_nor_lost() -> None:
    backends: Any = torch.backends
    setting = backends.mkldnn.matmul
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(100, 64, generator=g), torch.randn(3000, 64, generator=g)
    before, setting.fp32_precision = setting.fp32_precision, "bf16"
    try:
        assert nearest(queries, rows, 5)[0].tolist() == brute_force(queries, rows)[0][:, :5].tolist()
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_result_on_a_gpu() -> None:
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(50, 64, generator=g), torch.randn(5000, 64, generator=g)
    indices, _ = nearest(queries.cuda(), rows.cuda(), 5)
    assert indices.tolist() == nearest(queries, rows, 5)[0].tolist()
