"""Reading prompts once, and tokens after them: the state that completions and catalog search continue."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sprec.engine.batches import CACHED
from sprec.engine.decode.cache import RoomyCache
from sprec.engine.layout.attention import additive
from sprec.engine.layout.groups import common_prefix, round_up, token_budget_batches
from sprec.engine.layout.last_layer import last_columns, logits_of_last
from sprec.engine.model.policy import CausalLM


class Prefilled:
    """The state of B prompts that have been read, and of the tokens read after them.

    All tokens after a prompt follow each other in its row, whichever hypothesis they belong to. So its keys and values
    are stored once, and nothing is copied when hypotheses fork or are dropped.

    Attributes:
        model: the model that reads.
        cache: its keys and values.
        logits: after the prompts, (B, V) float32.
        seen: which columns belong to a prompt, (B, columns); the others are padding.
        next_position: the position after each prompt, (B,).
    """

    def __init__(self, model: CausalLM, cache: RoomyCache, logits: Tensor, seen: Tensor, next_position: Tensor) -> None:
        self.model, self.cache, self.logits = model, cache, logits
        self.seen, self.next_position = seen, next_position

    def read(self, tokens: Tensor, depth: Tensor, sees: Tensor) -> Tensor:
        """Read tokens after the prompts.

        Args:
            tokens: (B, T).
            depth: the number of tokens between the prompt and each of them, (B, T).
            sees: which of the tokens after the prompt, these included, each of them sees, (B, T, E + T).

        Returns:
            Logits, (B, T, V), in the precision of the model.
        """
        prompt = self.seen[:, None].expand(-1, tokens.shape[1], -1)
        positions = self.next_position[:, None] + depth
        return _forward(self.model, self.cache, tokens, positions, torch.cat([prompt, sees], 2), 0)

    def select(self, prompts: Tensor) -> None:
        """Keep these ``prompts``, (B',), in this order."""
        if torch.equal(prompts, torch.arange(len(self.seen), device=prompts.device)):
            return
        self.cache.batch_select_indices(prompts)
        self.seen, self.next_position = self.seen[prompts], self.next_position[prompts]
        self.logits = self.logits[prompts]


def own_tokens(prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens of each of the ``prompts`` are read for it alone; their common prefix is read once."""
    shared = common_prefix(prompts)
    return [len(prompt) - shared for prompt in prompts]


def prefill(model: CausalLM, prompts: Sequence[Sequence[int]], device: torch.device, room: int) -> Prefilled:
    """Read prompts, their common prefix once.

    Args:
        model: it computes without gradients.
        prompts: token ids, at least one each.
        device: of the model.
        room: this many tokens can be read after each prompt before its keys and values are copied.
    """
    shared = common_prefix(prompts)
    template = RoomyCache(0)
    if shared:
        prefix = torch.tensor([prompts[0][:shared]], device=device)
        with last_columns(model, 1, shared):
            last = logits_of_last(model, 1, shared, device)
            model(input_ids=prefix, past_key_values=template, use_cache=True, logits_to_keep=last)
    rest = [prompt[shared:] for prompt in prompts]
    everything = list(range(len(rest)))
    pieces = token_budget_batches(map(len, rest), CACHED) if device.type == "cpu" else [everything]
    if len(pieces) == 1:
        return _read(model, template.continued(room), shared, rest, device)
    states = [_read(model, template.continued(0), shared, [rest[row] for row in rows], device) for rows in pieces]
    columns = max(state.seen.shape[1] for state in states)
    whole = Prefilled(
        model,
        RoomyCache.joined([state.cache for state in states], room),
        torch.cat([state.logits for state in states]),
        torch.cat([torch.nn.functional.pad(state.seen, (0, columns - state.seen.shape[1])) for state in states]),
        torch.cat([state.next_position for state in states]),
    )
    order = torch.tensor([row for rows in pieces for row in rows], device=device)
    whole.select(order.argsort())
    return whole


def _read(
    model: CausalLM, cache: RoomyCache, shared: int, prompts: Sequence[Sequence[int]], device: torch.device
) -> Prefilled:
    """Read prompts, padded on the left, after ``shared`` columns that are common to all."""
    width = round_up(max(map(len, prompts)))
    tokens = np.zeros((len(prompts), width), dtype=np.int64)
    real = np.zeros((len(prompts), shared + width), dtype=bool)
    real[:, :shared] = True
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = prompt
        real[row, shared + width - len(prompt) :] = True
    seen = torch.from_numpy(real).to(device)
    positions = (seen.long().cumsum(1) - 1).clamp(min=0)
    columns = torch.arange(shared + width, device=device)
    causal = columns[None, :] <= columns[shared:, None]
    own = columns[None, :] == columns[shared:, None]  # padding sees itself: a softmax over nothing is NaN
    sees = (causal & seen[:, None, :]) | own
    with last_columns(model, 1, width):
        logits = _forward(model, cache, torch.from_numpy(tokens).to(device), positions[:, shared:], sees, 1)
    return Prefilled(model, cache, logits[:, -1].float(), seen, positions[:, -1] + 1)


def _forward(model: CausalLM, cache: RoomyCache, tokens: Tensor, positions: Tensor, sees: Tensor, keep: int) -> Tensor:
    """Logits of new tokens (B, T) that see columns (B, T, columns); of the last ``keep``, or of all for 0."""
    logits: Tensor = model(
        input_ids=tokens,
        attention_mask=additive(sees[:, None], next(model.parameters()).dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=logits_of_last(model, keep, tokens.shape[1], tokens.device),
    ).logits
    return logits
