"""All tokens of a batch in one row: nothing is lost, moved states and gradients are those of plain indexing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_attention import with_template
from test_scoring import load
from torch import Tensor
from transformers import Lfm2Config, Lfm2ForCausalLM

from sprec.engine.layout.attention import PLAIN, unpads
from sprec.engine.layout.groups import GroupBatch, collate
from sprec.engine.layout.one_row import Layout, laid_out, layout_of
from sprec.engine.train.scoring import completion_log_probs


def rows_and_layout(seed: int = 0) -> tuple[GroupBatch, GroupBatch, Layout]:
    batch = collate(with_template(seed, 9, 3))
    padded = batch.with_prefix_row()
    return padded, *padded.in_one_row(batch.prefix)


def test_every_token_stands_in_the_row_once() -> None:
    padded, row, layout = rows_and_layout()
    assert row.input_ids.shape == (1, layout.columns)
    assert layout.columns % 64 == 0
    assert 0 <= layout.fillers < 64
    real = padded.real.flatten()
    assert sorted(layout.slot[layout.fillers :].tolist()) == real.nonzero()[:, 0].tolist()
    assert layout.columns - layout.fillers < padded.input_ids.numel(), "else nothing was saved"
    for column in range(layout.fillers, layout.columns):
        slot = int(layout.slot[column])
        assert layout.place.flatten()[slot] == column
        assert row.input_ids[0, column] == padded.input_ids.flatten()[slot]
        assert row.position_ids[0, column] == padded.position_ids.flatten()[slot]


def test_the_states_that_predict_are_the_last_ones_and_the_same() -> None:
    padded, row, layout = rows_and_layout()
    width = padded.input_ids.shape[1]
    for before, after in zip(padded.source.tolist(), row.source.tolist(), strict=True):
        slot = before // padded.kept * width + width - padded.kept + before % padded.kept
        assert layout.slot[layout.columns - row.kept + after] == slot
    assert row.source.min() >= 0
    assert row.source.max() < row.kept
    assert row.kept <= len(set(padded.source.tolist())) + 63


def spread_by_hand(states: Tensor, layout: Layout, width: int, prefix: int) -> Tensor:
    """Plain indexing, column by column; zeros for padding, as it must not matter."""
    rows, whole = layout.place.shape
    heads, size = states.shape[1], states.shape[3]
    found = torch.zeros(rows, heads, prefix + width, size)
    for column in range(layout.fillers, layout.columns):
        row, slot = divmod(int(layout.slot[column]), whole)
        if slot >= whole - width:
            found[row, :, prefix + slot - (whole - width)] = states[0, :, column]
        if row == 0 and slot < prefix:
            found[:, :, slot] = states[0, :, column]
    return found


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("keys", [False, True])
def test_moving_states_there_and_back(narrow: bool, keys: bool) -> None:
    padded, _, layout = rows_and_layout(1)
    width = layout.kept if narrow else padded.input_ids.shape[1]
    prefix = layout.prefix if keys else 0
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, layout.columns, 4, generator=generator, requires_grad=True)
    expected, found = spread_by_hand(states, layout, width, prefix), layout.spread(states, width, prefix)
    real = padded.real[:, padded.real.shape[1] - width :]
    own = torch.cat([torch.ones(len(real), prefix, dtype=torch.bool), real], 1)[:, None, :, None]
    assert torch.equal(found * own, expected)
    weights = torch.randn(found.shape, generator=generator) * own
    (wanted,) = torch.autograd.grad((expected * weights).sum(), states)
    (gradient,) = torch.autograd.grad((found * weights).sum(), states)
    assert torch.allclose(gradient, wanted, atol=1e-5)

    rows = torch.randn(len(real), 2, width, 4, generator=generator, requires_grad=True)
    back = layout.collect(rows)
    present = torch.ones(layout.columns, dtype=torch.bool)
    present[layout.absent(width)] = False
    assert int(present.sum()) == int(real.sum())
    outer = torch.randn(back.shape, generator=generator)
    (gradient,) = torch.autograd.grad((back * outer).sum(), rows)
    for column in present.nonzero()[:, 0].tolist():
        row, slot = divmod(int(layout.slot[column]), padded.input_ids.shape[1])
        slot -= padded.input_ids.shape[1] - width
        assert torch.equal(back[0, column], rows[row, :, slot])
        assert torch.equal(gradient[row, :, slot], outer[0, column])


def test_padding_gets_no_gradient_whatever_stands_in_it(checkpoint: Callable[[str], Path]) -> None:
    """The same groups, alone and beside a much longer one, whose width makes padding for all others."""
    policy = load(checkpoint("llama"))
    groups = with_template(3, 8, 2)
    longest = max(groups, key=lambda group: group.tokens)
    long = type(longest)([*longest.prompt, *list(longest.prompt[24:]) * 3], longest.completions)
    gradients = []
    for batches in ([groups, [long]], [[*groups, long]]):
        policy.model.zero_grad()
        for batch in map(collate, batches):
            completion_log_probs(policy.model, batch, policy.head).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([value.grad.clone() for _, value in policy.trainable() if value.grad is not None])
    for one, two in zip(*gradients, strict=True):
        assert (one - two).norm() <= 1e-4 * max(two.norm().item(), 1e-3)


def test_attention_knows_the_row_inside_of_the_block_only() -> None:
    _, _, layout = rows_and_layout()
    query = torch.zeros(1, 2, layout.columns, 4)
    with laid_out(layout):
        assert layout_of(query) is layout
        assert layout_of(query[:, :, 1:]) is None
    assert layout_of(query) is None


def test_models_whose_layers_look_at_neighbours_keep_their_rows(checkpoint: Callable[[str], Path]) -> None:
    assert unpads(load(checkpoint("llama")).model)
    config = Lfm2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, layer_types=["conv", "full_attention"],
    )  # fmt: skip
    mixed = Lfm2ForCausalLM(config)
    mixed.config._attn_implementation = PLAIN
    assert not unpads(mixed)
