"""The last layer works on the columns whose states are used, and the results stay the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_scoring import load, ragged_groups
from torch import nn

from sprec.engine.layout.groups import collate
from sprec.engine.layout.last_layer import last_columns
from sprec.engine.train.scoring import completion_log_probs
from toy_models import STYLES


def rows_of(module: nn.Module, call: Callable[[], Any]) -> int:
    """Columns that a module works on during a call."""
    seen: list[int] = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    call()
    handle.remove()
    (found,) = seen
    return found


@pytest.mark.parametrize("style", STYLES)
def test_only_the_columns_of_the_answers_pass_the_last_network(style: str, checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint(style))
    groups = [group for group in ragged_groups(5, 90, 1) if len(group.prompt) > 30]
    batch = collate(groups)
    layers: Any = policy.model.get_decoder()
    stack: Any = next(child for child in layers.children() if isinstance(child, nn.ModuleList))
    with torch.no_grad():
        narrow = completion_log_probs(policy.model, batch, policy.head)
        columns = [
            rows_of(layer.mlp, lambda: completion_log_probs(policy.model, batch, policy.head)) for layer in stack
        ]
    row, _ = batch.in_one_row(0)
    answers = sum(len(group.completions[0]) for group in groups)
    assert answers <= row.kept < answers + 64
    assert row.kept < 0.75 * row.input_ids.shape[1]
    assert columns == [row.input_ids.shape[1], row.kept]
    wide = policy.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    ).logits[:, -batch.kept :]
    found = wide.flatten(0, 1)[batch.source].log_softmax(-1)[torch.arange(len(batch.token)), batch.token]
    sums = torch.zeros(batch.mask.numel() + 1).index_add(0, batch.slot, found)[:-1].view(batch.mask.shape)
    assert narrow.tolist() == [pytest.approx(row, abs=1e-5) for row in sums.tolist()]


def test_the_model_is_as_before_behind_the_block(checkpoint: Callable[[str], Path]) -> None:
    model = load(checkpoint("llama")).model
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with last_columns(model, 3, 20):
            inside = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert torch.allclose(inside[:, -3:], before[:, -3:], atol=1e-6)
    assert not torch.allclose(inside[:, :-3], before[:, :-3], atol=1e-3), "else nothing was saved"
