"""Numbers and warnings of stages, for invented losses and for a run that collapses."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from sprec.engine.train.stage import Outcome
from sprec.runs.health import of_evaluations, of_rollouts, of_training, warn_of_training
from toy_runs import Cli, toy_changes


def course(steps: int, loss: float, chosen: float, rejected: float) -> Outcome:
    """A stage whose numbers move in a straight line from 0.7, 0, 0."""
    ends = {"loss": (0.7, loss), "chosen": (0.0, chosen), "rejected": (0.0, rejected)}
    parts = [step / max(1, steps - 1) for step in range(steps)]
    return Outcome([{name: a + (b - a) * part for name, (a, b) in ends.items()} for part in parts])


def test_numbers_are_means_over_the_ends() -> None:
    outcome = Outcome([{"loss": float(i), "chosen": 2.0 * i, "rejected": 1.0 * i} for i in range(100)], [3.0, 2.0, 2.5])
    assert of_training(outcome, beta=0.1) == {
        "steps": 100,
        "loss_first": 9.5,
        "loss": 89.5,
        "loss_error": pytest.approx((2 * 35 / 20) ** 0.5),  # the variance of 20 numbers in a row is 35
        "chosen": 179.0,
        "rejected": 89.5,
        "margin": pytest.approx(8.95),
        "valid_first": 3.0,
        "valid_best": 2.0,
    }
    assert "margin" not in of_training(outcome)
    assert of_training(Outcome()) == {}
    assert warn_of_training({}, "sft") == []


def test_a_healthy_stage_gets_no_warning() -> None:
    assert warn_of_training(of_training(course(100, 0.5, -0.3, -4.0), 0.1), "prefer") == []
    assert warn_of_training(of_training(course(100, 0.5, -9.0, 0.0)), "sft") == []
    noisy = Outcome([{"loss": 0.5 + 0.3 * (i % 2), "chosen": 0.0, "rejected": 0.0} for i in range(41)])
    noisy.steps[-1]["loss"] = 1.6  # 0.70 after 0.65, with a standard error of 0.07
    assert warn_of_training(of_training(noisy), "sft_step") == []


def test_each_illness_is_named_with_its_cure() -> None:
    (rising,) = warn_of_training(of_training(course(100, 1.4, 0.1, -0.1), 0.1), "prefer")
    assert rising.startswith("the loss rose from 0.7")
    assert rising.endswith("lower prefer.lr")
    (displaced,) = warn_of_training(of_training(course(100, 0.3, -8.0, -30.0), 0.1), "prefer")
    assert displaced.startswith("the chosen titles lost 7.")
    assert "likelihood displacement; lower prefer.lr or raise prefer.beta" in displaced
    (idle,) = warn_of_training(of_training(course(100, 0.69, -0.01, 0.0), 0.1), "prefer")
    assert "nothing was learned; raise prefer.lr" in idle


def test_empty_rollouts_are_counted() -> None:
    assert of_rollouts(95, 100) == []
    assert of_rollouts(0, 0) == []
    (empty,) = of_rollouts(3, 100)
    assert empty.startswith("97 of 100 answers hold no title; train the SFT longer")


def test_evaluations_are_compared_with_the_first_one() -> None:
    start = {"ExactTitles": 0.97, "Entropy@1": 3.0}
    assert of_evaluations([start]) == []
    assert of_evaluations([start, {"ExactTitles": 0.91, "Entropy@1": 2.5}]) == []
    assert of_evaluations([start, {"ExactTitles": 0.89, "Entropy@1": 3.5}]) == [
        "only 89% of the generated titles exist in the catalog; lower prefer.lr"
    ]
    (early,) = of_evaluations([{"ExactTitles": 0.3}], preferred=False)
    assert early == (
        "only 30% of the generated titles exist in the catalog; "
        "train the SFT longer or at another rate (sft.epochs, sft.lr)"
    )
    (concentrated,) = of_evaluations([start, {"ExactTitles": 0.97, "Entropy@1": 2.0}])
    assert concentrated.startswith("the recommendations concentrate (entropy 3.00, now 2.00)")
    assert of_evaluations([{"HR@5": 0.1}, {"HR@5": 0.2}]) == [], "protocols that write no titles"
    assert of_evaluations([{"ExactTitles": 0.5}, {"ExactTitles": 0.6}]) == [], "it was never better"


def test_a_run_that_collapses_warns_and_stops_when_asked(
    cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_run, tmp_path / "a")
    steep = toy_changes(prefer__lr=0.5, prefer__batch=4)
    done = cli("run", "demo", "--data", toy_data, "-o", tmp_path / "a", "--overwrite", *steep)
    assert "! 06-prefer-1: " in done.stderr
    assert "of the generated titles exist in the catalog; lower prefer.lr" in done.stderr
    health = json.loads((tmp_path / "a/stages/06-prefer-1/health.json").read_text())
    assert set(health) == {"steps", "loss_first", "loss", "loss_error", "chosen", "rejected", "margin"}
    stopped = cli("run", "demo", "--data", toy_data, "-o", tmp_path / "a", "--overwrite", *steep,
                  "--set", "stop_below_exact_share=0.5", code=2)  # fmt: skip
    assert "sprec: stopped after prefer 1" in stopped.stderr
    assert "the recipe demands 50%; lower prefer.lr" in stopped.stderr


def test_a_run_whose_rollouts_name_nothing_stops_before_it_learns_from_them(
    cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_run, tmp_path / "run")
    short = toy_changes(negatives__max_new_tokens=1, stop_below_exact_share=0.01, evaluate="last")
    stopped = cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", "--overwrite", *short, code=2)
    assert stopped.stderr.splitlines()[-1] == (
        "sprec: stopped after rollout 1: 0% of the generated titles exist, the recipe demands 1%; "
        "train the SFT longer or at another rate (sft.epochs, sft.lr)"
    )


def test_without_a_title_there_is_nothing_to_learn_from(
    cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_run, tmp_path / "run")
    short = toy_changes(negatives__max_new_tokens=1)
    done = cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", "--overwrite", *short)
    assert "! 03-rollout-1: 24 of 24 answers hold no title" in done.stderr
    (prefer,) = (line for line in done.stderr.splitlines() if line.startswith("✓ 06-prefer-1"))
    assert prefer.endswith("nothing to learn from: the model is as before")
    weights = [tmp_path / "run/stages" / stage / "model/model.safetensors" for stage in ("04-sft-1", "06-prefer-1")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_tensorboard_gets_losses_and_rewards(cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shutil.copytree(toy_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stages/06-prefer-1")
    cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", *toy_changes(), "--set", "track=[tensorboard]")
    (file,) = (tmp_path / "run/logs/06-prefer-1").rglob("events.out.tfevents.*")
    log = events.EventAccumulator(str(file))
    log.Reload()
    steps = [json.loads(line) for line in (tmp_path / "run/stages/06-prefer-1/log.jsonl").read_text().splitlines()]
    for tag, name in (("train/loss", "loss"), ("train/chosen", "chosen"), ("train/rejected", "rejected")):
        assert [event.value for event in log.Scalars(tag)] == pytest.approx([step[name] for step in steps], abs=1e-4)


def test_trackers_that_are_not_installed_are_named(cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    missing = [name for name in ("wandb", "trackio", "mlflow") if find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    done = cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", "--set", f"track=[{missing[0]}]", code=2)
    assert done.stderr == f"sprec: track=[{missing[0]}] needs the package {missing[0]}: pip install {missing[0]}\n"
    assert not (tmp_path / "run").exists()
