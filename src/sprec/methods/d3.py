"""D3 (EMNLP 2024): decoding constrained to titles, without length normalisation, guided by SASRec.

Extending a prefix z of titles by a token v scores

    s(v) = alpha log p(v | prompt, z) + (1 - alpha) log( m(z v) / sum of m(z v') over the titles' next tokens v' )

where m(z) is the assistant's probability of all items whose titles begin with z. The score of a beam is the sum.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sprec.engine.decode.constrained import Adjust, Guide
from sprec.engine.decode.trie import Children, Masses, Trie

_MASS = 1e-20  # as in the research code; if the assistant excludes all continuations, they are equally likely


def guidance(trie: Trie, logits: Callable[[Sequence[int]], Tensor], alpha: float) -> Guide | None:
    """How D3 changes the model's log-probabilities; None if the assistant has no weight (``alpha`` is 1).

    Args:
        trie: of the titles, item i with the id i.
        logits: the assistant's logits of all items for the examples with these numbers, (B, items).
        alpha: weight of the language model, ``guidance_scale`` of the research code.
    """
    if alpha == 1:
        return None

    masses, floor = Masses(trie, torch.float32), _MASS * trie.branching.float()

    def of_batch(numbers: Sequence[int]) -> Adjust:
        sums = masses.of(logits(numbers).to(trie.token.device).float().softmax(1))

        def adjust(rows: Tensor, nodes: Tensor, children: Children, log_p: Tensor) -> Tensor:
            own = masses.below(sums, children.nodes, rows).add_(_MASS)
            siblings = masses.below(sums, nodes, rows).add_(floor[nodes])
            share = own.div_(siblings.gather(1, children.parents)).log_().clamp_(max=0)
            return torch.add(alpha * log_p, share, alpha=1 - alpha)

        return adjust

    return of_batch
