"""The cost of a run: tokens, floating-point operations, bytes and hours, from the sizes of the model and the recipe.

Every stage reads prompt groups, so three numbers matter: tokens of a prompt, tokens of a completion, ``completions``
per prompt; ``samples`` is the number of groups. Matrix products cost 2 operations per weight and token forward;
backward they cost 2 more for the inputs and, for trained weights, 2 more for the weights (Kaplan et al. 2020,
Section 2.1). Attention over T positions costs 4 T^2 x width per layer (dense masks), the LM head 2 x width x vocabulary
for each state that predicts completion tokens. A completion's last token is not read; common beginnings of completions
are ignored. ``device_flops`` is the peak rate of a device in FLOP/s, ``utilisation`` the share of it that is reached.
"""

from dataclasses import dataclass, field
from typing import Any

from sprec.config import Recipe

SECONDS = 3600.0
ADAM_BYTES = 12
"""Per trained parameter in a checkpoint: fp32 value and two fp32 moments."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like model.

    Attributes:
        layers: decoder layers.
        width: of the residual stream.
        matrices: weights in the decoder's matrices, without embeddings and head.
        vocabulary: rows of the LM head.
        tied: whether embeddings and head are one matrix.
        keys: width of the keys of a layer (heads of keys times their size).
        adapters: weights of LoRA adapters; 0 when all parameters are trained.
    """

    layers: int
    width: int
    matrices: float
    vocabulary: int
    keys: int
    tied: bool = True
    adapters: float = 0

    @classmethod
    def of(cls, config: Any, rank: int = 0) -> "Shape":
        """The shape of a ``LlamaConfig``, ``config``, with adapters of a ``rank`` on all seven matrices of a layer."""
        head = config.hidden_size // config.num_attention_heads
        keys = config.num_key_value_heads * head
        sides = [(config.hidden_size, config.hidden_size)] * 2 + [(config.hidden_size, keys)] * 2
        sides += [(config.hidden_size, config.intermediate_size)] * 3
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_hidden_layers * sum(a * b for a, b in sides),
            config.vocab_size,
            keys,
            config.tie_word_embeddings,
            config.num_hidden_layers * rank * sum(a + b for a, b in sides),
        )

    @property
    def parameters(self) -> float:
        """All weights except the norms."""
        return self.matrices + self.width * self.vocabulary * (1 if self.tied else 2)

    @property
    def trained(self) -> float:
        """Weights that training changes."""
        return self.adapters or self.parameters

    @property
    def last(self) -> float:
        """Weights of the last layer that are applied only to columns whose states are used: all but keys and values."""
        return self.matrices / self.layers - 2 * self.width * self.keys + 5 / 7 * self.adapters / self.layers

    def forward(self, tokens: float, positions: float, predicted: float, unused: float = 0) -> float:
        """Operations of reading tokens.

        Args:
            tokens: how many.
            positions: sum of T^2 over the sequences of T tokens.
            predicted: rows of the head.
            unused: tokens whose states after the last layer are not used (:mod:`sprec.engine.layout.last_layer`).
        """
        head = 2 * self.width * self.vocabulary * predicted
        attention = 4 * self.width * positions * (self.layers - unused / max(tokens, 1))
        return 2 * (self.matrices + self.adapters) * tokens - 2 * self.last * unused + attention + head

    def train(self, tokens: float, positions: float, predicted: float, unused: float = 0) -> float:
        """Operations of a forward and a backward pass.

        ``tokens``, ``positions``, ``predicted`` and ``unused`` are as in :meth:`forward`.
        """
        forward = self.forward(tokens, positions, predicted, unused)
        if not self.adapters:
            return 3 * forward
        frozen = self.matrices * tokens - (self.last - 5 / 7 * self.adapters / self.layers) * unused
        return 3 * forward - 2 * frozen - 2 * self.width * self.vocabulary * predicted  # no gradients of frozen weights


LLAMA_1B = Shape(16, 2048, 973_078_528, 128_256, 512, adapters=11_272_192)
"""meta-llama/Llama-3.2-1B with the adapters of the recipe."""
LLAMA_8B = Shape(32, 4096, 6_979_321_856, 128_256, 1024, tied=False, adapters=41_943_040)
"""meta-llama/Llama-3.1-8B with the adapters of the recipe."""

LLAMA_TOKENIZER = 9.1e6
"""Bytes of the tokenizer.json of Llama 3."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a ``prompt`` and of a ``completion``, including its end token."""

    prompt: float = 200
    completion: float = 15


@dataclass(frozen=True)
class Cost:
    """``tokens`` read and generated, operations (``flops``), and ``bytes`` written to the run directory."""

    tokens: float = 0
    flops: float = 0
    bytes: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.tokens + other.tokens, self.flops + other.flops, self.bytes + other.bytes)

    def hours(self, device_flops: float, devices: int = 1, utilisation: float = 0.35) -> float:
        """Hours on a number of ``devices``."""
        return self.flops / (device_flops * devices * utilisation) / SECONDS


@dataclass(frozen=True)
class Model:
    """Costs of the stages of a run for a model and mean lengths.

    Attributes:
        shape: of the language model.
        lengths: mean tokens of prompts and answers.
        tokenizer: bytes of its files, which each training stage contains.
        padded: whether groups are padded, as on CPUs, so that the last layer computes only the columns that are used;
            packed rows, as on GPUs, pass it completely. For generation prompts are always padded.
    """

    shape: Shape
    lengths: Lengths = field(default_factory=Lengths)
    padded: bool = False
    tokenizer: float = 0

    def training(self, samples: float, completions: int = 1) -> Cost:
        """Train on prompt groups, each prompt read once; the trained weights and the tokenizer are written once."""
        tokens, *rest = self._read(samples, completions)
        return Cost(tokens, self.shape.train(tokens, *rest), 4 * self.shape.trained + self.tokenizer)

    def scoring(self, samples: float, completions: int) -> Cost:
        """Compute log-probabilities under the reference."""
        tokens, *rest = self._read(samples, completions)
        return Cost(tokens, self.shape.forward(tokens, *rest))

    def generating(self, samples: float, completions: int = 1) -> Cost:
        """Read prompts and generate completions with their key-value cache; about 6 bytes of JSON per token."""
        prompt, new = self.lengths.prompt, completions * self.lengths.completion
        reading = self.shape.forward(prompt * samples, prompt**2 * samples, samples, (prompt - 1) * samples)
        context = self.lengths.prompt + self.lengths.completion / 2
        writing = self.shape.forward(new * samples, new * context * samples, new * samples)
        return Cost((prompt + new) * samples, reading + writing, 6 * (prompt + new) * samples)

    def checkpoint_bytes(self) -> float:
        """Bytes of a checkpoint inside a training stage without validation; two of them are kept."""
        return ADAM_BYTES * self.shape.trained

    def _read(self, samples: float, completions: int) -> tuple[float, float, float, float]:
        """Tokens, positions, rows of the head and unused states of reading prompt groups."""
        read = completions * (self.lengths.completion - 1)
        width = self.lengths.prompt + read
        unused = (self.lengths.prompt - 1) * samples if self.padded else 0.0
        return width * samples, width**2 * samples, (1 + read) * samples, unused


def run_cost(model: Model, recipe: Recipe, samples: float | None = None) -> Cost:
    """A whole run of a language-model method: SFT, iterations, evaluations after each stage.

    Args:
        model: to train.
        recipe: has the numbers of samples, epochs, iterations, negatives and cases.
        samples: in the SFT and in every iteration, if not the recipe's.
    """
    drawn = recipe.loop.samples if samples is None else samples
    total = model.training(recipe.sft.epochs * (recipe.sft.samples if samples is None else samples))
    total += model.generating(recipe.cases)
    pairs = 1 + recipe.negatives.count
    plays = recipe.loop.dpo_step and recipe.negatives.source == "self-play"
    for _ in range(recipe.loop.iterations):
        if plays:
            total += model.generating(drawn, recipe.negatives.count)
        if recipe.loop.sft_step:
            total += model.training(drawn * recipe.sft_step.epochs) + model.generating(recipe.cases)
        if recipe.loop.dpo_step:
            total += model.scoring(drawn, pairs) + model.training(drawn * recipe.prefer.epochs, pairs)
            total += model.generating(recipe.cases)
    return total


def table(recipe: Recipe, device_flops: float = 989e12, utilisation: float = 0.35) -> str:
    """Costs of a ``recipe`` for several models, samples and devices, as Markdown (by default H100: dense bf16)."""
    lines = [
        "| model | samples | tokens | FLOP | run directory | checkpoint | hours on 1 GPU | on 8 | on 64 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, shape in (("1B", LLAMA_1B), ("8B", LLAMA_8B)):
        for samples in (1e4, 1e6, 1e8):
            model = Model(shape, tokenizer=LLAMA_TOKENIZER)
            cost = run_cost(model, recipe, samples)
            hours = [f"{cost.hours(device_flops, devices, utilisation):,.3g}" for devices in (1, 8, 64)]
            sizes = [f"{size / 1e9:,.2f} GB" for size in (cost.bytes, model.checkpoint_bytes())]
            row = [name, f"{samples:,.0f}", f"{cost.tokens:.2g}", f"{cost.flops:.2g}", *sizes, *hours]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])
