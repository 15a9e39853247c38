"""What toy models cannot show: a pretrained model learns real titles, searches them exactly and survives a kill.

It is SmolLM2-135M-Instruct; the tests are skipped where it was not fetched: ``sprec backbone fetch smollm2-135m``.
"""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sprec.config import HuggingFace, Lora, Training
from sprec.data.demo import demo
from sprec.engine.decode.constrained import Search, best_leaves
from sprec.engine.decode.trie import Trie
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.backbones import shelf
from sprec.engine.model.policy import Policy, load_huggingface
from sprec.engine.train.checkpoint import Checkpoints
from sprec.engine.train.scoring import score
from sprec.engine.train.stage import Objective, token_loss, train
from sprec.methods import objectives
from sprec.prompts import PromptBuilder
from sprec.runs.examples import prompts, sft_groups
from sprec.system.storage import MANIFEST

NAME = "smollm2-135m"
HERE = (shelf() / NAME / MANIFEST).is_file()
pytestmark = [
    pytest.mark.real_weights,
    pytest.mark.slow,
    pytest.mark.skipif(not HERE, reason=f"{NAME} is not here: sprec backbone fetch {NAME}"),
]
SFT = Objective(lambda log_probs, _: objectives.sft(log_probs), per_token=True)
DATA = demo(train=64, valid=1, test=8, extra=1, history=4)
BUILDER = PromptBuilder(DATA.catalog, DATA.wording, "compact", 4)


def load(lora: Lora | None = None, precision: torch.dtype = torch.float32) -> Policy:
    torch.manual_seed(0)
    return load_huggingface(HuggingFace(path=NAME, lora=lora), torch.device("cpu"), precision)


def groups(policy: Policy, rows: slice) -> list[PromptGroup]:
    return list(sft_groups(policy, BUILDER, DATA.train[rows], 512))


def test_it_knows_english_and_real_titles() -> None:
    policy = load()
    texts = ["The capital of France is Paris.", "The capital of France is Banana."]
    paris, banana = (PromptGroup(tokens[:5], (tokens[5:],)) for tokens in policy.encode_prompts(texts))
    likely, unlikely = (value.item() for value in score(policy, [paris, banana]))
    assert likely > unlikely + 3


@pytest.mark.parametrize(("lora", "lr"), [(None, 1e-4), (Lora(dropout=0.0), 1e-3)], ids=["full", "lora"])
def test_one_step_lowers_the_loss_of_real_titles(lora: Lora | None, lr: float) -> None:
    policy = load(lora, torch.bfloat16)
    learned, unseen = groups(policy, slice(0, 16)), groups(policy, slice(16, 32))
    before = token_loss(policy, learned), token_loss(policy, unseen)
    outcome = train(
        policy, learned, SFT, Training(lr=lr, batch=16, warmup_steps=0), seed=0, budget=1024, recompute=True
    )
    assert len(outcome.steps) == 1
    after = token_loss(policy, learned), token_loss(policy, unseen)
    assert after[0] < before[0] - 0.2
    assert after[1] < before[1], "how titles are written is learned too"


def test_the_search_equals_brute_force_on_real_titles() -> None:
    policy = load()
    titles = policy.encode_completions([BUILDER.respond(title) for title in DATA.catalog.titles[:200]])
    asked = prompts(policy, BUILDER, DATA.test[:1], "generate", 512)
    trie = Trie.of(titles)
    found = best_leaves(policy, asked, trie, Search(5, 40, 10_000))
    scores = torch.stack(score(policy, [PromptGroup(prompt, tuple(titles)) for prompt in asked])).double().numpy()
    leaf = trie.leaf.numpy()
    assert found.certain.all()
    for nodes, values, row in zip(found.nodes.tolist(), found.scores.tolist(), scores, strict=True):
        order = np.argsort(-row, kind="stable")[:5]
        assert nodes == leaf[order].tolist()
        assert values == pytest.approx(row[order].tolist(), abs=2e-3)


def three_steps(folder: Path, die_at: int = -1) -> Policy:
    """Three steps with a checkpoint behind each, or the end of the process in one of them."""
    policy, calls = load(precision=torch.bfloat16), 0

    def loss(log_probs: torch.Tensor, _: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == die_at:
            signal.raise_signal(signal.SIGKILL)
        return objectives.sft(log_probs)

    rates = Training(lr=1e-4, batch=4, warmup_steps=0)
    objective = Objective(loss, per_token=True)
    train(policy, groups(policy, slice(0, 12)), objective, rates, seed=0, checkpoints=Checkpoints(folder, 1))
    return policy


def test_a_killed_stage_goes_on_to_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"from test_real_weights import *; three_steps(Path({str(tmp_path / 'killed')!r}), die_at=3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    killed = three_steps(tmp_path / "killed").state()
    assert "resuming after step 2 of 3" in capsys.readouterr().err
    whole = three_steps(tmp_path / "whole").state()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
