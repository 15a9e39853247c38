"""The best leaves of a trie under a language model: constrained beam search, and its exact form.

One search does both. A pool keeps the best hypotheses of every prompt, finished ones among them; a step reads the
``width`` best unfinished ones and puts their children in their place. With a pool of ``width`` hypotheses this is beam
search: what falls out is forgotten, and the best leaf may be below it. With a larger pool it is best-first search:
log-probabilities only fall, so when the ``count`` best of the pool are finished, nothing can overtake them. The result
says for each prompt whether that is certain: no forgotten hypothesis was better than the last leaf returned.

The prompt is read once, and all hypotheses share its keys and values: their tokens lie behind each other in the cache,
and the attention mask tells each one its ancestors. So nothing is copied when hypotheses fork or are forgotten.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sprec.engine.attention import additive
from sprec.engine.backbone import Policy
from sprec.engine.batches import in_batches
from sprec.engine.generation import Prefilled, still_needed
from sprec.engine.groups import round_up, token_budget_batches
from sprec.engine.sharding import sharded
from sprec.engine.trie import ROOT, Children, Trie

Adjust = Callable[[Tensor, Tensor, Children, Tensor], Tensor]
"""From rows of the batch (B,), nodes (B, W), children and their log-probabilities (B, T) to scores (B, T), below 0."""
Guide = Callable[[Sequence[int]], Adjust]
"""From the numbers of the prompts of a batch to its adjustment."""


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        count: leaves wanted per prompt.
        width: hypotheses read at once per prompt: the beams.
        pool: hypotheses remembered per prompt; ``width`` or less is beam search. So that every search ends, the pool
            falls back to ``width`` after as many hypotheses were read.
    """

    count: int
    width: int
    pool: int = 0


class Leaves(NamedTuple):
    """The best leaves of n prompts, best first, on the CPU.

    Attributes:
        nodes: nodes of the trie, (n, count); -1 where the trie has no further leaf.
        scores: summed log-probability (adjusted, with a guide), the end token's included, (n, count) float64.
        certain: whether no forgotten hypothesis could have led to a better leaf, (n,).
    """

    nodes: Tensor
    scores: Tensor
    certain: Tensor


@torch.no_grad()
def best_leaves(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    search: Search,
    *,
    banned: Tensor | None = None,
    guide: Guide | None = None,
    budget: int = 8192,
    description: str = "search",
) -> Leaves:
    """Find the leaves with the highest summed log-probability over the whole vocabulary, not renormalised.

    Args:
        policy: the model.
        prompts: token ids, at least one each.
        trie: the sequences that can be completed, each with its end token.
        search: how many, and how thoroughly.
        banned: leaves that a prompt must not get, (n, X), filled with -1.
        guide: changes the score of every step.
        budget: tokens per batch: prompts, and the tokens of the trie that a search usually reads.
    """
    trie = trie.to(policy.device)
    usual = search.width * round(2 * len(trie.tokens) / len(trie.length))  # what trained models need, with some room
    sizes = [len(prompt) + usual for prompt in prompts]
    with policy.evaluating(), policy.inference() as model:

        def work(rows: list[int]) -> list[list[Any]]:
            state = Prefilled(model, [prompts[row] for row in rows], policy.device)
            bans = None if banned is None else banned[rows].to(policy.device)
            found = _Batch(state, trie, search, bans, guide(rows) if guide else None).run()
            return [list(values) for values in zip(*(part.tolist() for part in found), strict=True)]

        batches = token_budget_batches(sizes, budget)
        found = in_batches(batches, work, description, together=sharded(policy.model))
    nodes, scores, certain = ([values[part] for values in found] for part in range(3))
    shape = (len(prompts), search.count)
    return Leaves(
        torch.tensor(nodes, dtype=torch.long).view(shape),
        torch.tensor(scores, dtype=torch.float64).view(shape),
        torch.tensor(certain, dtype=torch.bool),
    )


class _Tree:
    """Reads tokens that hang on prompts as a tree, without copying the prompts' state.

    ``sees`` tells which tokens of the tree each one sees: (B, 1 + E, E) for E tokens; row 0 is the root, row 1 + e
    token e.
    """

    def __init__(self, state: Prefilled) -> None:
        self.state = state
        self.sees = state.seen.new_zeros(len(state.seen), 1, 0)

    def read(self, tokens: Tensor, depth: Tensor, parents: Tensor) -> Tensor:
        """Logits after tokens (B, W) at a depth (1 for the first) below parents (rows of ``sees``), (B, W, V)."""
        rows, width, known = len(tokens), tokens.shape[1], self.sees.shape[2]
        above = self.sees.gather(1, parents[..., None].expand(-1, -1, known))
        itself = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(rows, -1, -1)
        new = torch.cat([above, itself], 2)
        self.sees = torch.cat([torch.nn.functional.pad(self.sees, (0, width)), new], 1)
        prompt = self.state.seen[:, None].expand(-1, width, -1)
        output = self.state.model(
            input_ids=tokens,
            attention_mask=additive(torch.cat([prompt, new], 2)[:, None], self.state.dtype),
            position_ids=self.state.next_position[:, None] + depth - 1,
            past_key_values=self.state.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits.float()
        return logits

    def select(self, rows: Tensor) -> None:
        """Keep these prompts."""
        self.state.select(rows)
        self.sees = self.sees[rows]


class _Batch:
    """The search for one batch of prompts. The pool is sorted, best first; empty places have the score -inf.

    Attributes:
        found: the results of the settled prompts.
        rows: the prompts in the batch; settled ones leave it in groups, (B,).
        nodes: node of each hypothesis of the pool, its token not yet read, (B, C).
        scores: its score, that token's included, (B, C).
        parents: the row of its parent in the tree, (B, C).
        lost: best score of a forgotten hypothesis, (B,).
    """

    def __init__(
        self, state: Prefilled, trie: Trie, search: Search, banned: Tensor | None, adjust: Adjust | None
    ) -> None:
        self.tree, self.trie, self.search, self.banned, self.adjust = _Tree(state), trie, search, banned, adjust
        bans = 0 if banned is None else banned.shape[1]
        self.steps, self.least = 0, max(search.width, search.count + bans)  # else there could be too few leaves
        n, k, device = len(state.logits), search.count, state.logits.device
        self.found = Leaves(
            torch.full((n, k), -1, device=device),
            torch.full((n, k), -torch.inf, dtype=torch.float64, device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
        )
        self.rows = torch.arange(n, device=device)
        self.scores = torch.zeros(n, 0, dtype=torch.float64, device=device)
        self.nodes = self.parents = torch.zeros(n, 0, dtype=torch.long, device=device)
        self.lost = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)

    def run(self) -> Leaves:
        """Step until all prompts are settled."""
        root = torch.zeros_like(self.rows)[:, None]
        self._extend(root + ROOT, root.double(), root, self.tree.state.logits[:, None])
        while True:
            settled = self._settled()
            kept = still_needed(settled)
            if len(kept) < len(settled):
                self._record(settled)
                self._keep(kept)
            if not len(kept):
                return self.found
            self._step()

    def _record(self, settled: Tensor) -> None:
        rows, best = self.rows[settled], self.scores[settled, : self.search.count]
        self.found.scores[rows, : best.shape[1]] = best
        self.found.nodes[rows, : best.shape[1]] = self.nodes[settled, : best.shape[1]].masked_fill(
            best == -torch.inf, -1
        )
        self.found.certain[rows] = self.found.scores[rows, -1] >= self.lost[settled]

    def _settled(self) -> Tensor:
        """Prompts whose best hypotheses are finished; hypotheses that cannot be among the best are dropped, (B,)."""
        unfinished = self._unfinished()
        better = (~unfinished & (self.scores > -torch.inf)).cumsum(1)
        self.scores = self.scores.masked_fill(unfinished & (better >= self.search.count), -torch.inf)
        return ~self._unfinished().any(1)

    def _unfinished(self) -> Tensor:
        return (self.trie.branching[self.nodes] > 0) & (self.scores > -torch.inf)

    def _keep(self, kept: Tensor) -> None:
        self.tree.select(kept)
        self.rows, self.lost, self.nodes = self.rows[kept], self.lost[kept], self.nodes[kept]
        self.scores, self.parents = self.scores[kept], self.parents[kept]

    def _step(self) -> None:
        """Read the best unfinished hypotheses and put their children in their place."""
        self.steps += 1
        order = self.scores.masked_fill(~self._unfinished(), -torch.inf)
        scores, place = order.topk(min(self.search.width, order.shape[1]), dim=1)
        width = min(scores.shape[1], round_up(int((scores > -torch.inf).sum(1).max()), 4))
        scores, place = scores[:, :width], place[:, :width]
        live = scores > -torch.inf
        nodes = self.nodes.gather(1, place).masked_fill(~live, len(self.trie) - 1)  # a leaf: it has no children
        taken = torch.zeros_like(order, dtype=torch.bool).scatter_(1, place, live)
        self.scores = self.scores.masked_fill(taken, -torch.inf)
        read = self.tree.sees.shape[1] + torch.arange(width, device=nodes.device)
        logits = self.tree.read(self.trie.token[nodes], self.trie.depth[nodes], self.parents.gather(1, place))
        self._extend(nodes, scores, read.expand_as(nodes), logits)

    def _extend(self, nodes: Tensor, scores: Tensor, read: Tensor, logits: Tensor) -> None:
        """Put the children of nodes (B, W) into the pool, given the logits (B, W, V) behind them; keep the best."""
        children = self.trie.children(nodes)
        at = children.parents * logits.shape[2] + children.tokens
        log_p = logits.flatten(1).gather(1, at) - logits.logsumexp(2).gather(1, children.parents)
        if self.adjust is not None:
            log_p = self.adjust(self.rows, nodes, children, log_p)
        total = torch.where(children.mask, scores.gather(1, children.parents) + log_p, -torch.inf)
        if self.banned is not None:
            gone = (children.nodes[..., None] == self.banned[self.rows, None]).any(2)
            total = total.masked_fill(gone, -torch.inf)
        patient = self.steps * self.search.width < self.search.pool
        keep = max(self.least, self.search.pool if patient else 0)
        everyone = torch.cat([self.scores, total], 1)
        best, order = everyone.topk(min(keep + 1, everyone.shape[1]), dim=1)
        if best.shape[1] > keep:
            self.lost = torch.maximum(self.lost, best[:, keep])
        self.scores, order = best[:, :keep], order[:, :keep]
        self.nodes = torch.cat([self.nodes, children.nodes], 1).gather(1, order)
        self.parents = torch.cat([self.parents, read.gather(1, children.parents)], 1).gather(1, order)
