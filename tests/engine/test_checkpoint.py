"""Interrupted stages resume where they were and end where they would have ended, bit for bit."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_scoring import load, ragged_groups
from torch import Tensor

from sprec.config import Lora, Training
from sprec.engine.layout.groups import GroupBatch
from sprec.engine.model.policy import Policy, adapt
from sprec.engine.train.checkpoint import Checkpoint, Checkpoints
from sprec.engine.train.stage import LOG, Objective, Outcome, train
from sprec.methods import objectives
from sprec.system import storage
from sprec.system.errors import UserError

SETTINGS = Training(lr=1e-2, epochs=3, batch=8, warmup_steps=2)
STEPS = 15  # 40 groups in batches of 8, three times


class Killed(BaseException):
    """Stands for the end of the process."""


def run(policy: Policy, folder: Path | None, stop_at: int | None = None, valid: int = 0, every: int = 4) -> Outcome:
    """Train; the process ends in the middle of step ``stop_at``, counted from the start of this call."""
    calls = 0

    def loss(log_probs: Tensor, batch: GroupBatch) -> Tensor:
        nonlocal calls
        if calls == stop_at:
            raise Killed
        calls += 1
        return objectives.sft(log_probs)

    return train(
        policy,
        ragged_groups(1, 40, 1),
        Objective(loss, per_token=True),
        SETTINGS,
        seed=5,
        valid=ragged_groups(2, valid, 1),
        checkpoints=Checkpoints(folder, every) if folder else None,
        log_folder=folder.parent / "logs" if folder else None,
    )


def with_dropout(policy: Policy) -> Policy:
    """LoRA with dropout: its masks must be the same after the interruption."""
    torch.manual_seed(3)
    policy.model = adapt(policy.model, Lora(r=4, dropout=0.3))
    return policy


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("stops", [[1], [4], [9], [14], [6, 3], [2, 2, 2, 2]], ids=str)
@pytest.mark.parametrize("valid", [0, 10])
def test_an_interrupted_stage_ends_where_it_would_have_ended(
    stops: list[int], valid: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = with_dropout(load(checkpoint("llama")))
    expected = run(whole, None, valid=valid)
    assert len(expected.steps) == STEPS
    for stop in stops:
        with pytest.raises(Killed):
            run(with_dropout(load(checkpoint("llama"))), tmp_path / "steps", stop, valid)
    resumed = with_dropout(load(checkpoint("llama")))
    outcome = run(resumed, tmp_path / "steps", valid=valid)
    assert same(whole.state(), resumed.state())
    assert outcome == expected
    log = [json.loads(line) for line in (tmp_path / "logs" / LOG).read_text().splitlines()]
    assert log == expected.steps


def test_the_same_seed_gives_the_same_bytes(checkpoint: Callable[[str], Path]) -> None:
    one, two = with_dropout(load(checkpoint("qwen"))), with_dropout(load(checkpoint("qwen")))
    assert run(one, None) == run(two, None)
    assert same(one.state(), two.state())


def test_all_parameters_resume_too(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    whole, resumed = load(checkpoint("gpt2")), load(checkpoint("gpt2"))
    run(whole, None, valid=10)
    with pytest.raises(Killed):
        run(load(checkpoint("gpt2")), tmp_path / "steps", 10, valid=10)
    run(resumed, tmp_path / "steps", valid=10)
    assert same(whole.state(), resumed.state())


def harm(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, resumed = load(checkpoint("llama")), load(checkpoint("llama"))
    run(whole, None)
    with pytest.raises(Killed):
        run(load(checkpoint("llama")), tmp_path / "steps", 13)
    folders = sorted(path.name for path in (tmp_path / "steps").iterdir())
    assert folders == ["step-00000008", "step-00000012"], "the two newest are kept"
    harm(tmp_path / "steps/step-00000012" / name)
    run(resumed, tmp_path / "steps")
    told = capsys.readouterr().err
    assert f"step-00000012/{name} is " in told
    assert "resuming after step 8 of 15" in told
    assert same(whole.state(), resumed.state())


def test_checkpoints_hold_what_they_were_given(tmp_path: Path) -> None:
    values = {"a.weight": torch.randn(3, 4), "b": torch.randn(2)}
    moments = {
        name: {"exp_avg": torch.randn_like(v), "exp_avg_sq": torch.rand_like(v), "step": torch.tensor(7.0)}
        for name, v in values.items()
    }
    saved = Checkpoint(7, values, moments, {"b": torch.ones(2)}, {"steps": [{"loss": 0.1}], "best_epoch": None})
    checkpoints = Checkpoints(tmp_path / "steps", 1)
    assert checkpoints.latest() is None
    checkpoints.save(saved)
    manifest = storage.read_manifest(tmp_path / "steps/step-00000007")
    assert manifest["stage"] == "steps", "the name of the folder, which is the key of the stage"
    assert manifest["versions"]["torch"] == importlib.metadata.version("torch")
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, found.outcome) == (7, saved.outcome)
    assert same(found.parameters, values)
    assert same(found.best, saved.best)
    assert all(same(found.moments[name], moments[name]) for name in values)


def test_weights_that_are_no_numbers_are_not_saved(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    policy = load(checkpoint("llama"))

    def loss(log_probs: Tensor, batch: GroupBatch) -> Tensor:
        kept = objectives.sft(log_probs)
        return kept + (kept - kept.detach()).sqrt()  # a number whose gradient is infinite

    with pytest.raises(UserError, match=r"the weights are no longer finite after step 1"):
        train(policy, ragged_groups(1, 8, 1), Objective(loss), Training(lr=1e-3, batch=4), seed=0,
              checkpoints=Checkpoints(tmp_path / "steps", 1))  # fmt: skip
    assert not list((tmp_path / "steps").glob("*"))


def test_parameters_that_never_had_a_gradient_resume_without_moments(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    def idle(policy: Policy) -> Policy:
        policy.model.register_parameter("idle", torch.nn.Parameter(torch.ones(3)))
        return policy

    whole, stopped = idle(load(checkpoint("llama"))), idle(load(checkpoint("llama")))
    outcome = run(whole, None)
    with pytest.raises(Killed):
        run(stopped, tmp_path, stop_at=6)
    saved = Checkpoints(tmp_path, 4).latest()
    assert saved is not None
    assert set(saved.parameters) - set(saved.moments) == {"idle"}
    assert run(stopped, tmp_path) == outcome
    assert same(whole.state(), stopped.state())


SCRIPT = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_checkpoint import load, run
from sprec.system import interrupts
interrupts.install()
try:
    policy = load(Path(sys.argv[1]))
    forward = policy.model.forward
    def slow(*args, **kwargs):
        print("step", flush=True)
        time.sleep(0.05)
        return forward(*args, **kwargs)
    policy.model.forward = slow
    run(policy, Path(sys.argv[2]), every=1000)
except interrupts.Interrupted as stop:
    sys.exit(stop.code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_leaves(
    number: signal.Signals, code: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(checkpoint("llama")),
        str(tmp_path / "steps"),
        *map(str, Path(__file__).parents[:2]),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=25) == code, process.stderr and process.stderr.read()
    (folder,) = (tmp_path / "steps").iterdir()
    assert 1 <= int(folder.name.removeprefix("step-")) < STEPS
    whole, resumed = load(checkpoint("llama")), load(checkpoint("llama"))
    assert run(whole, None) == run(resumed, tmp_path / "steps")
    assert same(whole.state(), resumed.state())
