import pytest

from sprec.system.hardware import prefers_bf16


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("GenuineIntel avx2 avx512f avx512_bf16 amx_tile amx_bf16", True),
        ("GenuineIntel avx2 avx512f avx512_bf16", False),
        ("AuthenticAMD avx2 avx512f avx512_bf16", True),
        ("AuthenticAMD avx2", False),
        ("", False),
    ],
)
def test_bf16_where_its_products_are_faster(words: str, expected: bool) -> None:
    assert prefers_bf16(set(words.split())) is expected
