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

from sprec.engine.batches import in_batches, wider
from sprec.engine.decode.prefill import Prefilled, own_tokens, prefill
from sprec.engine.layout.groups import round_up, token_budget_batches
from sprec.engine.model.policy import Policy
from sprec.engine.model.sharding import sharded

_WIDER = 8  # rows include the common prefix: 100k columns in all, 3 GiB in a model of a billion parameters
_DRAWN = 128  # rows whose distributions are in memory at once, in float64: 250 MiB with a vocabulary of 128k
_TOGETHER = 16  # draws of a prompt that share its keys and values: attention passes over the columns of all of them


@dataclass(frozen=True)
class Decoding:
    """How to complete a prompt.

    Attributes:
        mode: the most probable next token, a draw, or beam search.
        count: completions per prompt: draws, or the best beams; greedy gives one.
        beams: width of the beam search; at least ``count``.
        max_new_tokens: maximum length of an answer, including the end token.
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
    """A generated answer.

    Attributes:
        tokens: token ids without the end token.
        log_prob: summed log-probability, including the end token's.
        finished: whether the end token was reached.
    """

    tokens: tuple[int, ...]
    log_prob: float
    finished: bool


class _Rows:
    """R rows that continue each of B prompts, token by token; a row sees its prompt and itself."""

    def __init__(self, state: Prefilled, each: int) -> None:
        self.state, self.length = state, 0
        self.sees = state.seen.new_zeros(len(state.seen), each, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token per row, (B, R), and return the next logits, (B, R, V) float32."""
        rows = tokens.shape[1]
        own = torch.eye(rows, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        self.sees = torch.cat([self.sees, own], 2)
        logits = self.state.read(tokens, torch.full_like(tokens, self.length), self.sees)
        self.length += 1
        return logits.float()

    def select(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep these prompts, (B',), and these rows of each, (B', R'); a row may occur several times."""
        self.state.select(prompts)
        self.sees = self.sees[prompts].gather(1, rows[..., None].expand(-1, -1, self.sees.shape[2]))


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
        policy: the model.
        prompts: token ids, at least one each.
        decoding: how.
        budget: tokens per batch: those of prompts without their common prefix, and the new ones of all their rows; or
            more (:func:`wider`).
        description: for the progress bar.
        journal: a folder that keeps finished batches.

    Returns:
        The completions of each prompt, best log-probability first (draws: in the order of their numbers).
    """
    rows_each = {"beam": decoding.beams, "sample": decoding.count, "greedy": 1}[decoding.mode]
    copies = -(-rows_each // _TOGETHER) if decoding.mode == "sample" else 1
    room = decoding.max_new_tokens * -(-rows_each // copies)
    sizes = [copies * own + decoding.max_new_tokens * rows_each for own in own_tokens(prompts)]
    with policy.evaluating(), policy.inference() as model:

        def work(rows: list[int]) -> list[list[list[Any]]]:
            state = prefill(model, [prompts[row] for row in rows], policy.device, room)
            if decoding.mode == "beam":
                found = beam_search(state, decoding, policy.end)
            else:
                found = _follow(state, rows, decoding, copies, policy.end)
            return [[[list(one.tokens), one.log_prob, one.finished] for one in completions] for completions in found]

        batches = token_budget_batches(sizes, wider(budget, sizes, policy.device, _WIDER))
        found = in_batches(batches, work, description, journal=journal, together=sharded(policy.model))
    return [[Completion(tuple(tokens), log_prob, done) for tokens, log_prob, done in own] for own in found]


def _uniforms(rows: Sequence[int], decoding: Decoding) -> np.ndarray:
    """One number in [0, 1) per row, draw and step, (B * count + 1, max_new_tokens): a function of (seed, row) alone.

    The last one is for rows that are idle.
    """
    shape = (decoding.count, decoding.max_new_tokens)
    drawn = [np.random.default_rng([decoding.seed, row]).random(shape) for row in rows]
    return np.concatenate([*drawn, np.zeros((1, shape[1]))])


def _follow(state: Prefilled, rows: Sequence[int], decoding: Decoding, copies: int, end: int) -> list[list[Completion]]:
    """Greedy or sampled completions of a prefilled batch: one path per row; finished rows leave the batch.

    The rows of a prompt are divided among ``copies`` of it.
    """
    count, device = decoding.count if decoding.mode == "sample" else 1, state.logits.device
    uniforms = None
    if decoding.mode == "sample":
        uniforms = torch.from_numpy(_uniforms(rows, decoding)).to(device)
    total = len(rows) * count
    live = _divided(len(rows), count, copies).to(device)
    tokens = torch.full((total + 1, decoding.max_new_tokens), end, device=device)
    log_probs = torch.zeros(total + 1, device=device)
    finished = torch.zeros(total + 1, dtype=torch.bool, device=device)
    finished[total] = True
    state.select(torch.arange(len(rows), device=device).repeat_interleave(copies))
    paths, logits = _Rows(state, live.shape[1]), state.logits[:, None].expand(-1, live.shape[1], -1)
    for step in range(decoding.max_new_tokens):
        log_p = logits.log_softmax(-1)
        chosen = log_p.argmax(-1) if uniforms is None else _draw(logits, uniforms[live, step], decoding)
        chosen = chosen.masked_fill(finished[live], end)
        tokens[live, step] = chosen
        log_probs[live] += log_p.gather(2, chosen[..., None])[..., 0].masked_fill(finished[live], 0.0)
        finished[live] |= chosen == end
        prompts, kept = _going(finished[live])
        if not len(prompts) or step + 1 == decoding.max_new_tokens:
            break
        if kept.numel() < live.numel():
            paths.select(prompts, kept)
            live, chosen = live[prompts].gather(1, kept), chosen[prompts].gather(1, kept)
        logits = paths.step(chosen)
    found = (part[:total].tolist() for part in (tokens, log_probs, finished))
    flat = [_completion(row, value, done, end) for row, value, done in zip(*found, strict=True)]
    return [flat[start : start + count] for start in range(0, total, count)]


def _divided(prompts: int, count: int, copies: int) -> Tensor:
    """Numbers of the rows of each copy of each prompt, (prompts * copies, R); idle ones have the highest number."""
    each = -(-count // copies)
    number = torch.arange(copies * each).view(copies, each)
    rows = torch.arange(prompts)[:, None, None] * count + number
    return rows.masked_fill(number >= count, prompts * count).flatten(0, 1)


def _going(finished: Tensor) -> tuple[Tensor, Tensor]:
    """Which prompts stay in the batch, and which of their rows; from (n, R) to (m,) and (m, R').

    Every prompt keeps as many rows as the one with the most unfinished ones, including all of its own.
    """
    prompts = still_needed(finished.all(1))
    most = int((~finished[prompts]).sum(1).max()) if len(prompts) else 0
    order = finished[prompts].long().argsort(dim=1, stable=True)
    if 4 * len(prompts) * most > 3 * finished.numel():
        rows = torch.arange(finished.shape[1], device=finished.device)
        return torch.arange(len(finished), device=finished.device), rows.expand(len(finished), -1)
    return prompts, order[:, :most].sort(1).values


def still_needed(finished: Tensor) -> Tensor:
    """Rows that stay in the batch: all until a quarter is ``finished`` (n,), then the unfinished ones and a few more.

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
    """Sample by inverting the distribution function at given numbers, (B, R): reproducible row by row."""
    chosen = []
    for own, number in zip(*(torch.split(part.flatten(0, 1), _DRAWN) for part in (logits, uniform)), strict=True):
        cumulative = own.double().div_(decoding.temperature).softmax(-1).cumsum_(-1)
        chosen.append(torch.searchsorted(cumulative, number[:, None] * cumulative[:, -1:], right=True)[:, 0])
    return torch.cat(chosen).view_as(uniform).clamp(max=logits.shape[-1] - 1)


def beam_search(state: Prefilled, decoding: Decoding, end: int) -> list[list[Completion]]:
    """Beam search over a prefilled batch of n prompts.

    A beam that ends moves to the finished pool; a prompt is done when its pool holds ``beams`` completions that no live
    beam can beat (log-probabilities only fall). Beams that reach the limit are returned as unfinished.

    Args:
        state: of the prompts.
        decoding: count, beams and limit.
        end: the end token.
    """
    n, width, device = len(state.logits), decoding.beams, state.logits.device
    pools: list[list[Completion]] = [[] for _ in range(n)]
    scores = torch.full((n, width), -torch.inf, device=device)
    scores[:, 0] = 0.0
    rows, logits = _Rows(state, width), state.logits[:, None].expand(-1, width, -1)
    paths = torch.zeros(n, width, 0, dtype=torch.long, device=device)
    live = list(range(n))
    for step in range(decoding.max_new_tokens):
        scores, origin, token = _expand(scores, logits, width)
        paths = torch.cat([paths.gather(1, origin[..., None].expand(-1, -1, paths.shape[2])), token[..., None]], 2)
        ends = token == end
        _collect(pools, live, paths, scores, ends)
        scores = scores.masked_fill(ends, -torch.inf)
        best, order = scores.topk(width, dim=1)
        scores, paths = best, paths.gather(1, order[..., None].expand(-1, -1, paths.shape[2]))
        origin, token = origin.gather(1, order), token.gather(1, order)
        leading = zip(live, best[:, 0].tolist(), strict=True)
        settled = torch.tensor([_settled(pools[row], width, score) for row, score in leading], device=device)
        scores = scores.masked_fill(settled[:, None], -torch.inf)  # settled prompts may stay, without effect
        kept = still_needed(settled)
        if not len(kept) or step + 1 == decoding.max_new_tokens:
            break
        rows.select(kept, origin[kept])
        live, scores, paths, token = [live[i] for i in kept.tolist()], scores[kept], paths[kept], token[kept]
        logits = rows.step(token)
    for i, row in enumerate(live):
        reached = scores[i] > -torch.inf
        pools[row] += [
            Completion(tuple(path), value, finished=False)
            for path, value in zip(paths[i][reached].tolist(), scores[i][reached].tolist(), strict=True)
        ]
    return [_ranked(pool, decoding.count) for pool in pools]


def _expand(scores: Tensor, logits: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The 2 x width best extensions of each prompt: scores, beam of origin and token, each (n, 2 * width)."""
    vocabulary = logits.shape[-1]
    total = scores[..., None] + logits.log_softmax(-1)
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
