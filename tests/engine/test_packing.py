"""Packed rows equal padded groups: log-probabilities, gradients, fifty steps; and which models get them.

FlexAttention has kernels for GPUs only. Here its uncompiled form runs, in fp32, with PyTorch's refusal of gradients on
CPUs switched off. What the kernels compute is left to the tests that need a GPU.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_attention import losses_of_fifty_steps, use, with_template
from test_scoring import alone, assert_same_gradients, load, ragged_groups
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from sprec.config import HuggingFace, Lora, Training
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.layout import flex as blocks
from sprec.engine.layout.attention import FLEX, FUSED, PLAIN, flexible_attention, implementation
from sprec.engine.layout.flex import block_mask, row_width
from sprec.engine.layout.groups import GroupBatch, PromptGroup, collate, token_budget_batches
from sprec.engine.model.policy import Policy, adapt, load_huggingface
from sprec.engine.train.scoring import completion_log_probs, score
from sprec.engine.train.stage import Objective, train
from sprec.methods import objectives
from toy_models import make_config

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
STYLES = ("llama", "qwen")  # both with fewer key heads than query heads
SFT = Objective(lambda policy, _: objectives.sft(policy), per_token=True)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    blocks.works.cache_clear()
    torch._dynamo.reset()
    yield
    blocks.works.cache_clear()


def some_groups(template: int, completions: int = 4) -> list[PromptGroup]:
    return with_template(0, 9, completions, template) if template else ragged_groups(0, 9, completions)


def test_the_layout_by_hand() -> None:
    head = list(range(10, 18))
    groups = [PromptGroup([*head, 5], ([6, 7, 2], [8, 2])), PromptGroup([*head, 3, 4], ([6, 2],))]
    batch = collate(groups, multiple=1, packed=True)
    assert batch.packed
    assert batch.input_ids.shape == (1, 256)
    assert batch.kept == 256
    assert batch.input_ids[0, :16].tolist() == [*head, 5, 6, 7, 8, 3, 4, 6, 0]
    assert batch.position_ids[0, :16].tolist() == [*range(8), 8, 9, 10, 9, 8, 9, 10, 0]
    assert batch.attention_mask[:16].tolist() == [14] * 8 + [11, 10, 10, 11, 14, 14, 14, 15]
    assert batch.source.tolist() == [8, 9, 10, 11, 13, 14]
    assert batch.predictor.tolist() == [0, 1, 2, 0, 3, 4, 5]
    assert batch.token.tolist() == [6, 7, 2, 8, 2, 6, 2]
    assert batch.slot.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert batch.mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("template", [0, 24, 200])
def test_a_query_sees_its_own_completion_its_prompt_and_the_prefix(template: int) -> None:
    groups = some_groups(template, completions=40)
    batch = collate(groups, packed=True)
    width = batch.input_ids.shape[1]
    # a column is its group (-1: the prefix, -2: padding) and what it ends: the prompt, or a beginning of completions
    columns: list[tuple[int, tuple[int, ...]]] = [(-1, ())] * template
    for row, group in enumerate(groups):
        beginnings = {tuple(one[:size]) for one in group.completions for size in range(1, len(one))}
        columns += [(row, ())] * (len(group.prompt) - template)
        columns += [(row, beginning) for beginning in sorted(beginnings)]
    columns += [(-2, (column,)) for column in range(len(columns), width)]
    wanted = torch.eye(width, dtype=torch.bool)
    for query, (owner, text) in enumerate(columns):
        for key, (other, above) in enumerate(columns[: query + 1]):
            wanted[query, key] |= other in (owner, -1) and owner != -2 and text[: len(above)] == above
    mask, column = block_mask(batch.attention_mask), torch.arange(width)
    found = mask.mask_mod(torch.tensor(0), torch.tensor(0), column[:, None], column)
    assert torch.equal(found, wanted)
    assert found.any(1).all(), "a softmax over nothing is no number"
    built = create_block_mask(mask.mask_mod, None, None, width, width, device="cpu")  # from all width x width entries
    assert mask.shape == built.shape
    names = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    for name in [*names, *(name.replace("kv", "q") for name in names)]:
        assert torch.equal(getattr(mask, name), getattr(built, name)), name
    if template == 200:
        assert mask.full_kv_num_blocks is not None
        assert mask.full_kv_num_blocks.sum() > 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("template", [0, 24])
@pytest.mark.parametrize("completions", [1, 5])
def test_log_probabilities(style: str, template: int, completions: int, checkpoint: Callable[[str], Path]) -> None:
    padded, packed = load(checkpoint(style)), use(load(checkpoint(style)), FLEX)
    assert packed.packed
    assert not padded.packed
    groups = some_groups(template, completions)
    with torch.no_grad():
        expected = [[alone(padded, group, k).item() for k in range(len(group.completions))] for group in groups]
    for budget in (1, 300, 10_000):
        found = score(packed, groups, budget=budget)
        for one, two, three in zip(found, score(padded, groups, budget=budget), expected, strict=True):
            assert one.tolist() == pytest.approx(two.tolist(), abs=1e-5)
            assert one.tolist() == pytest.approx(three, abs=1e-5)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("template", [0, 24])
def test_gradients(style: str, template: int, checkpoint: Callable[[str], Path]) -> None:
    padded, packed = load(checkpoint(style)), use(load(checkpoint(style)), FLEX)
    groups = some_groups(template)
    for policy in (padded, packed):
        batch = collate(groups, packed=policy.packed)
        weights = torch.linspace(-1, 1, batch.mask.numel()).view(batch.mask.shape)
        (completion_log_probs(policy.model, batch, policy.head) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(packed, padded)


def test_fifty_steps_have_the_same_losses(checkpoint: Callable[[str], Path]) -> None:
    padded, packed = (losses_of_fifty_steps(use(load(checkpoint("llama")), name)) for name in (PLAIN, FLEX))
    assert packed == pytest.approx(padded, abs=1e-4)


def test_out_of_memory_halves_the_sum_of_tokens_and_keeps_the_result(checkpoint: Callable[[str], Path]) -> None:
    widths: list[int] = []

    def run(limit: int) -> dict[str, Tensor]:
        policy = use(load(checkpoint("llama")), FLEX)

        def loss(log_probs: Tensor, batch: GroupBatch) -> Tensor:
            assert batch.packed
            widths.append(batch.input_ids.shape[1])
            if widths[-1] > limit:
                raise torch.OutOfMemoryError("out of memory")
            return objectives.sft(log_probs)

        train(policy, ragged_groups(2, 40, 1), Objective(loss), Training(lr=1e-3, batch=40), seed=0, budget=4096)
        return policy.state()

    plenty, scarce = run(10**9), run(300)
    assert widths[:5] == [1024, 1024, 1024, 1024, 512]  # plenty, then budgets of 4096, 2048, 1024 and 512
    assert set(widths[5:]) == {256}
    for name, value in plenty.items():
        assert torch.allclose(value, scarce[name], atol=1e-4), name


def test_adapters_and_bf16(checkpoint: Callable[[str], Path]) -> None:
    groups = some_groups(24)
    padded = score(load(checkpoint("llama")), groups)
    packed = use(load(checkpoint("llama"), torch.bfloat16), FLEX)  # fp32 weights under autocast
    assert packed.packed
    for one, two in zip(score(packed, groups), padded, strict=True):
        assert one.tolist() == pytest.approx(two.tolist(), rel=2e-2, abs=0.1)
    adapted = load_huggingface(HuggingFace(path=str(checkpoint("llama"))), torch.device("cpu"), torch.bfloat16)
    use(adapted, FLEX)
    outcome = train(adapted, groups, SFT, Training(lr=1e-2, batch=9, epochs=5), seed=0)
    assert outcome.steps[-1]["loss"] < outcome.steps[0]["loss"]


def test_dense_masks_still_work(checkpoint: Callable[[str], Path]) -> None:
    """One implementation serves training (packed) and generating (padded)."""
    fused, flexible = use(load(checkpoint("llama")), FUSED), use(load(checkpoint("llama")), FLEX)
    batch = collate(some_groups(24))
    assert batch.prefix == 24
    with torch.no_grad():
        one, two = (completion_log_probs(policy.model, batch, policy.head) for policy in (fused, flexible))
    assert torch.equal(one, two)
    prompts = [group.prompt for group in some_groups(24)]
    answers = [generate(policy, prompts, Decoding(max_new_tokens=5)) for policy in (fused, flexible)]
    assert answers[0] == answers[1]
    assert torch.equal(fused.embed(["a title", "b"]), flexible.embed(["a title", "b"]))


def test_who_reads_packed_rows(checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert implementation(torch.device("cuda")) == FLEX
    assert implementation(torch.device("cpu")) == PLAIN
    policy = load(checkpoint("llama"))
    answers = [policy.packed, use(policy, FLEX).packed]
    policy.model = adapt(policy.model, Lora(r=4))
    answers.append(policy.packed)
    policy.model.config.attention_dropout = 0.1
    answers.append(policy.packed)
    answers.append(use(load(checkpoint("gpt2")), FLEX).packed)  # takes no masks of blocks
    assert answers == [False, True, True, False, False]
    assert "FlexAttention" not in capsys.readouterr().err


def test_packed_rows_refuse_what_they_cannot_do() -> None:
    heads = torch.zeros(1, 2, 256, 16)
    mask = block_mask(torch.arange(256))
    for option in ({"dropout": 0.1}, {"softcap": 30.0}):
        with pytest.raises(ValueError, match="neither dropout nor soft caps"):
            flexible_attention(torch.nn.Identity(), heads, heads, heads, mask, **option)


@pytest.mark.parametrize("broken", ["raises", "lies", "is no number"])
def test_where_flex_attention_fails_groups_are_padded(
    broken: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attend(query: Tensor, *_: object) -> Tensor:
        if broken == "raises":
            raise RuntimeError("out of resource: shared memory\nand much more")
        return query * (0.5 if broken == "lies" else float("nan"))

    monkeypatch.setattr(blocks, "attend", attend)
    policy = use(load(checkpoint("llama")), FLEX)
    groups = some_groups(24)
    assert not policy.packed
    assert not policy.packed
    errors = capsys.readouterr().err
    assert errors.count("prompt groups are padded instead of packed") == 1
    assert ("shared memory)" in errors) == (broken == "raises")
    for one, two in zip(score(policy, groups), score(load(checkpoint("llama")), groups), strict=True):
        assert one.tolist() == pytest.approx(two.tolist(), abs=1e-5)


def test_rows_have_few_widths_and_little_padding() -> None:
    widths = {row_width(tokens) for tokens in range(1, 16385)}
    assert len(widths) <= 7 + 8 * 4
    assert all(width % 128 == 0 and width >= 256 for width in widths)
    assert all(tokens <= row_width(tokens) <= tokens * 1.125 for tokens in range(1024, 16385))
    assert [row_width(tokens) for tokens in (1, 257, 1024, 1025, 4097, 8192)] == [256, 384, 1024, 1152, 4608, 8192]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_kernels_are_not_compiled_for_every_width(
    precision: torch.dtype, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Dynamo traces, with a compiler that does nothing."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(blocks, "flex_attention", torch.compile(flex_attention, backend=counter, fullgraph=True))
    policy = use(load(checkpoint("llama"), precision), FLEX)
    assert policy.packed
    assert counter.frame_count == 2, "the first width, then all others"
    groups = some_groups(24) + some_groups(0) + some_groups(24, 40)
    train(policy, groups, SFT, Training(batch=5), seed=0)
    assert counter.frame_count == 2, "training has what the check has compiled"
    for budget in (1, 400, 700, 1000, 10_000):
        score(policy, groups, budget=budget)
    assert counter.frame_count == 3, "without gradients"


def test_packed_batches_are_cut_by_the_sum_of_tokens() -> None:
    sizes = np.random.default_rng(0).integers(1, 50, 200)
    batches = token_budget_batches(sizes, 100, packed=True)
    assert [row for batch in batches for row in batch] == list(range(200))
    assert all(sizes[batch].sum() <= 100 for batch in batches)
    assert token_budget_batches([500, 3], 100, packed=True) == [[0], [1]]  # a row over the budget gets its own
    assert token_budget_batches([], 100, packed=True) == []


def on_gpu(style: str, implemented: str, precision: torch.dtype) -> Policy:
    """A small random model with heads of 32, the same one every time."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    config = make_config(style, 320)
    config.hidden_size, config.head_dim = 128, 32
    config._attn_implementation = implemented
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return Policy(model.to("cuda"), PreTrainedTokenizerFast.__new__(PreTrainedTokenizerFast), precision)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("style", [style for style in STYLES if style != "gpt2"])  # it takes no masks of blocks
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.2)])
def test_packed_equals_padded_on_a_gpu(style: str, precision: torch.dtype, tolerance: float) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    padded, packed = on_gpu(style, FUSED, precision), on_gpu(style, FLEX, precision)
    assert packed.packed
    assert not padded.packed
    for template in (0, 24):
        groups = some_groups(template, completions=20)
        for one, two in zip(score(packed, groups, budget=600), score(padded, groups, budget=600), strict=True):
            assert one.tolist() == pytest.approx(two.tolist(), abs=tolerance)
    curves = [
        [step["loss"] for step in train(policy, groups, SFT, Training(lr=1e-3, batch=4, epochs=20), seed=0).steps]
        for policy in (padded, packed)
    ]
    assert curves[1] == pytest.approx(curves[0], abs=1e-3 if precision is torch.float32 else 5e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_kernels_work_for_usual_heads(size: int, precision: torch.dtype) -> None:
    assert blocks.works(torch.device("cuda"), 8, 2, size, precision)
    assert blocks.works(torch.device("cuda"), 14, 2, size, precision)  # as Qwen2.5-0.5B has them


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_long_row_makes_no_square_of_scores() -> None:
    policy = on_gpu("llama", FLEX, torch.bfloat16)
    groups = [PromptGroup([3 + i % 300] * 200, ([5] * 15, [6] * 15)) for i in range(140)]
    assert policy.packed
    torch.cuda.reset_peak_memory_stats()
    score(policy, groups, budget=32768)
    assert torch.cuda.max_memory_allocated() < 4 * 32768**2 * 4 / 4, "a quarter of the scores of four heads"
