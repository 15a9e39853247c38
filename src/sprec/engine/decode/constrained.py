"""The best leaves of a trie under a language model: constrained beam search, and its exact form.

One search does both. A pool keeps the best hypotheses of every prompt, including finished ones; a step reads the
``width`` best unfinished ones and replaces them with their children. With a pool of ``width`` hypotheses this is beam
search: the rest is dropped, and the best leaf may be below it. With a larger pool it is best-first search:
log-probabilities only fall, so when the ``count`` best of the pool are finished, nothing can overtake them. The result
says for each prompt whether that is certain: no dropped hypothesis was better than the last leaf returned.

The prompt is read once, and all hypotheses share its keys and values: their tokens follow each other in the cache, and
the attention mask selects each one's ancestors. So nothing is copied when hypotheses fork or are dropped.

Where only one sequence is left below a hypothesis its next tokens are known, so several are read at once: most titles
are the only one after a few tokens. Steps that need nothing new do not call the model; the search is the same. This
is done in beam search if all beams are wanted. Otherwise too much is read for hypotheses that are given up, and too
much padding: with 5 wanted of 10 it took 10% longer, with 10 it took 25% less time (2M backbone); best-first search for
20 took twice as long (the demo's model).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sprec.engine.batches import in_batches, wider
from sprec.engine.decode.generation import still_needed
from sprec.engine.decode.prefill import Prefilled, own_tokens, prefill
from sprec.engine.decode.trie import ROOT, Children, Closed, Trie
from sprec.engine.layout.groups import round_up, token_budget_batches
from sprec.engine.model.policy import Policy
from sprec.engine.model.sharding import sharded

Adjust = Callable[[Tensor, Tensor, Children, Tensor], Tensor]
"""From rows of the batch (B,), nodes (B, W), children and their log-probabilities (B, T) to scores (B, T), below 0."""
Guide = Callable[[Sequence[int]], Adjust]
"""From the numbers of the prompts of a batch to its adjustment."""
_WIDER = 4  # the logits of all hypotheses are in memory at once
_TOGETHER = 16  # wanted leaves read at once
_AHEAD = 16  # tokens of a hypothesis read at once, in vain if it is dropped


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        count: leaves wanted per prompt.
        width: hypotheses read at once per prompt: the beams.
        pool: hypotheses kept per prompt; ``width`` or less is beam search. So that every search ends, the pool falls
            back to ``width`` after as many hypotheses have been read.
    """

    count: int
    width: int
    pool: int = 0


class Leaves(NamedTuple):
    """The best leaves of n prompts, best first, on the CPU.

    Attributes:
        nodes: nodes of the trie, (n, count); -1 if the trie has no further leaf.
        scores: summed log-probability (adjusted, with a guide), including the end token's, (n, count) float64.
        certain: whether no dropped hypothesis could have led to a better leaf, (n,).
        wanted: log-probability of each wanted leaf, (n, C) float64; -inf for none.
    """

    nodes: Tensor
    scores: Tensor
    certain: Tensor
    wanted: Tensor


@torch.no_grad()
def best_leaves(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    search: Search,
    *,
    closed: Closed | None = None,
    guide: Guide | None = None,
    wanted: Tensor | None = None,
    budget: int = 8192,
    description: str = "search",
) -> Leaves:
    """Find the leaves with the highest summed log-probability over the whole vocabulary, not renormalised.

    Args:
        policy: the model.
        prompts: token ids, at least one each.
        trie: the sequences that can be completed, each with its end token.
        search: how many leaves, and how thoroughly.
        closed: ids that a prompt must not get; a leaf is found as long as one of its ids is open.
        guide: changes the score of every step.
        wanted: leaves to score whether they are found or not, (n, C), -1 for none; each prompt is still read once.
        budget: tokens per batch: those of prompts without their common prefix, and those of the trie that a search
            usually reads; or more (:func:`wider`).
        description: for the progress bar.
    """
    trie = trie.to(policy.device)
    asked = torch.zeros(len(prompts), 0, dtype=torch.long) if wanted is None else wanted
    mean = len(trie.tokens) / len(trie.length)
    usual = search.width * round(2 * mean) + asked.shape[1] * round(mean)  # enough for trained models, with a margin
    sizes = [own + usual for own in own_tokens(prompts)]
    with policy.evaluating(), policy.inference() as model:

        def work(rows: list[int]) -> list[list[Any]]:
            state = prefill(model, [prompts[row] for row in rows], policy.device, usual)
            shut = None if closed is None else closed.take(rows).to(policy.device)
            own = asked[rows].to(policy.device)
            found = _Batch(state, trie, search, shut, guide(rows) if guide else None).run(own)
            return [list(values) for values in zip(*(part.tolist() for part in found), strict=True)]

        batches = token_budget_batches(sizes, wider(budget, sizes, policy.device, _WIDER))
        found = in_batches(batches, work, description, together=sharded(policy.model))
    nodes, scores, certain, values = ([parts[part] for parts in found] for part in range(4))
    shape = (len(prompts), search.count)
    return Leaves(
        torch.tensor(nodes, dtype=torch.long).view(shape),
        torch.tensor(scores, dtype=torch.float64).view(shape),
        torch.tensor(certain, dtype=torch.bool),
        torch.tensor(values, dtype=torch.float64).view(asked.shape),
    )


class _Tree:
    """Reads tokens that follow prompts as a tree, without copying the prompts' state. Row 0 is the root, row 1 + e
    token e.

    Attributes:
        sees: which tokens of the tree each one sees, (B, 1 + E, E) for E tokens.
        only: log-probability of the next token, if only one is possible, (B, 1 + E).
        further: whether that token has been read, too, in the next row, (B, 1 + E).
        latest: the first of the last T rows, which were read together.
        logits: after them, (B, T, V).
        normaliser: of these logits, (B, T).
    """

    def __init__(self, state: Prefilled) -> None:
        self.state = state
        self.sees = state.seen.new_zeros(len(state.seen), 1, 0)
        self.only = state.logits.new_zeros(len(state.seen), 1)
        self.further = state.seen.new_zeros(len(state.seen), 1)
        self.latest, self.logits = 0, state.logits[:, None]
        self.normaliser = self.logits.logsumexp(2)

    def read(self, chains: "_Chains", parents: Tensor) -> Tensor:
        """Read chains below parents (rows of ``sees``, (B, W)); the row of each chain's first token, (B, W)."""
        owner, width, known = chains.owner, chains.owner.shape[1], self.sees.shape[2]
        above = self.sees.gather(1, parents.gather(1, owner)[..., None].expand(-1, -1, known))
        order = torch.arange(width, device=owner.device)
        own = (owner[:, :, None] == owner[:, None]) & (order <= order[:, None])
        new = torch.cat([above, own], 2)
        self.logits = self.logits.new_empty(0)  # large: free the old ones first
        self.logits = self.state.read(chains.tokens, chains.depth - 1, new).float()
        self.normaliser = self.logits.logsumexp(2)
        only = self.logits.gather(2, chains.next[..., None])[..., 0] - self.normaliser
        self.latest = self.sees.shape[1]
        self.sees = torch.cat([torch.nn.functional.pad(self.sees, (0, width)), new], 1)
        self.only = torch.cat([self.only, only], 1)
        self.further = torch.cat([self.further, chains.further], 1)
        return self.latest + chains.first

    def follow(self, trie: Trie, leaves: Tensor) -> Tensor:
        """Log-probabilities of leaves, (B, C) float64, -inf for -1; before anything else is read."""
        total = self.log_probs(torch.zeros_like(leaves), trie.tokens[trie.begin[_entry(trie, leaves)]].long()).double()
        for first in range(0, leaves.shape[1], _TOGETHER):
            part = leaves[:, first : first + _TOGETHER]
            chains = _Chains.along(trie, part)
            if chains.tokens.shape[1]:
                self.read(chains, torch.zeros_like(part))
                sums = torch.nn.functional.pad(self.only[:, self.latest :].double().cumsum(1), (1, 0))
                behind = sums.gather(1, chains.first + _unread(trie, part)) - sums.gather(1, chains.first)
                total[:, first : first + _TOGETHER] += behind
        return total.masked_fill(leaves < 0, -torch.inf)

    def log_probs(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of tokens after rows, (B, T'); after rows before the latest, of the only possible one."""
        place = (rows - self.latest).clamp(min=0)
        behind = self.logits.flatten(1).gather(1, place * self.logits.shape[2] + tokens)
        known: Tensor = self.only.gather(1, rows)
        return torch.where(rows < self.latest, known, behind - self.normaliser.gather(1, place))

    def select(self, rows: Tensor) -> None:
        """Keep these prompts."""
        self.state.select(rows)
        self.sees, self.only, self.further = self.sees[rows], self.only[rows], self.further[rows]
        self.logits, self.normaliser = self.logits[rows], self.normaliser[rows]


class _Chains(NamedTuple):
    """Tokens to read below hypotheses (B, W), those of a hypothesis in a row, padded: (B, T).

    Attributes:
        tokens: token ids; 0 for padding.
        owner: the hypothesis of each token.
        depth: its depth in the trie, 1 for the first.
        next: the token that follows it, if only one is possible.
        further: whether that token is read, too.
        first: where the tokens of each hypothesis begin, (B, W).
    """

    tokens: Tensor
    owner: Tensor
    depth: Tensor
    next: Tensor
    further: Tensor
    first: Tensor

    @classmethod
    def below(cls, trie: Trie, nodes: Tensor, unread: Tensor, most: int) -> "_Chains":
        """The token of each unread node, and up to ``most`` tokens that follow if only one sequence is left."""
        entry, depth = trie.start[nodes].long(), trie.depth[nodes]
        length = torch.where(trie.single[nodes], (trie.length[entry] - depth).clamp(max=most), 1) * unread
        return cls._of(trie, entry, depth, length)

    @classmethod
    def along(cls, trie: Trie, leaves: Tensor) -> "_Chains":
        """All tokens of the sequences of leaves (-1 for none) but their end tokens."""
        return cls._of(trie, _entry(trie, leaves), torch.ones_like(leaves), _unread(trie, leaves))

    @classmethod
    def _of(cls, trie: Trie, entry: Tensor, depth: Tensor, length: Tensor) -> "_Chains":
        """So many tokens of each sequence (an entry of ``trie.ids``), the first of them at a depth, all (B, W)."""
        ends = length.cumsum(1)
        place = torch.arange(round_up(int(ends[:, -1].max()), 4), device=entry.device).expand(len(entry), -1)
        owner = torch.searchsorted(ends, place.contiguous(), right=True).clamp_(max=entry.shape[1] - 1)
        within = place - (ends - length).gather(1, owner)
        mask = place < ends[:, -1:]
        at = torch.where(mask, (trie.begin[entry] + depth - 1).gather(1, owner) + within, 0)
        tokens, following = (trie.tokens[where].long() for where in (at, at + mask))
        return cls(
            tokens.masked_fill(~mask, 0), owner, depth.gather(1, owner) + torch.where(mask, within, 0), following,
            mask & (within + 1 < length.gather(1, owner)), ends - length,
        )  # fmt: skip


def _entry(trie: Trie, leaves: Tensor) -> Tensor:
    """The entry of ``trie.ids`` that ends at each leaf, the first of several; any one for -1."""
    return trie.start[leaves.clamp(min=0)].long()


def _unread(trie: Trie, leaves: Tensor) -> Tensor:
    """How many tokens of each leaf's sequence a model reads: all but the end token, and none for -1."""
    return (trie.length[_entry(trie, leaves)] - 1) * (leaves >= 0)


class _Batch:
    """The search for one batch of prompts. The pool is sorted, best first; empty places have the score -inf.

    Attributes:
        found: the results of the settled prompts.
        rows: the prompts in the batch; settled ones leave it in groups, (B,).
        nodes: node of each hypothesis of the pool, whose token has not been read, (B, C).
        scores: its score, including that token's, (B, C).
        parents: the row of its parent in the tree, (B, C).
        own: the row of its own token if it was read ahead, else -1, (B, C).
        lost: best score of a dropped hypothesis, (B,).
    """

    def __init__(
        self, state: Prefilled, trie: Trie, search: Search, closed: Closed | None, adjust: Adjust | None
    ) -> None:
        self.tree, self.trie, self.search, self.closed, self.adjust = _Tree(state), trie, search, closed, adjust
        self.steps, self.least = 0, max(search.width, search.count)  # an open leaf lies below each hypothesis
        n, k, device = len(state.logits), search.count, state.logits.device
        self.found = Leaves(
            torch.full((n, k), -1, device=device),
            torch.full((n, k), -torch.inf, dtype=torch.float64, device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
            torch.zeros(n, 0, dtype=torch.float64, device=device),
        )
        self.rows = torch.arange(n, device=device)
        self.scores = torch.zeros(n, 0, dtype=torch.float64, device=device)
        self.nodes = self.parents = self.own = torch.zeros(n, 0, dtype=torch.long, device=device)
        self.lost = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)

    def run(self, wanted: Tensor) -> Leaves:
        """Step until all prompts are settled; the leaves ``wanted`` (B, C) are read first."""
        root = torch.zeros_like(self.rows)[:, None]
        self._extend(root + ROOT, root.double(), root)
        self.found = self.found._replace(wanted=self.tree.follow(self.trie, wanted))
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
        """Which prompts' best hypotheses are finished, (B,); hypotheses that cannot be among the best are dropped."""
        unfinished = self._unfinished()
        better = (~unfinished & (self.scores > -torch.inf)).cumsum(1)
        self.scores = self.scores.masked_fill(unfinished & (better >= self.search.count), -torch.inf)
        return ~self._unfinished().any(1)

    def _unfinished(self) -> Tensor:
        return (self.trie.branching[self.nodes] > 0) & (self.scores > -torch.inf)

    def _keep(self, kept: Tensor) -> None:
        self.tree.select(kept)
        self.rows, self.lost, self.nodes = self.rows[kept], self.lost[kept], self.nodes[kept]
        self.scores, self.parents, self.own = self.scores[kept], self.parents[kept], self.own[kept]

    def _step(self) -> None:
        """Read the best unfinished hypotheses and replace them with their children."""
        self.steps += 1
        order = self.scores.masked_fill(~self._unfinished(), -torch.inf)
        scores, place = order.topk(min(self.search.width, order.shape[1]), dim=1)
        width = min(scores.shape[1], round_up(int((scores > -torch.inf).sum(1).max()), 4))
        scores, place = scores[:, :width], place[:, :width]
        live = scores > -torch.inf
        nodes = self.nodes.gather(1, place).masked_fill(~live, len(self.trie) - 1)  # a leaf: it has no children
        taken = torch.zeros_like(order, dtype=torch.bool).scatter_(1, place, live)
        self.scores = self.scores.masked_fill(taken, -torch.inf)
        read, parents = self.own.gather(1, place), self.parents.gather(1, place)
        unread = live & (read < 0)
        if unread.any():
            most = _AHEAD if self.search.count >= self.search.width >= self.search.pool else 1
            first = self.tree.read(_Chains.below(self.trie, nodes, unread, most), parents)
            read = torch.where(unread, first, read)
        self._extend(nodes, scores, read.clamp(min=0))

    def _extend(self, nodes: Tensor, scores: Tensor, read: Tensor) -> None:
        """Put the children of nodes into the pool, given the rows of their tokens in the tree; keep the best."""
        children = self.trie.children(nodes)
        parents = children.parents
        rows = read.gather(1, parents)
        log_p = self.tree.log_probs(rows, children.tokens)
        if self.adjust is not None:
            log_p = self.adjust(self.rows, nodes, children, log_p)
        total = torch.where(children.mask, scores.gather(1, parents) + log_p, -torch.inf)
        if self.closed is not None:
            total = total.masked_fill(self.closed.shuts(self.trie, children.nodes, self.rows), -torch.inf)
        patient = self.steps * self.search.width < self.search.pool
        keep = max(self.least, self.search.pool if patient else 0)
        everyone = torch.cat([self.scores, total], 1)
        best, order = everyone.topk(min(keep + 1, everyone.shape[1]), dim=1)
        if best.shape[1] > keep:
            self.lost = torch.maximum(self.lost, best[:, keep])
        self.scores, order = best[:, :keep], order[:, :keep]
        self.nodes = torch.cat([self.nodes, children.nodes], 1).gather(1, order)
        ahead = torch.where(self.tree.further.gather(1, rows), rows + 1, -1)
        self.parents = torch.cat([self.parents, rows], 1).gather(1, order)
        self.own = torch.cat([self.own, ahead], 1).gather(1, order)
