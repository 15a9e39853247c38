"""A causal language model with its tokenizer, device and precision: one in Hugging Face format, or from scratch."""

import contextlib
import copy
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sprec.config import HuggingFace, Lora, Scratch
from sprec.engine.layout.attention import attends, implementation, packs, window
from sprec.engine.layout.groups import round_up, token_budget_batches
from sprec.engine.model.backbones import located
from sprec.engine.model.foreign import refuse_kernels, require_adapters, require_sizes, require_weights
from sprec.engine.model.identity import commit
from sprec.engine.model.sharding import placed_like, sharded, whole
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.memory import Pieces, free, out_of_memory
from sprec.system.progress import bar, say

CausalLM: TypeAlias = PreTrainedModel | PeftModel
_TEXTS = 4096  # tokenised in one call, which holds about 2.5 KiB per title (offsets, token strings) until it returns


@dataclass
class Policy:
    """The model that recommends.

    Attributes:
        model: a plain or adapted causal LM; its parameters change in training.
        tokenizer: of the model.
        precision: of the forward passes.
        quantized: whether the base weights are 4-bit.
    """

    model: CausalLM
    tokenizer: PreTrainedTokenizerBase
    precision: torch.dtype
    quantized: bool = False

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.model.parameters()).device

    @property
    def context(self) -> int:
        """Maximum tokens of a prompt and its answer: the model's positions, and the window of its layers.

        Within the window sliding attention is full attention, as the layouts of batches assume. It is unlimited for
        architectures that give no number.
        """
        config: Any = self.model.config.get_text_config()
        return min(getattr(config, "max_position_embeddings", None) or sys.maxsize, window(config) or sys.maxsize)

    @property
    def head(self) -> torch.nn.Module:
        """The layer that turns hidden states into logits."""
        return cast("torch.nn.Module", self.model.get_output_embeddings())

    @property
    def packed(self) -> bool:
        """Whether its prompt groups are packed into one row (FlexAttention, on GPUs) instead of padded."""
        return packs(self.model, self.precision)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context that sets the precision of a forward pass."""
        if self.precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off inside the block."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @contextlib.contextmanager
    def inference(self) -> Iterator[CausalLM]:
        """The model for generation: its weights in the policy's precision, adapters merged.

        fp32 weights are copied to bf16 once instead of at every step; with fp32 precision, or without memory for a
        copy, it is the model itself.
        """
        plain = self.precision is torch.float32 or self.quantized
        yield self.model if plain else self._copy() or self.model

    def _copy(self) -> CausalLM | None:
        try:
            model = copy.deepcopy(self.model)
            if isinstance(model, PeftModel):
                model = cast("CausalLM", model.merge_and_unload())
            for value in model.parameters():  # not the buffers: rotary frequencies must stay exact
                value.data = value.data.to(self.precision)
            return model
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        say("! no room for a copy of the model to generate with: going on without one, slower")
        free()
        return None

    @cached_property
    def end(self) -> int:
        """The token that ends a completion.

        Raises:
            UserError: the tokenizer has none.
        """
        if not isinstance(self.tokenizer.eos_token_id, int):
            raise UserError(f"the tokenizer of {self.tokenizer.name_or_path or 'the model'} has no EOS token")
        return self.tokenizer.eos_token_id

    @property
    def _start(self) -> int:
        start = self.tokenizer.bos_token_id
        return start if isinstance(start, int) else self.end

    @cached_property
    def tokenizer_content(self) -> str:
        """A hash of all that token ids depend on beside the text."""
        self._encode([""], special=True)  # sets options, which are part of it
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = fast.to_str() if fast else [type(self.tokenizer).__name__, sorted(self.tokenizer.get_vocab().items())]
        made = {name: storage.versions()[name] for name in ("tokenizers", "transformers")}
        return storage.digest([rules, self.end, self.tokenizer.bos_token_id, made])

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the prompts ``texts``, with the BOS token if the tokenizer adds one; never empty.

        Text that looks like a special token (a title with ``</s>``) is ordinary text, here and in completions.
        """
        return [_without(ids, self.end) or [self._start] for ids in self._encode(texts, special=True)]

    def encode_completions(self, texts: Sequence[str], *, end: bool = True) -> list[list[int]]:
        """Token ids of the responses ``texts``, followed by the end token unless ``end`` is False."""
        return [ids + [self.end] * end for ids in self._encode(texts, special=False)]

    def _encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        encoded: list[list[int]] = []
        options = {"add_special_tokens": special, "split_special_tokens": True, "return_attention_mask": False}
        for start in range(0, len(texts), _TEXTS):
            encoded += self.tokenizer(list(texts[start : start + _TEXTS]), **options)["input_ids"]
        return encoded

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The texts of generated ``tokens``."""
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        rows = [list(ids) for ids in tokens]
        return (
            [str(text) for text in self.tokenizer.batch_decode(rows, **plain)] if rows else []
        )  # it would return one text for no rows

    @torch.no_grad()
    def embed(self, texts: Sequence[str], budget: int = 16384) -> Tensor:
        """Last-layer hidden state at the last token of each text, (n, hidden) float32 on the CPU (BIGRec's grounding).

        Adapters are off: these are the base model's.

        Args:
            texts: n of them.
            budget: tokens read at once, including padding; fewer if they do not fit in memory.
        """
        encoded = self.encode_prompts(texts)
        output = torch.empty(len(encoded), self.model.config.get_text_config().hidden_size)
        work = Pieces(lambda rows: list(self._last_states([encoded[row] for row in rows])), "embedding titles")
        with self.evaluating(), bar("embed titles", len(encoded)) as progress:
            for rows in token_budget_batches(map(len, encoded), budget):
                output[rows] = torch.stack(work(rows))
                progress.advance(len(rows))
        return output

    def _last_states(self, batch: Sequence[Sequence[int]]) -> Tensor:
        width = round_up(max(map(len, batch)))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=self.device)
        last = torch.tensor([len(row) - 1 for row in batch], device=self.device)
        model: Any = self.model
        adapted = isinstance(model, PeftModel)
        base = model.get_base_model() if adapted else model
        with self.autocast(), model.disable_adapter() if adapted else contextlib.nullcontext():
            # right padding needs no mask: a causal model does not see it
            states = base.base_model(input_ids=ids, use_cache=False).last_hidden_state
        picked: Tensor = states[torch.arange(len(batch)), last].float().cpu()
        return picked

    def save(self, folder: Path) -> None:
        """Write model (or adapters) and tokenizer to a ``folder`` in Hugging Face format, safetensors only.

        All processes must call it; the first one writes.
        """
        shards = self.model.state_dict() if sharded(self.model) else {}
        state = {name: whole(value) for name, value in shards.items()} or None
        if processes.first():
            self.model.save_pretrained(folder, state_dict=state)
            self.tokenizer.save_pretrained(folder)

    def trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Names and values of the parameters that training changes."""
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    def state(self) -> dict[str, Tensor]:
        """A copy of the trainable parameters, whole and on the CPU; all processes must call it."""
        return {name: whole(value) for name, value in self.trainable()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the parameters from a ``state`` of :meth:`state`."""
        for name, value in self.trainable():
            value.copy_(placed_like(state[name], value))


def _without(ids: list[int], end: int) -> list[int]:
    """Token ids without a final EOS, which some tokenizers add to every text: a prompt continues."""
    return ids[:-1] if ids[-1:] == [end] else ids


def scratch(
    settings: Scratch,
    texts: Iterable[str],
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    *,
    across_words: bool = True,
) -> Policy:
    """Make a small Llama with random weights and a byte-level BPE learned from ``texts``.

    Args:
        settings: sizes of model and vocabulary.
        texts: training data of the tokenizer.
        seed: of the weights.
        device: of the model.
        precision: of the forward passes.
        across_words: let tokens contain spaces, which makes the sequences of a small catalog much shorter; if False,
            tokens are parts of words, as in large models.
    """
    tokenizer = _train_tokenizer(texts, settings.vocabulary, across_words)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=8 * settings.hidden // 3 // 16 * 16,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        attention_dropout=settings.dropout,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = implementation(device)
    model = LlamaForCausalLM(config)
    return Policy(_moved(model, device), tokenizer, precision)


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    torch.nn.Module.to(model, device)  # transformers' wrapper has no types
    return model


def _train_tokenizer(texts: Iterable[str], vocabulary: int, across_words: bool) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    apart = re.compile("|".join(special))  # if learned from a title, their text would become the special token
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((apart.sub(" ", text) for text in texts), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def load_huggingface(settings: HuggingFace, device: torch.device, precision: torch.dtype) -> Policy:
    """Load a model from the hub or a folder, with fresh adapters if the settings ask for them.

    Args:
        settings: which model, and its adapters.
        device: of the model.
        precision: of the forward passes.

    Raises:
        UserError: the model or its tokenizer cannot be loaded; names its location.
    """
    policy = _load(settings.path, settings, device, precision)
    if settings.lora:
        policy.model = adapt(policy.model, settings.lora)
    return policy


def load_saved(folder: Path, settings: Scratch | HuggingFace, device: torch.device, precision: torch.dtype) -> Policy:
    """Load what :meth:`Policy.save` wrote: a whole model, or adapters for the base that the settings name.

    Args:
        folder: of the model or adapters.
        settings: of the backbone.
        device: of the model.
        precision: of the forward passes.

    Raises:
        UserError: it cannot be loaded.
    """
    if isinstance(settings, Scratch) or settings.lora is None:
        trust = isinstance(settings, HuggingFace) and settings.trust_remote_code
        whole = HuggingFace(path=str(folder), lora=None, trust_remote_code=trust)
        return _load(str(folder), whole, device, precision)
    if not (folder / "adapter_model.safetensors").is_file():  # peft would load a pickle instead
        raise UserError(f"{folder} has no adapter_model.safetensors; run the stage again")
    policy = _load(settings.path, settings, device, precision)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing adapters are reported below, in one line
            policy.model = PeftModel.from_pretrained(policy.model, str(folder), is_trainable=True)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        SafetensorError,
    ) as error:  # wrong shapes or configurations
        raise UserError(f"no adapters could be loaded from {folder}: {_first_line(error)}") from error
    require_adapters(folder / "adapter_model.safetensors", get_peft_model_state_dict(policy.model))
    return policy


def _load(path: str, settings: HuggingFace, device: torch.device, precision: torch.dtype) -> Policy:
    path = located(path)
    source = {"revision": commit(path, settings.revision), "trust_remote_code": settings.trust_remote_code}
    refuse_kernels(path, settings.revision)
    try:
        require_sizes(Path(path))
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
    except UserError:
        raise
    except Exception as error:  # damaged or absurd files raise all kinds of exceptions
        raise _refused("tokenizer", path, error) from error
    for key in ("is_local", "local_files_only"):  # options of loading that must not be saved
        tokenizer.init_kwargs.pop(key, None)
    # frozen weights may be bf16; trained ones stay fp32 under autocast, or small updates would be lost
    dtype = precision if settings.lora else torch.float32
    options: dict[str, Any] = source | {"dtype": dtype, "attn_implementation": implementation(device)}
    if not settings.allow_pickle:
        options["use_safetensors"] = True
    if settings.quantize:
        options["quantization_config"] = _nf4(device)
    # weights of another shape are reported by name below
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded: Any = AutoModelForCausalLM
    try:
        model, report = loaded.from_pretrained(path, **options)
    except Exception as error:
        if options["attn_implementation"] in str(error):  # looked up among the architecture's own
            raise UserError(_unsupported(path)) from error
        raise _refused("causal language model", path, error) from error
    require_weights(path, report)
    if not attends(model):
        raise UserError(_unsupported(path))
    if not settings.quantize:
        _moved(model, device)
    return Policy(model, tokenizer, precision, quantized=settings.quantize is not None)


def _refused(what: str, path: str, error: Exception) -> UserError:
    """The error for something that could not be loaded."""
    if "trust_remote_code" in str(error):
        return UserError(
            f"{path} brings code of its own; read it, and if you trust it, pass --set backbone.trust_remote_code=true"
        )
    return UserError(f"no {what} could be loaded from {path}: {_first_line(error)}")


def _unsupported(path: str) -> str:
    return (
        f"not all layers of {path} compute attention in the way that transformers lets others replace (recurrent or "
        "convolutional layers, attention of their own); take another backbone, such as a Llama, Qwen, Gemma or GPT-2"
    )


def _first_line(error: Exception) -> str:
    """The first line of a library's message, with the next one if the first ends in a colon."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join([first, *others[: first.rstrip().endswith(":")]])


def _nf4(device: torch.device) -> BitsAndBytesConfig:
    if device.type != "cuda":
        raise UserError("backbone.quantize=nf4 needs a CUDA device; drop it or run on a GPU")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError("backbone.quantize=nf4 needs bitsandbytes: pip install 'sprec[qlora]'") from error
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def adapt(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """Wrap a ``model`` in fresh low-rank adapters with the settings ``lora``.

    Raises:
        UserError: none of the target layers exists in this architecture.
    """
    targets: str | list[str] = "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"the model has none of the layers {', '.join(lora.targets)}; set 'backbone.lora.targets=[all-linear]'"
        ) from error
