"""Completing prompts: greedy, sampled and beam search, batched by length, each prompt read once.

The engine knows token ids only. Prompts are sorted by length and padded on the left; tokens that all prompts start
with are read once for the whole batch; finished rows leave the batch. Beams are ranked by the plain sum of
log-probabilities, without length normalisation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from sprec.engine.attention import Parts, additive
from sprec.engine.backbone import CausalLM, Policy
from sprec.engine.batches import in_batches, wider
from sprec.engine.groups import common_prefix, round_up, token_budget_batches
from sprec.engine.narrow import last_columns
from sprec.engine.sharding import sharded

_WIDER = 8  # keys and values of 128k tokens are 4 GiB in a model of a billion parameters


@dataclass(frozen=True)
class Decoding:
    """How to complete a prompt.

    Attributes:
        mode: the most probable next token, a draw, or beam search.
        count: completions per prompt: draws, or the best so many beams; greedy gives one.
        beams: width of the beam search; at least ``count``.
        temperature: of the draws.
        seed: of the draws; draw j of prompt i depends on (seed, i, j) only, not on the batch it shares.
    """

    mode: Literal["greedy", "sample", "beam"] = "greedy"
    max_new_tokens: int = 32
    count: int = 1
    beams: int = 1
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """Generated token ids without the end token, their summed log-probability (the end token's included), and
    whether the end token was reached.
    """

    tokens: tuple[int, ...]
    log_prob: float
    finished: bool


class _Branch(DynamicCache):
    """Keys and values of the columns behind those of other caches, which stay where they are and are never copied."""

    def __init__(self, above: Sequence[DynamicCache]) -> None:
        super().__init__()
        self.above = above

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Add new columns to a layer; all keys and values of it, in parts."""
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        known: list[Any] = [cache.layers[layer_idx] for cache in self.above]
        return Parts((*(layer.keys for layer in known), keys)), Parts((*(layer.values for layer in known), values))


class Prefilled:
    """The state of B prompts that have been read, and of the rows that continue them: ``each`` rows per prompt.

    The tokens that all prompts share are in the cache once, those of a prompt once for all its rows.
    """

    def __init__(self, model: CausalLM, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.model = model
        self.dtype = next(model.parameters()).dtype
        shared = common_prefix(prompts)
        rest = [prompt[shared:] for prompt in prompts]
        width = round_up(max(map(len, rest)))
        tokens = np.zeros((len(rest), width), dtype=np.int64)
        seen = np.zeros((len(rest), shared + width), dtype=bool)
        seen[:, :shared] = True
        for row, prompt in enumerate(rest):
            tokens[row, width - len(prompt) :] = prompt
            seen[row, shared + width - len(prompt) :] = True
        above: list[DynamicCache] = []
        if shared:
            prefix = torch.tensor([prompts[0][:shared]], device=device)
            above.append(DynamicCache())
            with last_columns(model, 1, shared):
                model(input_ids=prefix, past_key_values=above[0], use_cache=True, logits_to_keep=1)
        self.read = len(prompts)
        self.prompts = self.cache = _Branch(above)
        self.seen = torch.from_numpy(seen).to(device)
        positions = (self.seen.long().cumsum(1) - 1).clamp(min=0)
        self.logits = self._forward(torch.from_numpy(tokens).to(device), positions[:, shared:], width)
        self.next_position = positions[:, -1] + 1
        self.cache = _Branch([*above, self.prompts])

    def _forward(self, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
        """Logits of the last column, (B, V) float32, for new tokens (B, width) whose columns are in ``seen``."""
        columns = torch.arange(self.seen.shape[1], device=tokens.device)
        causal = columns[None, :] <= columns[-width:, None]
        own = columns[None, :] == columns[-width:, None]  # padding sees itself: a softmax needs something
        mask = (causal & self.seen[:, None, :]) | own
        with last_columns(self.model, 1, width):
            output = self.model(
                input_ids=tokens,
                attention_mask=additive(mask[:, None], self.dtype),
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token per row, (B,), and return the next logits (B, V)."""
        self.seen = torch.cat([self.seen, self.seen.new_ones(len(tokens), 1)], dim=1)
        logits = self._forward(tokens[:, None], self.next_position[:, None], 1)
        self.next_position = self.next_position + 1
        return logits

    def repeat(self, each: int) -> None:
        """Continue every prompt with so many rows; nothing has been read behind the prompts yet."""
        self.seen = self.seen.repeat_interleave(each, 0)
        self.next_position = self.next_position.repeat_interleave(each, 0)
        self.logits = self.logits.repeat_interleave(each, 0)

    def select(self, prompts: Tensor, rows: Tensor | None = None) -> None:
        """Keep these prompts, and these rows: the same number for each prompt, in the order of the prompts.

        Args:
            prompts: numbers of the prompts, (B,).
            rows: numbers of the rows, a multiple of B of them; by default those of the prompts, one each.
        """
        rows = prompts if rows is None else rows
        if not torch.equal(prompts, torch.arange(self.read, device=prompts.device)):
            self.prompts.batch_select_indices(prompts)
            self.read = len(prompts)
        self.cache.batch_select_indices(rows)
        self.seen = self.seen[rows]
        self.next_position = self.next_position[rows]


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    budget: int = 8192,
    description: str = "generate",
    journal: Path | None = None,
) -> list[list[Completion]]:
    """Complete prompts until the end token or the limit.

    Args:
        prompts: token ids, at least one each.
        budget: tokens per batch: a prompt's once, and the new ones of all its rows; or more (:func:`wider`).
        journal: a folder that remembers finished batches.

    Returns:
        Per prompt its completions, best log-probability first (draws: in the order of their numbers).
    """
    rows_each = {"beam": decoding.beams, "sample": decoding.count, "greedy": 1}[decoding.mode]
    sizes = [len(prompt) + decoding.max_new_tokens * rows_each for prompt in prompts]
    with policy.evaluating(), policy.inference() as model:

        def work(rows: list[int]) -> list[list[list[Any]]]:
            state = Prefilled(model, [prompts[row] for row in rows], policy.device)
            if decoding.mode == "beam":
                found = beam_search(state, decoding, policy.end)
            else:
                found = _follow(state, rows, decoding, policy.end)
            return [[[list(one.tokens), one.log_prob, one.finished] for one in completions] for completions in found]

        batches = token_budget_batches(sizes, wider(budget, sizes, policy.device, _WIDER))
        found = in_batches(batches, work, description, journal=journal, together=sharded(policy.model))
    return [[Completion(tuple(tokens), log_prob, done) for tokens, log_prob, done in own] for own in found]


def _uniforms(rows: Sequence[int], decoding: Decoding) -> np.ndarray:
    """One number in [0, 1) per row, draw and step, (B * count, max_new_tokens): a function of (seed, row) alone."""
    shape = (decoding.count, decoding.max_new_tokens)
    return np.concatenate([np.random.default_rng([decoding.seed, row]).random(shape) for row in rows])


def _follow(state: Prefilled, rows: Sequence[int], decoding: Decoding, end: int) -> list[list[Completion]]:
    """Greedy or sampled completions of a prefilled batch: one path per row; finished rows leave the batch."""
    count, device = decoding.count if decoding.mode == "sample" else 1, state.logits.device
    uniforms = None
    if decoding.mode == "sample":
        uniforms = torch.from_numpy(_uniforms(rows, decoding)).to(device)
    state.repeat(count)
    logits, total = state.logits, len(rows) * count
    tokens = torch.full((total, decoding.max_new_tokens), end, device=device)
    log_probs = torch.zeros(total, device=device)
    finished = torch.zeros(total, dtype=torch.bool, device=device)
    live = torch.arange(total, device=device).view(-1, count)  # the rows of each prompt in the batch
    for step in range(decoding.max_new_tokens):
        own = live.flatten()
        log_p = logits.log_softmax(-1)
        chosen = log_p.argmax(-1) if uniforms is None else _draw(logits, uniforms[own, step], decoding)
        chosen = chosen.masked_fill(finished[own], end)
        tokens[own, step] = chosen
        log_probs[own] += log_p.gather(1, chosen[:, None])[:, 0].masked_fill(finished[own], 0.0)
        finished[own] |= chosen == end
        prompts, kept = _going(finished[live])
        if not len(prompts) or step + 1 == decoding.max_new_tokens:
            break
        if kept.numel() < len(own):
            state.select(prompts, kept.flatten())
            live, chosen = own[kept], chosen[kept.flatten()]
        logits = state.step(chosen)
    flat = [
        _completion(row, value, done, end)
        for row, value, done in zip(tokens.tolist(), log_probs.tolist(), finished.tolist(), strict=True)
    ]
    return [flat[start : start + count] for start in range(0, total, count)]


def _going(finished: Tensor) -> tuple[Tensor, Tensor]:
    """Which prompts stay in the batch, and which of their rows; from (n, each) to (m,) and numbers of rows (m, most).

    Every prompt keeps as many rows as the one with the most unfinished ones, its own unfinished ones among them.
    """
    each = finished.shape[1]
    prompts = still_needed(finished.all(1))
    most = int((~finished[prompts]).sum(1).max()) if len(prompts) else 0
    order = finished[prompts].long().argsort(dim=1, stable=True)
    kept = order[:, :most].sort(1).values + each * prompts[:, None]
    if 4 * kept.numel() > 3 * finished.numel():
        everything = torch.arange(finished.numel(), device=finished.device).view(finished.shape)
        return torch.arange(len(finished), device=finished.device), everything
    return prompts, kept


def still_needed(finished: Tensor) -> Tensor:
    """Rows that stay in the batch: all, until a quarter of them can leave; then the unfinished ones and a few more.

    Sizes are rounded up: CPU kernels are compiled and kept per shape, and copying a cache at every step costs more
    than a few idle rows.
    """
    going = int((~finished).sum())
    kept = min(len(finished), round_up(going)) if going else 0
    if 4 * kept > 3 * len(finished):
        return torch.arange(len(finished), device=finished.device)
    return finished.long().argsort(stable=True)[:kept]


def _completion(tokens: list[int], log_prob: float, finished: bool, end: int) -> Completion:
    kept = tokens[: tokens.index(end)] if finished else tokens
    return Completion(tuple(kept), log_prob, finished)


def _draw(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Sample by inverting the distribution function at given numbers, (B,): reproducible row by row."""
    cumulative = (logits.double() / decoding.temperature).softmax(-1).cumsum(-1)
    chosen = torch.searchsorted(cumulative, (uniform[:, None] * cumulative[:, -1:]).contiguous(), right=True)
    return chosen[:, 0].clamp(max=logits.shape[-1] - 1)


def beam_search(state: Prefilled, decoding: Decoding, end: int) -> list[list[Completion]]:
    """Beam search over a prefilled batch of n prompts.

    A beam that ends leaves for the finished pool; a prompt is done when its pool holds ``beams`` completions that no
    live beam can beat (log-probabilities only fall). What still runs at the limit is returned as unfinished.
    """
    n, width, device = len(state.logits), decoding.beams, state.logits.device
    pools: list[list[Completion]] = [[] for _ in range(n)]
    scores = torch.full((n, width), -torch.inf, device=device)
    scores[:, 0] = 0.0
    state.repeat(width)
    logits = state.logits
    paths = torch.zeros(n, width, 0, dtype=torch.long, device=device)
    live = list(range(n))
    for _ in range(decoding.max_new_tokens):
        scores, origin, token = _expand(scores, logits, width)
        paths = torch.cat([paths.gather(1, origin[..., None].expand(-1, -1, paths.shape[2])), token[..., None]], 2)
        ends = token == end
        _collect(pools, live, paths, scores, ends)
        scores = scores.masked_fill(ends, -torch.inf)
        best, order = scores.topk(width, dim=1)
        scores, paths = best, paths.gather(1, order[..., None].expand(-1, -1, paths.shape[2]))
        origin, token = origin.gather(1, order), token.gather(1, order)
        keep = [i for i, row in enumerate(live) if not _settled(pools[row], width, best[i, 0].item())]
        if not keep:
            return [_ranked(pool, decoding.count) for pool in pools]
        kept = torch.tensor(keep, device=device)
        rows = (kept[:, None] * width + origin[kept]).flatten()
        live, scores, paths, token = [live[i] for i in keep], scores[kept], paths[kept], token[kept]
        state.select(kept, rows)
        logits = state.step(token.flatten())
    for i, row in enumerate(live):
        reached = scores[i] > -torch.inf
        pools[row] += [
            Completion(tuple(path), value, finished=False)
            for path, value in zip(paths[i][reached].tolist(), scores[i][reached].tolist(), strict=True)
        ]
    return [_ranked(pool, decoding.count) for pool in pools]


def _expand(scores: Tensor, logits: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The 2 x width best extensions of each prompt: scores, beam of origin and token, each (n, 2 * width)."""
    n, vocabulary = len(scores), logits.shape[-1]
    total = scores[..., None] + logits.log_softmax(-1).view(n, width, vocabulary)
    best, flat = total.flatten(1).topk(min(2 * width, width * vocabulary), dim=1)
    return best, flat // vocabulary, flat % vocabulary


def _collect(pools: list[list[Completion]], live: list[int], paths: Tensor, scores: Tensor, ends: Tensor) -> None:
    reached = ends & (scores > -torch.inf)
    for i, j in reached.nonzero().tolist():
        pools[live[i]].append(Completion(tuple(paths[i, j, :-1].tolist()), scores[i, j].item(), finished=True))


def _settled(pool: list[Completion], width: int, best_live: float) -> bool:
    if len(pool) < width:
        return best_live == -float("inf")
    return sorted((done.log_prob for done in pool), reverse=True)[width - 1] >= best_live


def _ranked(pool: list[Completion], count: int) -> list[Completion]:
    return sorted(pool, key=lambda done: -done.log_prob)[:count]
