"""The work of both sides: a model, real prompts and answers, as files that another process can read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sprec.config import HuggingFace, Scratch
from sprec.data import Dataset, Split
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.policy import Policy, load_huggingface, scratch
from sprec.prompts import PromptBuilder
from sprec.system.hardware import pick_device, pick_precision

Size = Literal["toy", "2m", "30m", "135m", "1b"]
SIZES = {
    "toy": Scratch(hidden=32, layers=2, heads=2, vocabulary=400),
    "2m": Scratch(),
    "30m": Scratch(hidden=512, layers=8, heads=8, vocabulary=8000),
    **dict.fromkeys(("135m", "1b"), Scratch(hidden=32, layers=1, heads=2, vocabulary=8000)),  # their tokenizer
}
SHAPES: Mapping[Size, Mapping[str, Any]] = {
    "135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64},
    "1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
}  # fmt: skip
"""Shapes of pretrained models, SmolLM2-135M and Llama-3.2-1B, as their ``config.json`` has them; weights are random."""
LR = 1e-4
NEW_TOKENS = 16
"""A fitting limit: a title and the end take about 10 tokens."""
BETA = 0.1
MICRO = 8
"""Rows of a peer's micro-batch on CPUs, where larger ones are slower; a GPU gets a whole step."""
COUNT = "count"
"""The line that asks a side to count the operations of a repetition."""
_TEMPLATES = 4  # copies of the template in the tokenizer's training text: gives it about as many tokens as Llama's
_PARTS_OF_WORDS = ("30m", "135m", "1b")  # if their 8,000 tokens could contain spaces, one would be the whole template


@dataclass(frozen=True)
class Work:
    """What one side does in one part.

    Attributes:
        part: which part.
        side: ``engine`` or one of the peers of the part.
        model: folder of the model that the stage starts from.
        data: folder of the dataset.
        samples: training examples or cases.
        negatives: rejected answers per prompt (the preference stage only).
        batch: prompts per optimiser step.
        tokens: maximum number that the engine reads at once when it trains and scores.
        device: where to run.
    """

    part: str
    side: str
    model: str
    data: str
    samples: int
    negatives: int = 1
    batch: int = 32
    tokens: int = 8192
    device: str = "auto"

    @property
    def on_gpu(self) -> bool:
        """Whether the part computes on a GPU: grounding and the catalogue of a million do not."""
        host = self.part.startswith(("grounding", "million"))
        return not host and pick_device(self.device).type == "cuda"

    def policy(self) -> Policy:
        """The model, in the precision of this machine."""
        device = pick_device(self.device)
        return load_huggingface(HuggingFace(path=self.model, lora=None), device, pick_precision("auto", device))

    def texts(self) -> "Texts":
        """The prompts and answers of this work."""
        return read_texts(Dataset.load(Path(self.data)), self.samples, self.negatives)


@dataclass(frozen=True)
class Texts:
    """Training data as text.

    Attributes:
        prompts: n of them.
        chosen: their right answers.
        rejected: K wrong answers for each.
    """

    prompts: list[str]
    chosen: list[str]
    rejected: list[list[str]]

    def groups(self, policy: Policy, negatives: bool) -> list[PromptGroup]:
        """The prompt groups in a ``policy``'s tokens, with the wrong answers if ``negatives``."""
        asked, answers = policy.encode_prompts(self.prompts), policy.encode_completions(self.chosen)
        if not negatives:
            return [PromptGroup(ask, (answer,)) for ask, answer in zip(asked, answers, strict=True)]
        wrong = [policy.encode_completions(own) for own in self.rejected]
        return [PromptGroup(ask, (answer, *own)) for ask, answer, own in zip(asked, answers, wrong, strict=True)]


def read_texts(dataset: Dataset, samples: int, negatives: int) -> Texts:
    """Prompts and targets of the first ``samples`` examples of a ``dataset``, each with uniform ``negatives``.

    Those of train come first, then test; they are repeated if there are too few.
    """
    builder = PromptBuilder(dataset.catalog, dataset.wording)
    examples = _take(dataset.train + dataset.test, samples)
    wrong = np.random.default_rng(0).integers(len(dataset.catalog), size=(samples, negatives)).tolist()
    return Texts(
        [builder.prompt(example.history) for example in examples],
        [builder.response(example.target) for example in examples],
        [[builder.response(item) for item in row] for row in wrong],
    )


def _take(split: Split, samples: int) -> Split:
    return split.take(np.resize(np.arange(len(split)), samples))


def make_model(folder: Path, size: Size, dataset: Dataset, device: str) -> int:
    """Write a random model of a ``size``, made on the ``device``, to a ``folder``.

    Its tokenizer is trained on the ``dataset``'s titles and on the template.

    Returns:
        The number of its parameters.
    """
    where = pick_device(device)
    builder = PromptBuilder(dataset.catalog, dataset.wording)
    lines = [builder.respond(title) for title in dataset.catalog.titles] + [builder.prompt([])] * _TEMPLATES
    precision = pick_precision("auto", where)
    policy = scratch(SIZES[size], lines, 0, where, precision, across_words=size not in _PARTS_OF_WORDS)
    if size in SHAPES:
        policy.model = _of_shape(size, policy, where)
    policy.save(folder)
    return sum(value.numel() for value in policy.model.parameters())


def _of_shape(size: Size, policy: Policy, device: torch.device) -> LlamaForCausalLM:
    config = LlamaConfig(
        **SHAPES[size], tie_word_embeddings=True, max_position_embeddings=4096,
        bos_token_id=policy.tokenizer.bos_token_id, eos_token_id=policy.end,
        pad_token_id=policy.tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(config)
