"""The cost model against what small runs cost: tokens, operations and bytes are counted, not believed."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from sprec.config import Lora, Scratch, Training
from sprec.data import Dataset
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.policy import Policy, adapt, scratch
from sprec.engine.train.checkpoint import Checkpoints
from sprec.engine.train.scoring import score
from sprec.engine.train.stage import Objective, train
from sprec.methods import objectives
from sprec.runs import run
from sprec.runs.examples import sft_groups
from sprec.runs.recipes import resolve
from sprec.runs.recommender import open_run
from sprec.runs.store import Stage
from sprec.study.cost import LLAMA_1B, LLAMA_8B, Cost, Lengths, Model, Shape, run_cost, table
from toy_runs import toy_changes

PROMPT, COMPLETION = 40, 8
FILLED = 63  # the tokens of a batch are filled up to a multiple of 64
CPU = torch.device("cpu")
SIZES = Scratch(hidden=192, layers=3, heads=3, vocabulary=400)
SFT = Objective(lambda policy, _: objectives.sft(policy), per_token=True)


def made(rank: int = 0) -> tuple[Policy, Model]:
    policy = scratch(SIZES, ["a title"] * 9, 0, CPU, torch.float32)
    if rank:
        policy.model = adapt(policy.model, Lora(r=rank, dropout=0.0))
    return policy, Model(Shape.of(policy.model.config, rank), Lengths(PROMPT, COMPLETION), padded=True)


def groups(count: int, completions: int) -> list[PromptGroup]:
    rng = np.random.default_rng(0)

    def drawn(size: int) -> list[int]:
        tokens: list[int] = rng.integers(3, 250, size).tolist()
        return tokens

    return [PromptGroup(drawn(PROMPT), tuple(drawn(COMPLETION) for _ in range(completions))) for _ in range(count)]


@contextmanager
def counted() -> Iterator[Callable[[], float]]:
    counter = FlopCounterMode(display=False)
    with counter:
        yield counter.get_total_flops


@contextmanager
def read() -> Iterator[Callable[[], int]]:
    """Counts the tokens that models read: those that pass an embedding."""
    numbers: list[int] = []

    def note(part: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if isinstance(part, torch.nn.Embedding):
            numbers.append(inputs[0].numel())

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield lambda: sum(numbers)
    handle.remove()


def timed(work: Callable[[], object]) -> float:
    """The shortest of three times, in seconds of the process: other programs do not count."""
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def test_shapes_are_those_of_the_models() -> None:
    one = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip
    eight = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False,
    )  # fmt: skip
    assert Shape.of(one, 16) == LLAMA_1B
    assert Shape.of(eight, 16) == LLAMA_8B
    assert LLAMA_1B.parameters == pytest.approx(1.236e9, rel=1e-3)  # the published sizes
    assert LLAMA_8B.parameters == pytest.approx(8.03e9, rel=1e-3)


def test_parameters_are_counted_right() -> None:
    policy, model = made(4)
    trainable = sum(value.numel() for _, value in policy.trainable())
    assert model.shape.adapters == trainable
    plain, whole = made()
    norms = sum(value.numel() for name, value in plain.model.named_parameters() if "norm" in name)
    assert whole.shape.parameters == plain.model.num_parameters() - norms


@pytest.mark.parametrize("completions", [1, 2, 6])
@pytest.mark.parametrize("rank", [0, 4])
def test_operations_of_training(completions: int, rank: int) -> None:
    policy, model = made(rank)
    examples = groups(32, completions)
    with counted() as flops, read() as tokens:
        train(policy, examples, SFT, Training(batch=32), seed=0)
    assert model.training(32, completions).flops == pytest.approx(flops(), rel=0.06)
    assert model.training(32, completions).tokens == pytest.approx(tokens(), abs=FILLED)


@pytest.mark.parametrize("completions", [1, 6])
def test_operations_of_scoring(completions: int) -> None:
    policy, model = made()
    with counted() as flops, read() as tokens:
        score(policy, groups(32, completions))
    assert model.scoring(32, completions).flops == pytest.approx(flops(), rel=0.06)
    assert model.scoring(32, completions).tokens == pytest.approx(tokens(), abs=FILLED)


def test_operations_of_generating() -> None:
    policy, model = made()
    prompts = [group.prompt for group in groups(8, 1)]
    decoding = Decoding(max_new_tokens=COMPLETION)
    with counted() as flops, read() as tokens:
        found = generate(policy, prompts, decoding)
    assert np.mean([len(one.tokens) for (one,) in found]) > COMPLETION - 1.5, "random models do not end"
    assert model.generating(8).flops == pytest.approx(flops(), rel=0.15)
    assert model.generating(8).tokens == pytest.approx(tokens() + 8, abs=8)  # the last tokens are not read


def test_bytes_of_a_checkpoint(tmp_path: Path) -> None:
    policy, model = made(4)
    train(policy, groups(8, 1), SFT, Training(batch=4), seed=0, checkpoints=Checkpoints(tmp_path, 1))
    (folder,) = tmp_path.iterdir()
    size = (folder / "state.safetensors").stat().st_size
    assert model.checkpoint_bytes() == pytest.approx(size, rel=0.2)  # names of tensors count at this size


def test_tokens_of_a_run_and_what_it_grows_with() -> None:
    recipe = resolve("llama-3.2-1b", ["negatives.count=1", "loop.iterations=2", "cases=100"])
    model = Model(LLAMA_1B, Lengths(200, 15))
    # the last token of a completion is generated but not read: 214 and 228 in training and scoring
    sft, evaluations = recipe.sft.epochs * 1000 * 214, 5 * 100 * 215
    iterations = 2 * 1000 * (215 + 214 + 228 + 228)
    assert run_cost(model, recipe, 1000).tokens == sft + evaluations + iterations
    small, large = (run_cost(model, recipe.model_copy(update={"cases": 1}), samples) for samples in (1e6, 2e6))
    assert large.flops == pytest.approx(2 * small.flops, rel=1e-3)


def test_a_run_costs_what_was_computed(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    """All stages behind the backbone, validation and evaluations included: counted and weighed."""
    changes = [*toy_changes()[1::2], "negatives.max_new_tokens=8", "recommend.max_new_tokens=8"]
    out, recipe = tmp_path / "run", resolve("demo", changes)
    shutil.copytree(toy_run, out)
    for folder in out.glob("stages/*"):
        if not folder.name.endswith("backbone"):
            shutil.rmtree(folder)
    with counted() as flops, read() as tokens:
        run(recipe, Dataset.load(toy_data), out, overwrite=True)
    session = open_run(out)
    policy, builder = session.policy(Stage(out, "model")), session.builder
    examples = sft_groups(policy, builder, session.dataset.train, recipe.prompt.max_tokens)
    prompt = np.mean([len(group.prompt) for group in examples])
    completion = np.mean([len(group.completions[0]) for group in examples])
    tokenizer = sum(file.stat().st_size for file in (out / "model").glob("tokenizer*"))
    shape, lengths = Shape.of(policy.model.config), Lengths(float(prompt), float(completion))
    drawn = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"samples": len(examples)})})
    cost = run_cost(Model(shape, lengths, padded=True, tokenizer=tokenizer), drawn)
    written = [file for file in out.glob("stages/0[1-9]*/**/*") if file.suffix in (".safetensors", ".jsonl")]
    written += list(out.glob("stages/0[1-9]*/model/tokenizer*"))
    assert cost.bytes == pytest.approx(sum(file.stat().st_size for file in written), rel=0.1)
    assert cost.tokens == pytest.approx(tokens(), rel=0.1)
    assert 0.65 < cost.flops / flops() < 1.05  # with prompts of 43 tokens, a third of what is computed is padding


def test_hours_are_those_of_the_clock_at_some_share_of_the_rate_of_a_product() -> None:
    policy, model = made()
    examples, square = groups(96, 2), torch.ones(1024, 1024)
    product = timed(lambda: square @ square)
    train(policy, examples[:8], SFT, Training(batch=8), seed=0)  # warms up
    took = timed(lambda: train(policy, examples, SFT, Training(batch=32), seed=0))
    computed = model.training(96, 2).hours(2 * 1024**3 / product, utilisation=1.0) * 3600
    assert 0.05 < computed / took < 1.0


def test_the_papers_iteration_costs_what_was_computed_by_hand() -> None:
    """2,048 rollouts, SFT and preference pairs on a 1B model: 5.45 PFLOP, 5.5 s of one H200."""
    model = Model(LLAMA_1B, Lengths(200, 15))
    total = model.generating(2048) + model.training(2048) + model.scoring(2048, 2) + model.training(2048, 2)
    assert total.flops == pytest.approx(5.45e15, rel=0.06)
    assert total.hours(989e12, utilisation=1.0) * 3600 == pytest.approx(5.5, rel=0.06)


def test_the_table_has_all_sizes() -> None:
    rows = [row.split(" | ") for row in table(resolve("llama-3.2-1b")).splitlines()[2:]]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [
        (name, size) for name in ("1B", "8B") for size in ("10,000", "1,000,000", "100,000,000")
    ]


def test_costs_add() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)
    assert Cost(flops=3600e12).hours(1e12, devices=2, utilisation=0.5) == 1.0


def test_only_self_play_that_is_used_generates_negatives() -> None:
    model = Model(LLAMA_1B, Lengths(prompt=200, completion=15))
    costs = {name: run_cost(model, resolve("llama-3.2-1b", [f"method={name}"])).flops for name in ("sprec", "sprec-rn")}
    rollouts = 5 * model.generating(2048).flops
    assert costs["sprec"] - costs["sprec-rn"] == pytest.approx(rollouts, rel=1e-9)
    with_dpo = 5 * (model.scoring(2048, 2).flops + model.training(2048, 2).flops + model.generating(1000).flops)
    without = run_cost(model, resolve("llama-3.2-1b", ["method=sprec-nodpo"])).flops
    assert costs["sprec"] - without == pytest.approx(rollouts + with_dpo, rel=1e-9)
