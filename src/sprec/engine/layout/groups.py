"""The prompt group: one prompt and its completions, as token ids and as a batch of tensors.

A row of a batch reads ``[prefix | padding | prompt | completions]``, the completions as a tree
(:mod:`sprec.engine.layout.tree`): each token sees the prompt and its ancestors, never another branch, and its position
follows theirs. So a prompt is read once however many completions it has, and so are their common beginnings: less than
P + K*C tokens instead of K*(P + C). The common prefix of all prompts in a batch (the template) is in the first columns,
so that a model can read it once for the whole batch.

That is the padded layout. In the packed one (on GPUs, :mod:`sprec.engine.layout.flex`) all groups of a batch follow
each other in a single row, ``[prefix | prompt | completions | prompt | completions | ... | padding]``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from sprec.engine.columns import Column
from sprec.engine.layout.attention import additive
from sprec.engine.layout.flex import block_mask, row_width
from sprec.engine.layout.one_row import Layout
from sprec.engine.layout.tree import Tree

WIDTH_MULTIPLE = 8
"""Widths of batches are rounded up to it: CPU kernels are compiled per shape and kept, and without rounding a long
run has thousands of shapes (2.3 GiB instead of 1.0 GiB of memory when pre-training the 2M backbone)."""
_COLUMNS = 64  # the same for the tokens of a batch in one row
_MIN_PREFIX = 8  # shorter prefixes cost more to handle than to read repeatedly


@dataclass(frozen=True)
class PromptGroup:
    """Token ids of a ``prompt``, shape (P,), and of its ``completions``, shapes (C_k,), each with its EOS."""

    prompt: Sequence[int]
    completions: tuple[Sequence[int], ...]

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and of all completions."""
        return len(self.prompt) + sum(map(len, self.completions))

    @cached_property
    def tree(self) -> Tree:
        """The completions as a tree."""
        return Tree.of(self.completions)

    @cached_property
    def columns(self) -> int:
        """Tokens that the model reads for this group: those of the prompt and of the tree."""
        return len(self.prompt) + len(self.tree.tokens)


class Groups(Sequence[PromptGroup]):
    """n prompt groups whose token ids lie elsewhere: a group is made when it is asked for, and not kept.

    Args:
        prompts: token ids of n prompts.
        answers: token ids of different completions.
        which: the completions of each prompt, as numbers of ``answers``, -1 for none, (n, K).
        whole: the prompt, but for its first token, belongs to the completion: it is learned, too.
    """

    def __init__(
        self, prompts: Sequence[list[int]], answers: Sequence[list[int]], which: np.ndarray, *, whole: bool = False
    ) -> None:
        self.prompts, self.answers, self.which, self.whole = prompts, answers, which, whole

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> PromptGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[PromptGroup]: ...
    def __getitem__(self, index: int | slice) -> PromptGroup | list[PromptGroup]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        prompt = self.prompts[index]
        completions = [self.answers[number] for number in self.which[index].tolist() if number >= 0]
        if self.whole:
            return PromptGroup(prompt[:1], tuple(prompt[1:] + answer for answer in completions))
        return PromptGroup(prompt, tuple(completions))

    @cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of each group, (n,)."""
        answers = np.append(lengths_of(self.answers), 0)  # the last one for -1
        tokens: np.ndarray = lengths_of(self.prompts) + answers[self.which].sum(1)
        return tokens


def lengths_of(texts: Sequence[Sequence[int]]) -> np.ndarray:
    """How many token ids each of the ``texts`` has, (n,)."""
    return texts.lengths if isinstance(texts, Column) else np.array([len(text) for text in texts], dtype=np.int64)


def sizes_of(groups: Sequence[PromptGroup]) -> np.ndarray:
    """Tokens of each of the ``groups``, (n,)."""
    return groups.tokens if isinstance(groups, Groups) else np.array([group.tokens for group in groups], dtype=np.int64)


@dataclass(frozen=True)
class GroupBatch:
    """B groups as tensors of T columns; all completions are in the last ones.

    In the packed layout there is one row: read (1, T) for (B, T) in ``input_ids`` and ``position_ids``, and T for kept.

    Attributes:
        input_ids: (B, T) long, padded with 0.
        attention_mask: (B, 1, T, T) float, to add to the scores: 0 where a query (row) sees a key (column). Packed:
            (T,) int, the last column that sees each column.
        position_ids: (B, T) long.
        kept: number of trailing columns whose logits are needed: from the last token of every prompt on.
        source: (S,) long: the flat index b * kept + column of each state that predicts completion tokens; S is rounded
            up, the last ones repeat the first.
        predictor: (N,) long: for each completion token the state that predicts it, as an index into ``source``.
        token: (N,) long: the completion tokens; N is rounded up, the last ones do not count.
        slot: (N,) long: b * K + k, the completion that each token belongs to; B * K for those that do not count.
        mask: (B, K) bool: which completions exist.
        real: (B, T) bool: which columns hold tokens.
        prefix: number of leading columns that are equal in all rows, and seen by all later ones; 0 for none.
        extra: further tensors of shape (B, ...) that an objective needs (weights, smoothing).
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    kept: int
    source: Tensor
    predictor: Tensor
    token: Tensor
    slot: Tensor
    mask: Tensor
    real: Tensor
    extra: dict[str, Tensor]
    prefix: int = 0

    def to(self, device: torch.device) -> "GroupBatch":
        """The same batch on another ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved, extra={name: value.to(device) for name, value in self.extra.items()})

    @property
    def packed(self) -> bool:
        """Whether all groups are in one row."""
        return self.attention_mask.dim() == 1

    def attention(self) -> Tensor | BlockMask:
        """The mask in the form that the model takes."""
        return block_mask(self.attention_mask) if self.packed else self.attention_mask

    def with_prefix_row(self) -> "GroupBatch":
        """The same groups with the common prefix in a separate first row: (1 + B, T - prefix).

        The mask has T keys: the prefix, then the row's own columns (:mod:`sprec.engine.layout.attention`).
        """
        prefix, own = self.prefix, self.input_ids.shape[1] - self.prefix
        first = self.input_ids.new_zeros(2, 1, own)
        first[0, 0, :prefix], first[1, 0, :prefix] = self.input_ids[0, :prefix], self.position_ids[0, :prefix]
        sees = torch.ones(own, own, dtype=torch.bool, device=self.input_ids.device).tril()
        sees[prefix:] &= torch.eye(own, dtype=torch.bool, device=sees.device)[prefix:]  # padding sees itself
        real = torch.arange(own, device=sees.device)[None] < prefix
        mask = additive(torch.nn.functional.pad(sees, (prefix, 0))[None, None], self.attention_mask.dtype)
        return replace(
            self,
            input_ids=torch.cat([first[0], self.input_ids[:, prefix:]]),
            position_ids=torch.cat([first[1], self.position_ids[:, prefix:]]),
            attention_mask=torch.cat([mask, self.attention_mask[:, :, prefix:]]),
            source=self.source + self.kept,
            real=torch.cat([real, self.real[:, prefix:]]),
            prefix=0,
        )

    def in_one_row(self, prefix: int) -> tuple["GroupBatch", Layout]:
        """The same tokens in a single row without padding, and their layout for attention.

        Args:
            prefix: tokens of the prefix, if it is in a separate row (:meth:`with_prefix_row`).
        """
        rows, width = self.input_ids.shape
        predicting = self.source // self.kept * width + width - self.kept + self.source % self.kept
        needed = torch.zeros(rows * width, dtype=torch.bool)
        needed[predicting] = True
        others, last = (which.nonzero()[:, 0] for which in (self.real.flatten() & ~needed, needed))
        tokens = len(others) + len(last)
        fillers = round_up(tokens, _COLUMNS) - tokens
        slot = torch.cat([others.new_zeros(fillers), others, last])
        place = torch.full((rows * width,), fillers)
        place[slot[fillers:]] = torch.arange(fillers, len(slot))
        kept = min(len(slot), round_up(len(last), _COLUMNS))
        source = place[predicting] - (len(slot) - kept)
        ids, positions = (value.flatten()[slot][None] for value in (self.input_ids, self.position_ids))
        layout = Layout(place.view(rows, width), slot, fillers, prefix, self.kept)
        return replace(self, input_ids=ids, position_ids=positions, kept=kept, source=source), layout


def collate(
    groups: Sequence[PromptGroup],
    extra: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    multiple: int = WIDTH_MULTIPLE,
    *,
    packed: bool = False,
) -> GroupBatch:
    """Lay groups out as a batch: rows padded on the left, or all groups packed into one row.

    Args:
        groups: B groups; each has a prompt of at least one token.
        extra: tensors of shape (B, ...) that belong to the batch.
        dtype: of the mask: that of the attention.
        multiple: widths are rounded up to it.
        packed: the layout; :attr:`sprec.engine.model.policy.Policy.packed` says which one a policy reads.
    """
    if packed:
        return _packed(groups, extra or {}, multiple)
    return _padded(groups, extra or {}, dtype, multiple)


def _padded(groups: Sequence[PromptGroup], extra: dict[str, Tensor], dtype: torch.dtype, multiple: int) -> GroupBatch:
    longest = max(group.columns for group in groups)
    prefix = _worthwhile_prefix(groups, longest)
    width = round_up(longest, multiple)
    kept = min(width - prefix, round_up(1 + max(len(group.tree.tokens) for group in groups), multiple))
    rows = _Rows(len(groups), width)
    for row, group in enumerate(groups):
        rows.put(row, 0, group.prompt[:prefix], np.arange(prefix), width - 1)
        rows.add(group, prefix, row, width - group.columns + prefix)
    mask = additive(_sees(rows.last, rows.real), dtype)
    return rows.batch(mask, kept, extra, multiple, prefix)


def _packed(groups: Sequence[PromptGroup], extra: dict[str, Tensor], multiple: int) -> GroupBatch:
    prefix = common_prefix([group.prompt for group in groups])
    end = prefix + sum(group.columns - prefix for group in groups)
    width = row_width(end)
    rows = _Rows(1, width)
    rows.put(0, 0, groups[0].prompt[:prefix], np.arange(prefix), end - 1)
    column = prefix
    for group in groups:
        column = rows.add(group, prefix, 0, column)
    return rows.batch(torch.from_numpy(rows.last[0].astype(np.int32)), width, extra, multiple)


class _Rows:
    """The rows of a batch under construction; shapes (R, T) for R rows of T columns.

    Attributes:
        input_ids: token ids.
        positions: their positions.
        last: the last column that sees each one; padding is only seen by itself.
        real: which columns hold tokens.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.input_ids, self.positions = np.zeros((2, rows, width), dtype=np.int64)
        self.last = np.tile(np.arange(width), (rows, 1))
        self.real = np.zeros((rows, width), dtype=bool)
        self._lengths: list[list[int]] = []
        self._source: list[np.ndarray] = []
        self._predictor: list[int] = []
        self._token: list[int] = []
        self._states = 0

    def put(self, row: int, column: int, tokens: Sequence[int], positions: np.ndarray, last: np.ndarray | int) -> int:
        """Write tokens from a column on; returns the next column."""
        own = slice(column, column + len(tokens))
        self.input_ids[row, own], self.positions[row, own], self.last[row, own] = tokens, positions, last
        self.real[row, own] = True
        return column + len(tokens)

    def add(self, group: PromptGroup, prefix: int, row: int, column: int) -> int:
        """Write the next group, without its prefix, from a column on; returns the next column."""
        tree, prompt = group.tree, len(group.prompt)
        end = column + group.columns - prefix
        first = self.put(row, column, group.prompt[prefix:], np.arange(prefix, prompt), end - 1)
        self.put(row, first, tree.tokens, prompt + np.array(tree.depth, int), first + np.array(tree.last, int))
        # the prompt's last token predicts the first one of every completion, each token of the tree the next one
        self._source.append(row * self.input_ids.shape[1] + np.arange(first - 1, end))
        for completion, path in zip(group.completions, tree.paths, strict=True):
            if completion:
                self._predictor += [self._states, *(self._states + 1 + node for node in path)]
                self._token += completion
        self._lengths.append([len(completion) for completion in group.completions])
        self._states += end - first + 1
        return end

    def batch(self, mask: Tensor, kept: int, extra: dict[str, Tensor], multiple: int, prefix: int = 0) -> GroupBatch:
        """The finished batch."""
        width, completions = self.input_ids.shape[1], max(1, *map(len, self._lengths))
        lengths = np.array([[*own, *[0] * (completions - len(own))] for own in self._lengths])
        row, column = np.divmod(np.concatenate(self._source), width)
        source = row * kept + column - (width - kept)
        return GroupBatch(
            input_ids=torch.from_numpy(self.input_ids),
            attention_mask=mask,
            position_ids=torch.from_numpy(self.positions),
            kept=kept,
            source=_rounded(source, int(source[0]), multiple),
            predictor=_rounded(self._predictor, 0, multiple),
            token=_rounded(self._token, 0, multiple),
            slot=_rounded(np.repeat(np.arange(lengths.size), lengths.flatten()), lengths.size, multiple),
            mask=torch.from_numpy(lengths > 0),
            real=torch.from_numpy(self.real),
            extra=extra,
            prefix=prefix,
        )


def common_prefix(prompts: Iterable[Sequence[int]]) -> int:
    """Length of the common prefix of all ``prompts``, without the last token of each; 0 if it is not worthwhile."""
    first: Sequence[int] = ()
    count = shared = 0
    for count, prompt in enumerate(prompts, start=1):
        if count == 1:
            first, shared = prompt, len(prompt)
        shared = min(shared, len(prompt) - 1)
        if list(prompt[:shared]) != list(first[:shared]):
            shared = next(place for place, pair in enumerate(zip(first, prompt, strict=False)) if pair[0] != pair[1])
        if shared < _MIN_PREFIX:
            return 0
    return shared if count > 1 else 0


def _worthwhile_prefix(groups: Sequence[PromptGroup], longest: int) -> int:
    """Leading columns to read once: they must fit in a row of the rest, and save more than this row costs."""
    prefix = min(common_prefix([group.prompt for group in groups]), longest // 2)
    return prefix if prefix * (len(groups) - 1) > longest - prefix else 0


def round_up(width: int, multiple: int = WIDTH_MULTIPLE) -> int:
    """The ``width`` rounded up to a ``multiple``."""
    return -(-width // multiple) * multiple


def _rounded(values: Sequence[int] | np.ndarray, filler: int, multiple: int) -> Tensor:
    """A vector, padded to a multiple of the square of ``multiple``: few shapes, see :data:`WIDTH_MULTIPLE`."""
    array = np.asarray(values, dtype=np.int64)
    return torch.from_numpy(np.pad(array, (0, -len(array) % multiple**2), constant_values=filler))


def _sees(last: np.ndarray, real: np.ndarray) -> Tensor:
    """Mask (B, 1, T, T), bool, from the last column that sees each column, and which columns hold tokens.

    Padding sees itself, because a softmax over nothing is NaN in some kernels.
    """
    query, key = np.arange(last.shape[1])[:, None], np.arange(last.shape[1])
    sees = (key <= query) & (query <= last[:, None, :]) & real[:, :, None] | (key == query)
    return torch.from_numpy(sees)[:, None]


def token_budget_batches(lengths: Iterable[int], budget: int, *, packed: bool = False) -> list[list[int]]:
    """Split rows into batches of similar length whose padded size stays within a token budget.

    Args:
        lengths: tokens of each row.
        budget: maximum tokens of a batch, including padding; a longer row gets its own batch.
        packed: the rows will be packed: the budget is for the sum of their tokens, and they keep their order.

    Returns:
        Row indices, longest rows first (the first batch shows at once whether memory suffices). Batches of more than
        eight rows, except the last one, have a multiple of eight: few shapes, see :data:`WIDTH_MULTIPLE`.
    """
    sizes = np.asarray(list(lengths))
    if packed:
        return _cut(sizes.tolist(), budget)
    order = np.argsort(-sizes, kind="stable")
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, int(sizes[order[start]])))
        rows -= rows % WIDTH_MULTIPLE if rows > WIDTH_MULTIPLE else 0
        batches.append(order[start : start + rows].tolist())
        start += rows
    return batches


def _cut(sizes: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    total = 0
    for row, size in enumerate(sizes):
        total += size
        if not batches or total > budget:
            batches.append([])
            total = size
        batches[-1].append(row)
    return batches
