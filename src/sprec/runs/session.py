"""The state of a run in memory: recipe, data, the store, and one policy, whose weights are the current stage's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprec.config import HuggingFace, Part, Recipe
from sprec.data import Dataset, Split
from sprec.engine.decode.trie import Trie
from sprec.engine.model.identity import origin
from sprec.engine.model.policy import Policy, load_huggingface, load_saved
from sprec.engine.model.sharding import sharded
from sprec.methods import knn
from sprec.methods.histories import item_counts
from sprec.methods.knn import ItemKnn
from sprec.methods.sasrec import SASRec
from sprec.prompts import PromptBuilder
from sprec.recommend.encoders import Encoder, sentence_transformers, tfidf
from sprec.recommend.exact import catalog_trie
from sprec.recommend.grounding import Grounder
from sprec.runs.examples import ANSWER_ROOM, pretraining_examples
from sprec.runs.keys import settings_of
from sprec.runs.lineage import has_other_items
from sprec.runs.store import Stage, Store
from sprec.runs.streams import Stream, seed_of
from sprec.system.hardware import pick_device, pick_precision
from sprec.system.progress import say

_ANSWER = 32
"""Limit of an answer in tokens if no title needs more (the research code's)."""


@dataclass(frozen=True)
class Start:
    """A model that is trained further.

    Attributes:
        stage: the run directory of the model, which contains its backbone.
        rows: rows of the training split on which this model has not been trained, ascending.
    """

    stage: Stage
    rows: np.ndarray


@dataclass
class Session:
    """The context of one run. Loading a stage whose weights are in memory is free.

    One policy is in memory, and, if all parameters are trained, also the backbone that encodes titles.

    Attributes:
        recipe: all settings.
        dataset: the data.
        store: of the stages.
    """

    recipe: Recipe
    dataset: Dataset
    store: Store
    start: Start | None = None
    """The model that is trained further, only on new rows; None for the recipe's backbone and all rows."""
    _policy: Policy | None = None
    _holds: str = field(default="", init=False)
    sasrec: tuple[str, SASRec] | None = field(default=None, init=False)
    """The last SASRec, and its key."""
    tilt: Stage | None = field(default=None, init=False)
    """The tilt of the last evaluation."""
    weights: Stage | None = field(default=None, init=False)
    """The weights of the experts of the last evaluation."""
    chosen: dict[str, Sequence[float]] = field(default_factory=dict, init=False)
    """Weights of experts, by what they were chosen from."""
    offsets: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    """The offsets of tilts, by the settings that they were made with."""

    @cached_property
    def device(self) -> torch.device:
        """The device of the models."""
        return pick_device(self.recipe.device)

    @cached_property
    def precision(self) -> torch.dtype:
        """The precision of the forward passes."""
        return pick_precision(self.recipe.precision, self.device)

    @cached_property
    def builder(self) -> PromptBuilder:
        """The prompts of this dataset in the recipe's style."""
        prompt = self.recipe.prompt
        return PromptBuilder(self.dataset.catalog, self.dataset.wording, prompt.style, prompt.history)

    def trie(self, policy: Policy) -> Trie:
        """The trie of the catalog's titles in a ``policy``'s tokens, made once: a run has one tokenizer."""
        if self._trie is None:
            self._trie = catalog_trie(policy, self.builder)
        return self._trie

    _trie: Trie | None = field(default=None, init=False)

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each item occurs in the training sequences, shape (items,)."""
        return item_counts(pretraining_examples(self.dataset), len(self.dataset.catalog))

    @cached_property
    def changed_items(self) -> bool:
        """Whether items were added, removed or renamed since the run was trained."""
        return has_other_items(self.store.root)

    @cached_property
    def knn(self) -> ItemKnn:
        """The neighbours of the items in the training sequences."""
        settings = knn.Settings(**self.recipe.knn.model_dump())
        return ItemKnn.count(pretraining_examples(self.dataset), len(self.dataset.catalog), settings)

    def answer_limit(self, policy: Policy, setting: int | None, name: str) -> int:
        """The limit of an answer in tokens; warns once if titles of the catalog are longer.

        Args:
            policy: its tokenizer counts, once per session, as a run has one tokenizer.
            setting: the recipe's, or None for what the titles need.
            name: of the setting.
        """
        if self._lengths is None:
            answers = [self.builder.respond(title) for title in self.dataset.catalog.titles]
            self._lengths = np.array([len(tokens) for tokens in policy.encode_completions(answers)])
        limit = setting or int(min(max(_ANSWER, self._lengths.max()), ANSWER_ROOM))
        if (long := int((self._lengths > limit).sum())) and name not in self._told:
            self._told.add(name)
            say(
                f"! {long:,} of {len(self._lengths):,} titles have more than {name}={limit} tokens (the longest "
                f"{self._lengths.max()}) and cannot be answered"
                + (f"; set {name}=null to let them" if limit < ANSWER_ROOM else "; shorten them")
            )
        return limit

    _lengths: np.ndarray | None = field(default=None, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    @property
    def new_rows(self) -> np.ndarray | None:
        """The rows of the training split that are new to the model that is trained further; None for all."""
        return None if self.start is None else self.start.rows

    @property
    def cases(self) -> Split:
        """The evaluated cases."""
        return self.dataset.splits[self.recipe.split][: self.recipe.cases]

    def policy(self, stage: Stage) -> Policy:
        """The policy with the weights of a ``stage``."""
        if self._policy is None or self._holds != stage.key:
            self._policy = self._load(stage)
            self.holds(stage.key)
        return self._policy

    def _load(self, stage: Stage) -> Policy:
        backbone = self.recipe.backbone
        if isinstance(backbone, HuggingFace) and stage.folder == Path():
            return self.fresh(backbone, self.recipe.seed)
        return load_saved(stage.folder / "model", backbone, self.device, self.precision)

    def fresh(self, backbone: HuggingFace, seed: int) -> Policy:
        """A given model without further training, with fresh adapters if it has any.

        Args:
            backbone: its settings.
            seed: of the adapters.
        """
        torch.manual_seed(seed_of(seed, Stream.ADAPTERS))
        return load_huggingface(backbone, self.device, self.precision)

    def adopt(self, policy: Policy) -> None:
        """Use a ``policy`` that was made in this run."""
        self._policy = policy
        self.holds("")

    def holds(self, key: str) -> None:
        """Record the ``key`` of the stage whose weights are in memory; empty while they are changing."""
        self._holds = key

    def made(self, key: str) -> None:
        """Record that the stage ``key`` was finished: if its weights were trained here, they are in memory.

        If they are sharded over several processes, the next stage reads them from the store.
        """
        if self._policy is not None and sharded(self._policy.model):
            self._policy = None
        if self._policy is not None and not self._holds:
            self._holds = key

    def depends(self, part: Part) -> dict[str, Any]:
        """What a kind of stage depends on besides earlier stages: the settings that affect it, and the data.

        Args:
            part: the kind of stage.
        """
        precise = self.recipe.model_copy(update={"precision": "bf16" if self.precision is torch.bfloat16 else "fp32"})
        settings = settings_of(precise if part in Part.MODEL else self.recipe, part)
        further = {"from": self.start.stage.key} if self.start and part & (Part.MODEL ^ Part.EVALUATE) else {}
        return {"data": self.dataset.hash, "settings": settings, **further}

    @cached_property
    def encoder_content(self) -> str | None:
        """Identifies the current content behind the name of the text encoder; None if it is part of the run."""
        _, _, name = self.recipe.recommend.encoder.partition(":")
        return origin(name) if name else None

    def grounder(self, backbone: Stage, encoder: str | None = None) -> Grounder:
        """The grounding of generated titles; with the encoder ``lm`` by the hidden states of the backbone.

        As in BIGRec this is the backbone before any fine-tuning, so that grounding is the same in all stages.

        Args:
            backbone: its stage.
            encoder: as in ``recommend.encoder``, which is the default.
        """
        name = encoder or self.recipe.recommend.encoder
        if name not in self._grounders:
            cache = self.store.root / "cache"
            self._grounders[name] = Grounder(self._encoder(backbone, name), self.dataset.catalog, cache)
        return self._grounders[name]

    _grounders: dict[str, Grounder] = field(default_factory=dict, init=False)

    def _encoder(self, backbone: Stage, name: str) -> Encoder:
        if name == "tfidf":
            return tfidf(self.dataset.catalog.titles)
        if name != "lm":
            return sentence_transformers(name.removeprefix("sentence-transformers:"), str(self.device))
        compact = self.builder.style == "compact"
        write = self.builder.respond if compact else str
        budget = 2 * self.recipe.tokens_per_batch  # no gradients

        def encode(titles: Sequence[str]) -> Tensor:
            return self._reader(backbone).embed([write(title) for title in titles], budget)

        return Encoder(f"lm-{backbone.key}-{self.precision}{'-compact' * compact}", encode)

    def _reader(self, backbone: Stage) -> Policy:
        """The model before any fine-tuning: the policy in memory without its adapters, if it has any."""
        adapted = isinstance(self.recipe.backbone, HuggingFace) and self.recipe.backbone.lora is not None
        if adapted and self._policy is not None:
            return self._policy
        if self._backbone is None:
            self._backbone = self._load(backbone)
        return self._backbone

    _backbone: Policy | None = field(default=None, init=False)
