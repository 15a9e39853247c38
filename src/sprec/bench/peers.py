"""The peers' side: TRL's trainers, Hugging Face ``generate``, a double argsort.

As in :mod:`sprec.bench.engine`, each function prepares a part with the given ``work`` and returns one repetition of it.
TRL's trainers have the settings that its documentation recommends for speed: bf16, no gradient checkpointing,
precomputed reference log-probabilities, its fused LM head on answer tokens (always on), fused AdamW. TRL 1.16 has no
padding-free DPO, and its padding-free SFT needs FlashAttention: both run padded. They get the engine's steps, the rows
of a step in random order, in micro-batches of eight. If ``tuned`` they also have what the documentation does not
mention: eager attention on CPUs, which is faster in bf16, and the rows of a step sorted by length.
"""

import tempfile
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from sprec.bench.engine import BEAMS, NEAREST, catalog_tokens, embeddings, repeated
from sprec.bench.measure import Spent, Timed, seconds
from sprec.bench.work import BETA, LR, MICRO, NEW_TOKENS, Texts, Work
from sprec.engine.train.stage import plan
from sprec.system.hardware import pick_device, pick_precision

OFFICIAL_BATCH = 32
TUNED_BATCH = 128
Repetition = Callable[[], Timed]

disable_progress_bars()


def sft(work: Work, *, tuned: bool = False) -> Repetition:
    """TRL's SFTTrainer."""
    texts = work.texts()
    asked, right, _ = _sizes(work, texts)
    order = np.concatenate(_steps(work, asked + right, tuned))
    rows = [{"prompt": texts.prompts[i], "completion": texts.chosen[i]} for i in order]
    tokens = int((asked + right).sum())

    def repetition() -> Timed:
        with tempfile.TemporaryDirectory() as folder:
            config = SFTConfig(**_arguments(work, folder), max_length=None, completion_only_loss=True)
            trainer = SFTTrainer(
                model=_model(work, torch.float32, tuned), args=config, processing_class=_tokenizer(work),
                train_dataset=Dataset.from_list(rows),
            )  # fmt: skip
            taken, _ = seconds(trainer.train, trainer.args.device)
            return Timed(taken, tokens, _losses(trainer))

    return repetition


def _steps(work: Work, lengths: np.ndarray, tuned: bool) -> list[np.ndarray]:
    """The engine's steps: their rows as a shuffle leaves them, or sorted by length."""
    rng = np.random.default_rng(0)
    steps = plan(lengths.tolist(), work.batch, 1, 0)
    return steps if tuned else [rng.permutation(step) for step in steps]


class _TimedDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """Times the reference pass, which runs while the trainer is built, and never takes it from TRL's cache."""

    precomputing = Spent(0.0, 0.0)

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        self._precompute_model_hash = uuid.uuid4().hex
        self.precomputing, result = seconds(
            lambda: super(_TimedDPOTrainer, self)._precompute_ref_logps(*args, **kwargs), self.args.device
        )
        return result


def dpo(work: Work, *, tuned: bool = False) -> Repetition:
    """TRL's DPOTrainer; K negatives are K pairs, which an optimiser step accumulates."""
    texts = work.texts()
    asked, right, wrong = _sizes(work, texts)
    rows = _pairs(texts, _steps(work, asked + right + wrong.sum(1), tuned), work.negatives)
    tokens = int((2 * asked + right).sum() * work.negatives + wrong.sum())

    def repetition() -> Timed:
        with tempfile.TemporaryDirectory() as folder:
            config = DPOConfig(
                **_arguments(work, folder, work.negatives), max_length=None, beta=BETA, precompute_ref_log_probs=True
            )
            trainer = _TimedDPOTrainer(
                model=_model(work, torch.float32, tuned), args=config, processing_class=_tokenizer(work),
                train_dataset=Dataset.from_list(rows),
            )  # fmt: skip
            taken, _ = seconds(trainer.train, trainer.args.device)
            return Timed(_sum(taken, trainer.precomputing), tokens, _losses(trainer))

    return repetition


def _pairs(texts: Texts, steps: Sequence[np.ndarray], negatives: int) -> list[dict[str, str]]:
    return [
        {"prompt": texts.prompts[i], "chosen": texts.chosen[i], "rejected": texts.rejected[i][k]}
        for step in steps
        for k in range(negatives)
        for i in step
    ]


def _arguments(work: Work, folder: str, pairs: int = 1) -> dict[str, Any]:
    device, step = pick_device(work.device), min(work.batch, work.samples)
    micro = step if device.type == "cuda" else min(MICRO, step)
    return {
        "output_dir": folder, "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": step // micro * pairs,
        "learning_rate": LR, "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "num_train_epochs": 1, "optim": "adamw_torch_fused",
        "bf16": pick_precision("auto", device) is torch.bfloat16, "use_cpu": device.type == "cpu",
        "gradient_checkpointing": False, "train_sampling_strategy": "sequential", "save_strategy": "no",
        "report_to": "none", "logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def _sizes(work: Work, texts: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of prompts (n,), right answers (n,) and wrong ones (n, K), end tokens included."""
    tokenizer = _tokenizer(work)

    def sizes(lines: list[str], **options: bool) -> np.ndarray:
        return np.array([len(ids) for ids in tokenizer(lines, **options)["input_ids"]])

    wrong = [line for own in texts.rejected for line in own]
    answers = [sizes(lines, add_special_tokens=False) + 1 for lines in (texts.chosen, wrong)]
    return sizes(texts.prompts), answers[0], answers[1].reshape(len(texts.prompts), -1)


def _tokenizer(work: Work) -> Any:
    return AutoTokenizer.from_pretrained(work.model, padding_side="left")


def _model(work: Work, dtype: torch.dtype, tuned: bool) -> Any:
    device = pick_device(work.device)
    attention = "eager" if tuned and device.type == "cpu" else "sdpa"  # on CPUs eager is faster at these lengths
    model: Any = AutoModelForCausalLM.from_pretrained(work.model, dtype=dtype, attn_implementation=attention)
    return model.to(device)


def _sum(one: Spent, two: Spent) -> Spent:
    return Spent(one.wall + two.wall, one.cpu + two.cpu)


def _losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def rollout_official(work: Work) -> Repetition:
    """``generate`` as the research code calls it: fixed batches in file order, up to 128 new tokens."""
    return _rollout(work, OFFICIAL_BATCH, 128, tuned=False)


def rollout_tuned(work: Work) -> Repetition:
    """``generate`` with prompts of similar length together, larger batches, and a fitting limit."""
    return _rollout(work, TUNED_BATCH, NEW_TOKENS, tuned=True)


def _rollout(work: Work, size: int, limit: int, tuned: bool) -> Repetition:
    model, tokenizer, texts = _inference_model(work, tuned), _tokenizer(work), work.texts()
    lengths = [len(ids) for ids in tokenizer(texts.prompts)["input_ids"]]
    order = np.argsort([-length for length in lengths], kind="stable") if tuned else np.arange(len(lengths))

    def answer() -> list[str]:
        found = [""] * len(order)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            inputs = tokenizer([texts.prompts[i] for i in rows], return_tensors="pt", padding=True).to(model.device)
            inputs.pop("token_type_ids", None)
            with torch.no_grad():
                output = model.generate(**inputs, max_new_tokens=limit, num_beams=1, do_sample=False)
            answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, text in zip(rows, answers, strict=True):
                found[row] = text
        return found

    def repetition() -> Timed:
        taken, found = seconds(answer, model.device)
        return Timed(taken, sum(lengths), found=found)

    return repetition


def _inference_model(work: Work, tuned: bool) -> Any:
    return _model(work, pick_precision("auto", pick_device(work.device)), tuned).eval()


def beam(work: Work) -> Repetition:
    """Beam search with ``prefix_allowed_tokens_fn`` over a dictionary of prefixes."""
    model, tokenizer, texts = _inference_model(work, tuned=True), _tokenizer(work), work.texts()
    answers = catalog_tokens(work, work.policy().encode_completions)
    children: dict[tuple[int, ...], set[int]] = {}
    for answer in answers:
        for depth, token in enumerate(answer):
            children.setdefault(tuple(answer[:depth]), set()).add(token)
    allowed = {prefix: sorted(tokens) for prefix, tokens in children.items()}
    deepest = max(map(len, answers))

    def search(rows: list[str]) -> list[float]:
        inputs = tokenizer(rows, return_tensors="pt", padding=True).to(model.device)
        inputs.pop("token_type_ids", None)
        width = inputs["input_ids"].shape[1]
        with torch.no_grad():
            output = model.generate(
                **inputs, max_new_tokens=deepest, num_beams=BEAMS, num_return_sequences=BEAMS, do_sample=False,
                length_penalty=0.0, early_stopping=False, return_dict_in_generate=True, output_scores=True,
                prefix_allowed_tokens_fn=lambda _, ids: (
                    allowed.get(tuple(ids[width:].tolist()), [tokenizer.eos_token_id])
                ),
            )  # fmt: skip
        best: list[float] = output.sequences_scores.view(len(rows), BEAMS)[:, 0].tolist()
        return best

    def repetition() -> Timed:
        batches = [texts.prompts[start : start + 16] for start in range(0, len(texts.prompts), 16)]
        taken, found = seconds(lambda: [score for rows in batches for score in search(rows)], model.device)
        return Timed(taken, 0, found=found)

    return repetition


def grounding(work: Work) -> Repetition:
    """All distances, and the ranks of all items by sorting twice, as in the research code."""
    return _grounding(*embeddings(work.samples))


def grounding_repeated(work: Work) -> Repetition:
    """The same for answers most of which occur several times: the research code ranks each one."""
    which = repeated(work.samples)
    queries, rows = embeddings(int(which.max()) + 1)
    return _grounding(queries[which], rows)


def _grounding(queries: torch.Tensor, rows: torch.Tensor) -> Repetition:
    samples = len(queries)

    def rank() -> torch.Tensor:
        ranks = torch.cdist(queries, rows).argsort(dim=-1).argsort(dim=-1)
        return torch.topk(ranks, NEAREST, dim=-1, largest=False).indices

    def repetition() -> Timed:
        taken, found = seconds(rank, queries.device)
        return Timed(taken, samples, found=found[:, 0].tolist())

    return repetition


def evaluate(work: Work) -> Repetition:
    """The evaluation as a process of its own: official generation, then grounding."""
    answers, grounded = rollout_official(work), grounding(work)

    def repetition() -> Timed:
        first, second = answers(), grounded()
        return Timed(_sum(first.spent, second.spent), first.tokens)

    return repetition
