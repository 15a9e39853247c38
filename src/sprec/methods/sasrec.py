"""SASRec (Kang and McAuley, ICDM 2018): a sequential recommender of ids, which D3 and RosePO consult.

It follows the research group's code (DROS, MiniOneRec): an untied linear head turns the state at the last item of the
history into one logit per item. Histories are item ids, oldest first.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sprec.data import Split
from sprec.methods.exclusion import Excluded, nothing_excluded
from sprec.methods.histories import padded
from sprec.methods.ranking import top_columns
from sprec.system.errors import UserError
from sprec.system.progress import bar

_ROWS = 1024  # examples scored at once


@dataclass(frozen=True)
class Settings:
    """How SASRec is built and trained.

    Attributes:
        hidden: width of the embeddings.
        dropout: on embeddings, attention weights and the outputs of the blocks.
        lr: learning rate of Adam.
        weight_decay: of Adam.
        batch: sequences per step.
        epochs: maximum number.
        blocks: attention blocks.
        heads: attention heads; must divide ``hidden``.
        history: number of items that are read, the most recent ones.
        loss: ``bce`` against one uniform negative, ``ce`` over the whole catalog, or ``sampled-softmax``.
        negatives: items that all positions of a batch share as negatives of ``sampled-softmax``, at least two.
        patience: epochs without a better validation NDCG before training stops.
        warmup: epochs in which the rate rises to ``lr``, step by step; patience begins after them.
        augment: train on every prefix of a history, too, as the original SASRec does.

    The defaults are those of the recipe.
    """

    hidden: int = 64
    blocks: int = 1
    heads: int = 1
    history: int = 10
    dropout: float = 0.1
    lr: float = 4e-3
    weight_decay: float = 1e-5
    batch: int = 1024
    loss: Literal["bce", "ce", "sampled-softmax"] = "bce"
    epochs: int = 200
    patience: int = 20
    augment: bool = True
    negatives: int = 1024
    warmup: int = 0


class Block(nn.Module):
    """Causal attention with the residual on the normalised query, then a point-wise feed-forward layer.

    Args:
        settings: sizes and dropout.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        d = settings.hidden
        self.heads, self.dropout = settings.heads, settings.dropout
        self.before, self.after = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.inner, self.outer = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        """States ``x`` (B, L, d) to states of the same shape; padding at the end is ignored."""
        query = self.before(x)
        parts = self.query(query), self.key(x), self.value(x)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        seen = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = self.after(query + seen.transpose(1, 2).flatten(2))
        inner = nn.functional.dropout(nn.functional.relu(self.inner(x)), self.dropout, self.training)
        return x + nn.functional.dropout(self.outer(inner), self.dropout, self.training)


class SASRec(nn.Module):
    """Histories of item ids to one logit per item of the catalog.

    Args:
        items: size of the catalog; the id ``items`` is padding.
        settings: sizes and dropout.
    """

    def __init__(self, items: int, settings: Settings) -> None:
        super().__init__()
        self.items, self.settings = items, settings
        self.item = nn.Embedding(items + 1, settings.hidden, padding_idx=items)
        self.position = nn.Embedding(settings.history, settings.hidden)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.hidden)
        self.head = nn.Linear(settings.hidden, items)
        for embedding in (self.item, self.position):
            nn.init.normal_(embedding.weight, std=0.01)

    def states(self, histories: Tensor) -> Tensor:
        """State after each item of the ``histories``: ids (B, L), padded at the end, to (B, L, d)."""
        real = histories != self.items
        x = (self.item(histories) + self.position.weight) * real[..., None]
        x = nn.functional.dropout(x, self.settings.dropout, self.training)
        for block in self.blocks:
            x = block(x) * real[..., None]
        states: Tensor = self.norm(x)
        return states

    def batches(self, split: Split) -> Iterator[Tensor]:
        """Logits for the examples of a ``split`` in blocks, (up to 1024, items), to limit the memory.

        Raises:
            UserError: a logit is not finite; it would be ranked like any other.
        """
        self.eval()
        rows = torch.from_numpy(padded(split, self.settings.history, self.items))
        with torch.no_grad():
            for block in torch.split(rows, _ROWS) if len(split) else ():
                histories = block.to(self.head.weight.device)
                logits = self.head(self.states(histories)[_ends(histories, self.items)])
                if not logits.isfinite().all():
                    raise UserError("the scores of SASRec are not finite; lower sasrec.lr")
                yield logits

    def scores(self, split: Split) -> Tensor:
        """Logits of all items for each example of a ``split``, float32 on the CPU, shape (n, items)."""
        return torch.cat([torch.zeros(0, self.items), *(block.cpu() for block in self.batches(split))])

    def scores_of(self, split: Split, items: np.ndarray) -> Tensor:
        """Logits of ``items`` (n, K) for the n examples of a ``split``, float32 on the CPU, shape (n, K)."""
        self.eval()
        rows, wanted = torch.from_numpy(padded(split, self.settings.history, self.items)), torch.from_numpy(items)
        parts = [torch.zeros(0, items.shape[1])]
        with torch.no_grad():
            for block, ids in zip(torch.split(rows, _ROWS), torch.split(wanted, _ROWS), strict=True):
                histories, columns = block.to(self.head.weight.device), ids.to(self.head.weight.device)
                states = self.states(histories)[_ends(histories, self.items)]
                parts.append(self._logits(states, columns).cpu())
        return torch.cat(parts)

    def _logits(self, states: Tensor, items: Tensor) -> Tensor:
        """Logits of items (B, K) at states (B, d), shape (B, K)."""
        return torch.einsum("bd,bkd->bk", states, self.head.weight[items]) + self.head.bias[items]

    def top_k(self, split: Split, k: int, excluded: Excluded | None = None) -> np.ndarray:
        """The ``k`` items with the highest logits, ties by item id, padded with -1, shape (n, k).

        Args:
            split: the examples.
            k: items per example, no more than the catalog has.
            excluded: what each list leaves out; nothing by default.
        """
        without = excluded or Excluded.of(nothing_excluded(len(split), self.items), self.items)
        best = [np.zeros((0, k), dtype=np.int64)]
        for number, block in enumerate(self.batches(split)):
            rows = slice(number * _ROWS, number * _ROWS + len(block))
            best.append(top_columns(block.cpu().numpy(), k, without.take(rows)))
        return np.concatenate(best)

    def save(self, folder: Path) -> None:
        """Write ``sasrec.safetensors`` and ``sasrec.json`` into a ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu() for name, tensor in self.state_dict().items()}, folder / "sasrec.safetensors")
        about = {"items": self.items, "settings": asdict(self.settings)}
        (folder / "sasrec.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "SASRec":
        """Read the files of :meth:`save` in a ``folder``."""
        about = json.loads((folder / "sasrec.json").read_text("utf-8"))
        model = cls(about["items"], Settings(**about["settings"]))
        model.load_state_dict(load_file(folder / "sasrec.safetensors"))
        return model.eval()


def train_sasrec(
    train: Split,
    valid: Split,
    items: int,
    settings: Settings,
    seed: int,
    device: str = "cpu",
    log: Path | None = None,
) -> SASRec:
    """Train with early stopping: the weights with the best validation NDCG are kept.

    Args:
        train: all training sequences.
        valid: examples for early stopping.
        items: size of the catalog.
        settings: see :class:`Settings`.
        seed: of the initial weights, the order of the examples, the negatives and the dropout.
        device: where to train.
        log: a file that gets a JSON line per epoch, with its loss and validation NDCG.

    Raises:
        UserError: there are no training or validation examples, or a loss or score is not finite.
    """
    if not len(train) or not len(valid):
        raise UserError("SASRec needs training and validation examples; import a dataset that has both splits")
    devices = [torch.device(device)] if device != "cpu" else []
    with torch.random.fork_rng(devices), bar("SASRec", settings.epochs) as progress:
        torch.manual_seed(seed)
        model = SASRec(items, settings).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        best, best_ndcg, waited = _weights(model), -1.0, 0
        for epoch in range(settings.epochs):
            loss = _epoch(model, optimizer, train, epoch)
            ndcg = validation_ndcg(model, valid)
            if log:
                _note(log, epoch, loss, ndcg)
            progress.advance(1, f"NDCG {ndcg:.4f}")
            waited = 0 if ndcg > best_ndcg or epoch < settings.warmup else waited + 1
            if ndcg > best_ndcg:
                best, best_ndcg = _weights(model), ndcg
            if waited == settings.patience:
                break
    model.load_state_dict(best)
    return model.eval()


def validation_ndcg(model: SASRec, split: Split) -> float:
    """Mean of 1/log2(rank + 2) over a ``split``, with the target's rank by a ``model`` from 0, ties by item id.

    Without a cut-off every example counts, so that a few hundred examples suffice to compare epochs.
    """
    ids = torch.arange(model.items, device=model.head.weight.device)
    ranks = []
    for block, targets in zip(
        model.batches(split), np.split(split.targets, range(_ROWS, len(split), _ROWS)), strict=True
    ):
        target = torch.tensor(targets, device=ids.device)[:, None]  # a copy: arrays of loaded datasets are read-only
        score = block.gather(1, target)
        ahead = (block > score) | ((block == score) & (ids < target))
        ranks.append(ahead.sum(1).cpu())
    return float((1 / torch.log2(torch.cat(ranks).double() + 2)).mean())


def _note(log: Path, epoch: int, loss: float, ndcg: float) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a" if epoch else "w") as file:
        file.write(json.dumps({"epoch": epoch, "loss": loss, "valid_ndcg": ndcg}) + "\n")


def _epoch(model: SASRec, optimizer: torch.optim.Optimizer, examples: Split, epoch: int) -> float:
    """One pass over the examples; the mean of the losses of its steps."""
    model.train()
    losses = []
    device = model.head.weight.device
    histories = torch.from_numpy(padded(examples, model.settings.history, model.items)).to(device)
    targets = torch.tensor(examples.targets, device=device)
    steps = torch.split(torch.randperm(len(targets)).to(device), model.settings.batch)
    for step, rows in enumerate(steps):
        risen = (epoch * len(steps) + step + 1) / max(1, model.settings.warmup * len(steps))
        for group in optimizer.param_groups:
            group["lr"] = model.settings.lr * min(1.0, risen)
        optimizer.zero_grad()
        loss = training_loss(model, histories[rows], targets[rows])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UserError(f"the loss of SASRec is {losses[-1]} at step {step} of epoch {epoch}; lower sasrec.lr")
        torch.autograd.backward(loss)
        optimizer.step()
    return sum(losses) / len(losses)


def training_loss(model: SASRec, histories: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of a ``model`` on a batch: ``histories`` (B, L), padded at the end, and ``targets`` (B,).

    ``bce``: binary cross-entropy of the target's logit against 1 and of one uniform other item's against 0.
    ``ce``: cross-entropy over the catalog. ``sampled-softmax``: its estimate from uniform negatives
    (:func:`sampled_softmax`). With ``augment``, the mean runs over all positions.
    """
    ends, states = _ends(histories, model.items), model.states(histories)
    if model.settings.augment:
        following, known = histories.roll(-1, dims=1), histories != model.items
        following[ends], known[ends] = targets, True
        states, targets = states[known], following[known]
    else:
        states = states[ends]
    if model.settings.loss == "ce":
        return nn.functional.cross_entropy(model.head(states), targets)
    if model.settings.loss == "sampled-softmax":
        drawn = torch.randperm(model.items, device=targets.device)[: model.settings.negatives]
        return sampled_softmax(model, states, targets, drawn).mean()
    others = torch.randint_like(targets, model.items - 1)
    others = others + (others >= targets)  # uniform over the items that are not the target
    pair = torch.stack([targets, others], 1)
    logits = model._logits(states, pair)
    wanted = torch.tensor([1.0, 0.0], device=logits.device).expand_as(logits)
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted)


def sampled_softmax(model: SASRec, states: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Cross-entropy with the sum over the catalog estimated from negatives shared by all rows, shape (B,).

    With s the logits, y the target and N the m' negatives that are not y:

        -s_y + log(exp s_y + (|I| - 1)/m' sum over N of exp s_n)

    The factor makes the sum unbiased, and the loss equal to ``ce`` if N is the rest of the catalog; without it few
    negatives make the model overconfident (Petrov and Macdonald, RecSys 2023; arXiv 2408.14238).

    Args:
        model: its head gives the logits.
        states: before the next item (B, d).
        targets: the next item (B,).
        negatives: different items, drawn uniformly (m,), at least two.
    """
    own = model._logits(states, targets[:, None])[:, 0]
    others = nn.functional.linear(states, model.head.weight[negatives], model.head.bias[negatives])
    others = others.masked_fill(negatives == targets[:, None], -torch.inf)
    scale = math.log(model.items - 1) - others.isfinite().sum(1).log()
    return torch.logaddexp(own, scale + others.logsumexp(1)) - own


def _ends(histories: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the last item of each history; column 0 for an empty one."""
    last = ((histories != padding).sum(1) - 1).clamp(min=0)
    return torch.arange(len(histories), device=histories.device), last


def _weights(model: SASRec) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
