"""The recipe: everything that decides a run, as one checked schema. The attribute docstrings are the help text.

Each setting says what it affects, itself or with the section that holds it (:mod:`sprec.config.affects`).
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from sprec.config.affects import Affects, Part, Section, require_declarations

MethodName = Literal[
    "bigrec",
    "rw",
    "d3",
    "knn",
    "sasrec",
    "popularity",
    "random",
    "dpo",
    "dmpo",
    "sdpo",
    "rosepo",
    "rosepo-official",
    "sprec",
    "sprec-nosft",
    "sprec-nodpo",
    "sprec-rn",
    "sprec-weighted",
]
Rate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Answer = Annotated[int, Field(ge=1, le=128)]
"""Tokens of an answer; prompts leave room for the maximum in the model's window."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]


SCHEMA = 3
"""Part of all keys. Raise it when a default changes, or when a stage does something else with the same settings."""


def encodes_negatives(recipe: "Recipe") -> bool:
    """Whether the negatives of a ``recipe`` depend on the text encoder."""
    return recipe.negatives.ground or recipe.negatives.source == "semantic"


def makes_backbone(recipe: "Recipe") -> bool:
    """Whether a ``recipe`` trains the backbone in the run: from scratch, or by adapting a given one."""
    return isinstance(recipe.backbone, Scratch) or recipe.backbone.adapt is not None


def _served(recipe: "Recipe") -> bool:
    return recipe.negatives.source == "self-play"


class Scratch(Section):
    """A small Llama made here: tokenizer from the catalog's titles, pre-trained on the training sequences."""

    kind: Literal["scratch"] = "scratch"
    seed: Seed = 0
    """Seed of weights and pre-training; separate from the run's, as the runs of a study share their backbone."""
    hidden: Annotated[int, Field(ge=16)] = 192
    """Width of the residual stream; a multiple of 16 x heads."""
    layers: Count = 4
    heads: Count = 3
    """Attention heads; hidden / heads must be even (rotary positions)."""
    vocabulary: Annotated[int, Field(ge=300)] = 3000
    """Size of the byte-level BPE."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on attention weights while training."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes of language modelling over the training and extra sequences."""
    samples: Count | None = None
    """Sequences used, drawn by seed; null takes all training and extra sequences."""
    lr: Rate = 1e-3
    """Learning rate of the pre-training; decays linearly to 0 after the warm-up."""
    batch: Count = 16
    """Sequences per optimiser step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100

    @model_validator(mode="after")
    def _heads_fit(self) -> "Scratch":
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden ({self.hidden}) must be an even multiple of heads ({self.heads})")
        return self


class Lora(Section):
    """Low-rank adapters, with the defaults of the authors' code."""

    r: Count = 16
    """Rank."""
    alpha: Count = 32
    """The adapters' product is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get an adapter; ["all-linear"] for models with other names."""


class Training(Section):
    """One pass of optimisation: AdamW, linear decay to 0 after the warm-up, gradient clipping at 1.0."""

    lr: Rate = 3e-4
    """Peak learning rate."""
    epochs: Count = 1
    batch: Count = 64
    """Prompt groups per optimiser step, independent of tokens_per_batch."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of linear warm-up; a stage with fewer steps warms up over half of them."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Adapt(Training):
    """Language modelling over whole sequences before the SFT: every title of a history is a target, not only the last.

    The sequences are those of the scratch backbone's pre-training, as lines of titles (prompt.style=compact).
    """

    seed: Seed = 0
    """Seed of order and adapters; separate from the run's, as the runs of a study share their backbone."""
    samples: Count | None = None
    """Sequences used, drawn by seed; null takes all training and extra sequences."""
    batch: Count = 16
    """Sequences per optimiser step."""


class HuggingFace(Section):
    """Any causal language model: from the Hugging Face hub, a local folder, or sprec backbone ls."""

    kind: Literal["huggingface"] = "huggingface"
    path: Annotated[str, Affects(Part.NOTHING)]
    """Hub name, folder, or smollm2-135m, which is fetched from the package index. Keys depend on its content."""
    revision: Annotated[str | None, Affects(Part.NOTHING)] = None
    """Commit of the hub repository; pin it for results that others can rebuild."""
    lora: Lora | None = Lora()
    """Adapters; null trains all parameters."""
    quantize: Annotated[Literal["nf4"] | None, Affects(Part.MODEL)] = None
    """4-bit base weights (QLoRA); needs a CUDA device and the extra sprec[qlora]."""
    adapt: Adapt | None = None
    """Adapt the model to the catalog's titles before the SFT; null skips it."""
    trust_remote_code: Annotated[bool, Affects(Part.NOTHING)] = False
    """Run code that comes with the model. Turn it on only after reading the code."""
    allow_pickle: Annotated[bool, Affects(Part.NOTHING)] = False
    """Accept weights that are pickles instead of safetensors."""

    @model_validator(mode="after")
    def _trainable(self) -> "HuggingFace":
        if self.quantize and not self.lora:
            raise ValueError("4-bit weights cannot be trained: keep backbone.lora, or drop backbone.quantize")
        return self


class Prompt(Section):
    """How examples become text."""

    style: Literal["unified", "official", "compact"] = "unified"
    """unified: one template for all stages; official: the research code, stage by stage; compact: titles only."""
    history: Annotated[Count, Affects(Part.MODEL | Part.SASREC)] = 10
    """Number of history items that the prompt shows, the most recent ones."""
    max_tokens: Annotated[int, Field(ge=16)] = 512
    """Maximum length of a prompt in tokens; a longer one loses its oldest items, never the response."""


class Sft(Training):
    """The supervised stage (BIGRec); keeps the epoch with the best validation loss."""

    samples: Count = 4096
    """Training examples used, drawn by seed when the dataset has more."""
    valid: Annotated[int, Field(ge=0)] = 512
    """Validation examples that choose the epoch (the first of the split); 0 keeps the last epoch."""
    epochs: Annotated[int, Field(ge=0)] = 4
    weights: Literal["none", "correct", "ifairlrs", "official", "equal"] = "none"
    """Weights of the samples by genre: the re-weighting RW (first half of IFairLRS); official: as in the research code
    of SPRec, which accumulates its counters and applies the weights to micro-batches of 4; equal: 1 each, RW's control
    (none averages over tokens, the others over samples)."""
    normalise: bool = False
    """Scale the weights to mean 1, so that they do not change the step size."""


class Loop(Section):
    """The iterations after the SFT."""

    iterations: Annotated[int, Field(ge=0)] = 5
    samples: Annotated[Count, Affects(Part.ROLLOUT | Part.SFT_STEP)] = 2048
    """Examples drawn afresh from the training split in each iteration."""
    sft_step: bool = True
    """Run an SFT step on the drawn examples before the preference step."""
    dpo_step: bool = True
    """Run the preference step; off is the ablation SPRec-noDPO."""


class Negatives(Section):
    """Where the rejected answers come from."""

    source: str = "self-play"
    """Their source: self-play (the model's own answers) or a row of the table of samplers."""
    count: Count = 1
    """Negatives per prompt: K of DMPO and SDPO, N of self-play."""
    decode: Literal["greedy", "sample", "beam"] = "greedy"
    """How self-play answers: greedily (official code), by sampling (the theory), or the best N of 2N beams."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature of negatives.decode=sample."""
    max_new_tokens: Answer | None = None
    """Maximum number of tokens of a generated negative; null: chosen as for recommend.max_new_tokens."""
    random_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the examples whose negatives are replaced by uniform items (Figure 5)."""
    drop_equal: Annotated[bool, Affects(Part.PREFER)] = False
    """Leave out pairs whose rejected answer is the target (the gradient is zero)."""
    ground: bool = False
    """Replace each generated negative by the nearest item of the catalog."""
    exclude_history: bool = True
    """Never draw items of the history as uniform or popular negatives."""
    least_similar: bool = False
    """Semantic negatives as in SPRec's research code: the least similar items of the catalog."""
    top: Count | None = None
    """Draw the semantic negatives from this many most similar items; null takes the most similar ones."""
    redraw_equal: bool = False
    """Self-hard negatives of RosePO: self-play answers that are the target are drawn again, by sampling."""


class Prefer(Training):
    """The preference step."""

    objective: str = "dpo"
    """The loss, a row of the table of objectives."""
    lr: Rate = 2e-5
    batch: Count = 32
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference."""
    reference: Literal["post-sft", "iteration-start"] = "post-sft"
    """The frozen reference model: after this iteration's SFT (official code) or before it (Eq. 7)."""
    reduction: Literal["mean", "sum"] = "mean"
    """DMPO over its negatives: the paper's mean or the research code's sum."""
    smoothing_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the oracle's smoothing, by which logit differences are divided."""
    robust: bool = False
    """Smooth in the unbiased form of rDPO (Chowdhury et al. 2024) instead of the conservative one."""


class Recommend(Section):
    """From the model to top-k items."""

    protocol: str = "paper"
    """How the model recommends, a row of the table of protocols."""
    encoder: Annotated[
        str,
        Field(pattern="^(lm|tfidf|sentence-transformers:.+)$"),
        Affects(Part.EVALUATE, afterwards=True),
        Affects(Part.ROLLOUT, when=encodes_negatives),
    ] = "lm"
    """Text encoder of the grounding: lm, tfidf, or sentence-transformers:NAME_OR_PATH."""
    top_k: Count = 5
    """Items per list."""
    max_new_tokens: Answer | None = None
    """Maximum number of tokens of a generated title; null: what the longest title needs, from 32 to 128."""
    exclude_history: bool = False
    """Never recommend an item of the history, nor another one with the same title."""
    samples: Count = 24
    """Samples per user of the consensus protocol."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature of the consensus protocol."""
    beams: Count = 10
    """Hypotheses that the exact, d3 and scores protocols read at once, per user; d3 keeps as many as
    items are looked for."""
    experts: tuple[Literal["lm", "knn", "sasrec"], ...] = ("lm", "knn")
    """scores: the recommenders whose probabilities are multiplied. The language model (lm) finds its ``beams`` best
    titles and scores as many of each other one's."""
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None
    """scores: the exponent of each expert; null: the multiples of a fifth that sum to 1 with the best NDCG@5 on the
    validation rows."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.8
    """d3: weight of the language model against the SASRec assistant."""
    tilt: bool = False
    """Correct the scores by one number per item, so that no item is shown too often and genres have the shares of the
    histories; for protocols with scores of the catalog."""
    caps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.03, 0.02, 0.01, 0.005, 0.0025)
    """Bounds of an item's exposure that are tried; the smallest that keeps 97% of the validation NDCG@5 counts."""
    candidates: Annotated[int, Field(ge=5)] = 200
    """Best items of each user that the tilt chooses from."""

    @model_validator(mode="after")
    def _weights_fit(self) -> "Recommend":
        if not self.experts or len(set(self.experts)) < len(self.experts):
            raise ValueError("experts names each of the recommenders once, and at least one")
        if self.weights is not None and (len(self.weights) != len(self.experts) or abs(sum(self.weights) - 1) > 1e-6):
            raise ValueError(f"weights has one number for each of {', '.join(self.experts)}, and they sum to 1")
        return self


class Sasrec(Section):
    """The sequential recommender that D3 and RosePO consult (Kang and McAuley, ICDM 2018)."""

    hidden: Count = 64
    """Width of the item embeddings."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    lr: Rate = 4e-3
    batch: Count = 1024
    loss: Literal["bce", "ce", "sampled-softmax"] = "bce"
    """bce: against one uniform negative, as the original; ce: over the whole catalog; sampled-softmax: an estimate of
    ce, in a fraction of its time."""
    negatives: Annotated[int, Field(ge=2)] = 1024
    """Items that a batch shares as negatives of sampled-softmax."""
    epochs: Count = 200
    """Maximum number of epochs."""
    patience: Count = 20
    """Epochs without a better validation NDCG before training stops."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Epochs in which the rate rises to lr; patience waits for their end."""
    augment: bool = True
    """Train on every item of a history, as the original does, not only on the target."""
    blocks: Count = 1
    """Attention blocks."""
    heads: Count = 1
    """Attention heads; must divide hidden."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5

    @model_validator(mode="after")
    def _heads_fit(self) -> "Sasrec":
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class Knn(Section):
    """Item kNN with recency: what followed the items of a history in other sequences, at once and without training."""

    decay: Rate = 0.7
    """Weight of an item of the history relative to the next newer one."""
    window: Count = 5
    """Items after an item that count as its neighbours."""
    popular: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of the probability that is distributed by popularity, so that every item has some."""


def _without_secrets(url: str) -> str:
    """Refuse passwords and keys in an address: recipes are stored and shared, and messages name it.

    Raises:
        ValueError: there is one; it is not repeated.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("an address without user, password and query: recipes are stored and shared")
    return url


class Server(Section):
    """A server with the OpenAI completions API that makes the rollouts: vLLM, SGLang, transformers serve."""

    url: Annotated[str, Field(pattern="^https?://."), AfterValidator(_without_secrets), Affects(Part.NOTHING)]
    """Its address, such as http://127.0.0.1:8000. The run directory must have the same path there."""
    concurrency: Annotated[Count, Affects(Part.NOTHING)] = 32
    """Concurrent requests of each process."""
    timeout: Annotated[float, Field(gt=0), Affects(Part.NOTHING)] = 600.0
    """Timeout of an answer in seconds, including the loading of weights."""


class Recipe(Section):
    """All settings of a run."""

    description: Annotated[str, Affects(Part.NOTHING)] = ""
    """The line for sprec recipes ls."""
    method: Annotated[MethodName, Affects(Part.PLAN)] = "sprec"
    """A row of the method table, whose settings override the recipe's."""
    seed: Annotated[Seed, Affects(~(Part.PLAN | Part.BACKBONE), afterwards=True, same_method=True)] = 0
    """Seed of everything but the scratch backbone: examples drawn, order, negatives, samples."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Affects(Part.NOTHING, afterwards=True)] = "auto"
    """auto: the GPU if there is one."""
    precision: Annotated[Literal["auto", "fp32", "bf16"], Affects(Part.MODEL, afterwards=True)] = "auto"
    """auto: bf16 autocast on GPUs and on CPUs that multiply bf16 matrices faster, fp32 elsewhere."""
    tokens_per_batch: Annotated[int, Field(ge=256), Affects(Part.NOTHING, afterwards=True)] = 8192
    """Maximum tokens in a forward pass, without the common beginning of the prompts; without gradients up to four times
    as many on CPUs and eight times on GPUs. Lower it if memory is short; results change only by rounding, and by
    dropout's masks."""
    recompute: Annotated[bool, Affects(Part.NOTHING)] = False
    """In training keep only matrix products in memory and recompute the rest: half the memory for 10% to 20% more time,
    with the same result."""
    backbone: Annotated[Scratch | HuggingFace, Field(discriminator="kind"), Affects(Part.BACKBONE)] = Scratch()
    prompt: Annotated[Prompt, Affects(Part.MODEL)] = Prompt()
    sft: Annotated[Sft, Affects(Part.SFT)] = Sft()
    loop: Annotated[Loop, Affects(Part.PLAN)] = Loop()
    sft_step: Annotated[Training, Affects(Part.SFT_STEP)] = Training(lr=2e-5)
    """The SFT step inside an iteration."""
    negatives: Annotated[Negatives, Affects(Part.ROLLOUT)] = Negatives()
    prefer: Annotated[Prefer, Affects(Part.PREFER)] = Prefer()
    recommend: Annotated[Recommend, Affects(Part.EVALUATE, afterwards=True)] = Recommend()
    server: Annotated[Server | None, Affects(Part.ROLLOUT, when=_served, same_method=True)] = None
    """Server for the self-play rollouts, greedy or sampled; null makes them in this process. It draws other samples;
    which server it was does not matter."""
    sasrec: Annotated[Sasrec, Affects(Part.SASREC, afterwards=True)] = Sasrec()
    knn: Annotated[Knn, Affects(Part.EVALUATE, afterwards=True)] = Knn()
    cases: Annotated[Count, Affects(Part.EVALUATE, afterwards=True)] = 1000
    """Number of cases evaluated, the first of the split (DivRatio depends on it)."""
    split: Annotated[Literal["test", "valid"], Affects(Part.EVALUATE, afterwards=True)] = "test"
    """Split to evaluate; choose hyper-parameters on valid."""
    evaluate: Annotated[Literal["stages", "last"], Affects(Part.PLAN, same_method=True)] = "stages"
    """Evaluate after every stage, or only the first and the last model."""
    baselines: Annotated[tuple[Literal["popularity", "knn"], ...], Affects(Part.PLAN, same_method=True)] = (
        "popularity",
        "knn",
    )
    """Recommenders without a model that stand beside every run, made in seconds: what it has to beat. [] leaves them
    out."""
    track: Annotated[tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...], Affects(Part.NOTHING)] = ()
    """Experiment trackers that receive the training logs."""
    checkpoint_steps: Annotated[Count, Affects(Part.NOTHING)] = 200
    """Optimiser steps between two checkpoints inside a training stage."""
    stop_below_exact_share: Annotated[float, Field(ge=0, le=1), Affects(Part.NOTHING)] = 0.0
    """Stop the run if the share of generated titles that exist falls below this."""

    @model_validator(mode="after")
    def _negatives_fit_source(self) -> "Recipe":
        negatives = self.negatives
        preferring = self.loop.iterations > 0 and self.loop.dpo_step
        if preferring and negatives.source == "self-play" and negatives.decode == "greedy" and negatives.count > 1:
            raise ValueError(
                f"negatives.decode=greedy gives one answer, not negatives.count={negatives.count}; take beam or sample"
            )
        if negatives.top is not None and (negatives.source != "semantic" or negatives.top < negatives.count):
            raise ValueError("negatives.top is for negatives.source=semantic, and no less than negatives.count")
        if negatives.redraw_equal and negatives.source != "self-play":
            raise ValueError("negatives.redraw_equal is for negatives.source=self-play; others never draw the target")
        return self

    @model_validator(mode="after")
    def _server_can_decode(self) -> "Recipe":
        if self.server and self.negatives.source == "self-play" and self.negatives.decode == "beam":
            raise ValueError("a server completes greedy and sampled; set negatives.decode=sample, or server=null")
        return self


require_declarations(Recipe)
