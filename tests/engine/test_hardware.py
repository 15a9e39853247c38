import pytest

from sprec.engine.hardware import bf16_gain, prefers_bf16


def never() -> float:
    raise AssertionError("the flags alone decide")


@pytest.mark.parametrize("gain", [0.6, 1.0, 1.2, 1.3, 2.0])
def test_the_clock_decides_only_for_vector_instructions(gain: float) -> None:
    assert prefers_bf16({"avx2", "avx512_bf16"}, lambda: gain) is (gain >= 1.3)
    assert prefers_bf16({"avx2", "avx512_bf16", "amx_bf16"}, never) is True
    assert prefers_bf16({"avx2", "avx512f"}, never) is False
    assert prefers_bf16(set(), never) is False


def test_the_gain_is_the_ratio_of_the_best_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products take 3, 2, 2, ... seconds, bf16 ones 8, 5, 4, 4, ...: half as fast."""
    clock, readings = 0.0, []
    taken = {0: [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], 1: [8.0, 5.0, 4.0, 4.0, 4.0, 4.0, 4.0]}
    for turn in range(7):
        for which in (0, 1):
            readings += [clock, clock := clock + taken[which][turn]]
    monkeypatch.setattr("sprec.engine.hardware.perf_counter", iter(readings).__next__)
    assert bf16_gain() == 0.5


def test_a_product_is_really_timed() -> None:
    assert 1e-3 < bf16_gain() < 1e3
