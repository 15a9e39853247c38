"""The prompt group: one prompt and the completions that hang on it, as token ids and as a batch of tensors.

A row of a batch reads ``[padding | prompt | completion 1 | completion 2 | ... | padding]``. Every completion sees the
prompt and itself, never its siblings, and its positions continue the prompt's. So a prompt is read once however many
completions it has: P + K*C tokens instead of K*(P + C).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprec.engine.attention import additive


WIDTH_MULTIPLE = 8
"""Widths of batches are rounded up to it: CPU kernels are compiled per shape and kept, and without rounding a long
run meets thousands of shapes (2.3 GiB against 1.0 GiB of memory when pre-training the 2M backbone)."""


@dataclass(frozen=True)
class PromptGroup:
    """Token ids of a prompt, shape (P,), and of its completions, shapes (C_k,), each with its EOS."""

    prompt: Sequence[int]
    completions: tuple[Sequence[int], ...]

    @property
    def tokens(self) -> int:
        """Tokens that the model reads for this group."""
        return len(self.prompt) + sum(map(len, self.completions))


@dataclass(frozen=True)
class GroupBatch:
    """B groups as tensors; T columns, of which the last R hold the completions.

    Attributes:
        input_ids: (B, T) long, padded with 0.
        attention_mask: (B, 1, T, T) float, to add to the scores: 0 where a query (row) sees a key (column).
        position_ids: (B, T) long.
        kept: number of trailing columns whose logits are needed: 1 + R (the prompt's last token and the rest).
        source: (N,) long: for each completion token, the flat index b * kept + column of the state that predicts it.
        token: (N,) long: the completion tokens; N is rounded up, the last ones count for nothing.
        slot: (N,) long: b * K + k, the completion that each token belongs to; B * K for those that do not count.
        mask: (B, K) bool: which completions exist.
        lengths: (B, K) long: tokens of each completion.
        extra: further tensors of shape (B, ...) that an objective needs (weights, smoothing).
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    kept: int
    source: Tensor
    token: Tensor
    slot: Tensor
    mask: Tensor
    lengths: Tensor
    extra: dict[str, Tensor]

    def to(self, device: torch.device) -> "GroupBatch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved, extra={name: value.to(device) for name, value in self.extra.items()})


def collate(
    groups: Sequence[PromptGroup],
    extra: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    multiple: int = WIDTH_MULTIPLE,
) -> GroupBatch:
    """Lay groups into one batch: prompts padded on the left, completions on the right.

    Args:
        groups: B groups; every one has a prompt of at least one token.
        extra: tensors of shape (B, ...) that travel with the batch.
        dtype: of the mask: the one the attention computes in.
        multiple: the widths of prompts and completions are rounded up to it.
    """
    prompt_width = round_up(max(len(group.prompt) for group in groups), multiple)
    region = round_up(max(group.tokens - len(group.prompt) for group in groups), multiple)
    width = prompt_width + region
    completions = max(1, max(len(group.completions) for group in groups))
    input_ids = np.zeros((len(groups), width), dtype=np.int64)
    positions = np.zeros((len(groups), width), dtype=np.int64)
    segment = np.full((len(groups), width), -1, dtype=np.int64)
    lengths = np.zeros((len(groups), completions), dtype=np.int64)
    source, token, slot = [], [], []
    for row, group in enumerate(groups):
        start = prompt_width - len(group.prompt)
        input_ids[row, start:prompt_width] = group.prompt
        positions[row, start:prompt_width] = np.arange(len(group.prompt))
        segment[row, start:prompt_width] = 0
        column = prompt_width
        for index, completion in enumerate(group.completions):
            size = len(completion)
            lengths[row, index] = size
            columns = slice(column, column + size)
            input_ids[row, columns] = completion
            positions[row, columns] = len(group.prompt) + np.arange(size)
            segment[row, columns] = index + 1
            predicted_by = np.arange(column, column + size) - prompt_width
            predicted_by[:1] = 0  # the first token of every completion is predicted by the prompt's last one
            source.append(row * (region + 1) + predicted_by)
            token.append(np.asarray(completion, dtype=np.int64))
            slot.append(np.full(size, row * completions + index))
            column += size
    return GroupBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=additive(_sees(segment), dtype),
        position_ids=torch.from_numpy(positions),
        kept=region + 1,
        source=_flat(source, 0, multiple),
        token=_flat(token, 0, multiple),
        slot=_flat(slot, len(groups) * completions, multiple),
        mask=torch.from_numpy(lengths > 0),
        lengths=torch.from_numpy(lengths),
        extra=extra or {},
    )


def round_up(width: int, multiple: int = WIDTH_MULTIPLE) -> int:
    """The next multiple of a number."""
    return -(-width // multiple) * multiple


def _flat(parts: Sequence[np.ndarray], filler: int, multiple: int) -> Tensor:
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    rows = round_up(len(joined), multiple**2)
    return torch.from_numpy(np.pad(joined, (0, rows - len(joined)), constant_values=filler))


def _sees(segment: np.ndarray) -> Tensor:
    """Mask (B, 1, T, T), bool: causal, and the key is the prompt's (segment 0) or of the query's own segment.

    Padding sees itself, because a softmax over nothing is not a number on some kernels.
    """
    own = torch.from_numpy(segment)
    query, key = own[:, :, None], own[:, None, :]
    causal = torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool).tril()
    return (((key == 0) & (query >= 0)) | (key == query)).logical_and(causal)[:, None]


def token_budget_batches(lengths: Iterable[int], budget: int) -> list[list[int]]:
    """Split rows into batches of similar length whose padded size stays within a token budget.

    Args:
        lengths: tokens of each row.
        budget: most tokens of a batch, padding included; a longer row gets a batch of its own.

    Returns:
        Row indices, longest rows first (the first batch shows at once whether memory suffices).
    """
    sizes = np.asarray(list(lengths))
    batches: list[list[int]] = []
    for row in np.argsort(-sizes, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * sizes[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(row)
    return batches
