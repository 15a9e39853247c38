"""Training equals its peer and plain loops; budgets, batches and failures behave as promised."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scoring import load, ragged_groups
from torch import Tensor

from sprec.config import Lora, Training
from sprec.engine.layout.groups import GroupBatch, PromptGroup
from sprec.engine.model.policy import Policy, adapt
from sprec.engine.train.scoring import score
from sprec.engine.train.stage import Objective, plan, token_loss, train
from sprec.engine.train.trainer import rate_factor
from sprec.methods import objectives
from sprec.system.errors import UserError

SFT = Objective(lambda policy, _: objectives.sft(policy), per_token=True)


def dpo(policy: Tensor, batch: GroupBatch) -> Tensor:
    return objectives.dpo(policy, batch.extra["reference"], batch.mask, beta=0.1)


def pairs(seed: int, count: int) -> list[PromptGroup]:
    groups = ragged_groups(seed, 3 * count, 2)
    return [group for group in groups if len(group.completions) == 2][:count]


def reference_of(policy: Policy, groups: list[PromptGroup]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(score(policy, groups), batch_first=True)


def test_dpo_loss_equals_trl(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    policy, reference = load(checkpoint("llama")), load(checkpoint("llama"))
    with torch.no_grad():
        for parameter in reference.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy.model.set_attn_implementation("eager")
    reference.model.set_attn_implementation("eager")
    texts = [
        {"prompt": f"user {i} read: ", "chosen": f'"Title {i * 7}"', "rejected": f'"A longer title, {i}"'}
        for i in range(6)
    ]
    config = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=6, beta=0.1, bf16=False, use_cpu=True, report_to="none",
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=policy.model, ref_model=reference.model, args=config, processing_class=policy.tokenizer,
        train_dataset=datasets.Dataset.from_list(texts),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(policy.model, batch).item()

    ids, tail = batch["input_ids"].tolist(), batch["completion_mask"].bool().tolist()
    seen = batch["attention_mask"].bool().tolist()
    rows = [
        ([t for t, m, s in zip(i, c, a, strict=True) if s and not m], [t for t, m in zip(i, c, strict=True) if m])
        for i, c, a in zip(ids, tail, seen, strict=True)
    ]
    groups = [PromptGroup(rows[i][0], (rows[i][1], rows[i + 6][1])) for i in range(6)]
    assert all(rows[i][0] == rows[i + 6][0] for i in range(6))
    ours, base = load(checkpoint("llama")), load(checkpoint("llama"))
    base.model.load_state_dict(reference.model.state_dict())
    log_probs, before = reference_of(ours, groups), reference_of(base, groups)
    mine = objectives.dpo(log_probs, before, torch.ones(6, 2, dtype=torch.bool), beta=0.1).mean().item()
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert abs(mine - np.log(2)) > 1e-3  # the models differ, the loss is not its trivial value


def test_first_dpo_loss_is_ln_2_and_training_lowers_it(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("qwen"))
    groups = pairs(0, 16)
    settings = Training(lr=1e-2, epochs=6, batch=8, warmup_steps=0)
    outcome = train(policy, groups, Objective(dpo), settings, seed=0, extra={"reference": reference_of(policy, groups)})
    assert outcome.steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert outcome.steps[-1]["loss"] < 0.5
    assert outcome.steps[-1]["chosen"] > outcome.steps[-1]["rejected"]


def test_the_token_budget_does_not_change_the_result(checkpoint: Callable[[str], Path]) -> None:
    losses, states = [], []
    for budget in (64, 100_000):
        policy = load(checkpoint("llama"))
        groups = ragged_groups(4, 24, 1)
        outcome = train(policy, groups, SFT, Training(lr=1e-3, epochs=2, batch=8), seed=3, budget=budget)
        losses.append([step["loss"] for step in outcome.steps])
        states.append(policy.state())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-4), name


def test_sft_step_equals_a_plain_loop(checkpoint: Callable[[str], Path]) -> None:
    groups = ragged_groups(5, 8, 1)
    policy, plain = load(checkpoint("gpt2")), load(checkpoint("gpt2"))
    for part in (policy.model, plain.model):
        for module in part.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    outcome = train(policy, groups, SFT, Training(lr=1e-3, epochs=3, batch=8, warmup_steps=0), seed=0)
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=1e-3, weight_decay=0.0)
    tokens = sum(len(group.completions[0]) for group in groups)
    plain.model.train()
    for step in range(3):
        loss = torch.zeros(())
        for group in groups:
            ids = torch.tensor([[*group.prompt, *group.completions[0]]])
            labels = ids.clone()
            labels[:, : len(group.prompt)] = -100
            loss = loss + plain.model(input_ids=ids, labels=labels).loss * len(group.completions[0]) / tokens
        assert outcome.steps[step]["loss"] == pytest.approx(loss.item(), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
        for options in optimizer.param_groups:
            options["lr"] = 1e-3 * (3 - step) / 3
        optimizer.step()


def test_the_rate_of_every_step_by_hand() -> None:
    """The paper's SFT step: 32 steps of which 20 warm up. Then a stage shorter than that, and one without warm-up."""
    long = [rate_factor(step, 32, 20) for step in range(33)]
    assert long == pytest.approx([(step + 1) / 21 for step in range(20)] + [(32 - step) / 12 for step in range(20, 33)])
    assert [rate_factor(step, 4, 20) for step in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0])
    assert [rate_factor(step, 4, 0) for step in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert rate_factor(0, 1, 20) == 1


def test_validation_keeps_the_best_epoch(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"))
    groups, valid = ragged_groups(6, 16, 1), ragged_groups(7, 16, 1)
    outcome = train(policy, groups, SFT, Training(lr=3e-2, epochs=5, batch=4), seed=0, valid=valid)
    assert outcome.best_epoch == int(np.argmin(outcome.valid_loss))
    assert outcome.best_epoch < 4, "the rate is high enough to overfit"
    assert token_loss(policy, valid) == pytest.approx(min(outcome.valid_loss), abs=1e-5)


def test_adapters_train_and_the_base_stays(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("qwen"))
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    policy.model = adapt(policy.model, Lora(r=4, dropout=0.0))
    groups = ragged_groups(8, 8, 1)
    start = token_loss(policy, groups)
    train(policy, groups, SFT, Training(lr=1e-2, epochs=5, batch=8), seed=0)
    assert token_loss(policy, groups) < start - 0.1
    after = policy.model.get_base_model().state_dict()
    for name, value in before.items():
        assert torch.equal(value, after.get(name, after.get(name.replace(".weight", ".base_layer.weight"))))


def test_merged_adapters_generate_like_unmerged_ones(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"), torch.bfloat16)
    policy.model = adapt(policy.model, Lora(r=4, dropout=0.0))
    train(policy, ragged_groups(9, 8, 1), SFT, Training(lr=1e-2, epochs=3, batch=8), seed=0)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), policy.evaluating(), policy.inference() as merged:
        fast = merged(input_ids=ids).logits.float()
        slow = policy.model.float()(input_ids=ids).logits
    assert torch.allclose(fast, slow, atol=0.05 * slow.abs().max().item())


def test_plans_cover_every_row_once_per_epoch_and_depend_on_the_seed() -> None:
    lengths = np.random.default_rng(0).integers(10, 100, 101).tolist()
    steps = plan(lengths, 8, 2, seed=1)
    assert len(steps) == 2 * 13
    for epoch in (steps[:13], steps[13:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(101))
    assert all(np.array_equal(a, b) for a, b in zip(steps, plan(lengths, 8, 2, seed=1), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(steps, plan(lengths, 8, 2, seed=2), strict=True))
    spread = np.mean([np.ptp(np.array(lengths)[rows]) for rows in steps])
    assert spread < 20, "rows of a batch have similar lengths"
    assert plan([], 8, 3, seed=0) == []


def test_a_loss_that_is_no_number_stops_and_names_the_batch(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    policy = load(checkpoint("llama"))
    broken = Objective(lambda log_probs, _: log_probs[:, 0] * float("nan"))
    with pytest.raises(UserError, match=r"the loss is nan at step 0; lower the learning rate") as caught:
        train(policy, ragged_groups(1, 4, 1), broken, Training(batch=4), seed=0, log_folder=tmp_path)
    file = Path(str(caught.value).rsplit(" ", 1)[1])
    assert sorted(json.loads(file.read_text())["rows"]) == [0, 1, 2, 3]


def test_a_gradient_that_is_no_number_stops_and_names_the_batch(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    policy, groups = load(checkpoint("llama")), ragged_groups(3, 6, 1)

    def steep(log_probs: Tensor, _: GroupBatch) -> Tensor:
        kept = log_probs[:, 0]
        return kept + (kept - kept.detach()).sqrt()  # a number whose gradient is infinite

    with pytest.raises(UserError, match=r"the gradient is (nan|inf) at step 0; lower the learning rate") as caught:
        train(policy, groups, Objective(steep), Training(batch=8), seed=0, log_folder=tmp_path)
    assert str(tmp_path / "failed-step-0.json") in str(caught.value)
    assert len(json.loads((tmp_path / "failed-step-0.json").read_text())["groups"]) == 6


def test_weights_that_are_no_numbers_stop_a_stage_at_its_end(checkpoint: Callable[[str], Path]) -> None:
    policy, groups = load(checkpoint("llama")), ragged_groups(3, 6, 1)
    settings = Training(batch=8, lr=1.0, warmup_steps=0, weight_decay=1e39)  # a finite loss, an infinite step
    with pytest.raises(UserError, match=r"the weights are no longer finite after step 1; lower the learning rate"):
        train(policy, groups, SFT, settings, seed=0)
    with pytest.raises(UserError, match=r"the validation loss is (nan|inf) after step 1; lower the learning rate"):
        train(load(checkpoint("llama")), groups, SFT, settings, seed=0, valid=groups)


def test_out_of_memory_halves_the_budget_and_keeps_the_result(checkpoint: Callable[[str], Path]) -> None:
    def run(limit: int) -> dict[str, Tensor]:
        policy = load(checkpoint("llama"))

        def loss(log_probs: Tensor, batch: GroupBatch) -> Tensor:
            if batch.input_ids.numel() > limit:
                raise torch.OutOfMemoryError("out of memory")
            return objectives.sft(log_probs)

        train(policy, ragged_groups(2, 40, 1), Objective(loss), Training(lr=1e-3, batch=40), seed=0, budget=4096)
        return policy.state()

    plenty, scarce = run(10**9), run(600)
    for name, value in plenty.items():
        assert torch.allclose(value, scarce[name], atol=1e-4), name
