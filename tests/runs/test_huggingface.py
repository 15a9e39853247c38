"""Any Hugging Face model: adapters and full fine-tuning through the real command line, resumed from disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sprec.data import Dataset
from sprec.runs import Recommender, load_results
from toy_runs import Cli

CHANGES = {
    "precision": "fp32",
    "sft.epochs": 1,
    "sft.samples": 32,
    "sft.valid": 8,
    "loop.iterations": 1,
    "loop.samples": 12,
    "negatives.source": "uniform",
    "prefer.lr": 0.001,
    "sft.lr": 0.003,
    "recommend.max_new_tokens": 6,
    "cases": 10,
    "baselines": [],
}


def changes(**more: object) -> list[str]:
    settings = CHANGES | {name.replace("__", "."): value for name, value in more.items()}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def backbone(path: Path, **more: object) -> dict[str, object]:
    return {"backbone": {"kind": "huggingface", "path": str(path), **more}}


@pytest.mark.parametrize(
    ("style", "targets"), [("llama", None), ("qwen", None), ("gpt2", ["all-linear"])], ids=["llama", "qwen", "gpt2"]
)
def test_adapters_on_any_style(
    style: str, targets: list[str] | None, cli: Cli, checkpoint: Callable[[str], Path], toy_data: Path, tmp_path: Path
) -> None:
    lora = {"r": 4, "dropout": 0.0} | ({"targets": targets} if targets else {})
    command = ("run", "llama-3.2-1b", "--data", toy_data, *changes(**backbone(checkpoint(style), lora=lora)))
    cli(*command, "-o", tmp_path / "run")
    assert [result.stage for result in load_results(tmp_path / "run")] == ["sft", "sft", "prefer"]
    base = AutoModelForCausalLM.from_pretrained(checkpoint(style))
    assert PeftModel.from_pretrained(base, str(tmp_path / "run/model")).peft_config["default"].r == 4
    if style == "llama":
        _resumes_bit_for_bit(cli, command, tmp_path)
        catalog = Dataset.load(toy_data).catalog
        items = Recommender.load(tmp_path / "run").recommend([["Alien (1979)"], [3, 4]], k=3)
        assert all(len(set(row)) == 3 and max(row) < len(catalog) for row in items)


def _resumes_bit_for_bit(cli: Cli, command: tuple[object, ...], tmp_path: Path) -> None:
    """The adapters come back from disk for the preference step, with the same result."""
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for stage in (tmp_path / "again/stages").glob("*-prefer-1"):
        shutil.rmtree(stage)
    cli(*command, "-o", tmp_path / "again")
    one, two = (load_file(tmp_path / name / "model/adapter_model.safetensors") for name in ("run", "again"))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)


def test_full_fine_tuning_and_official_prompts(
    cli: Cli, checkpoint: Callable[[str], Path], toy_data: Path, tmp_path: Path
) -> None:
    settings = changes(**backbone(checkpoint("qwen"), lora=None), prompt__style="official", sft_step__lr=0.001)
    cli("run", "llama-3.2-1b", "--data", toy_data, "-o", tmp_path / "run", *settings)
    before = AutoModelForCausalLM.from_pretrained(checkpoint("qwen")).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model").state_dict()
    assert any((before[name] != after[name]).any() for name in before)


def test_wrong_layers_for_adapters_end_in_one_line(
    cli: Cli, checkpoint: Callable[[str], Path], toy_data: Path, tmp_path: Path
) -> None:
    settings = changes(**backbone(checkpoint("gpt2")))
    done = cli("run", "llama-3.2-1b", "--data", toy_data, "-o", tmp_path / "run", *settings, code=2)
    assert "set 'backbone.lora.targets=[all-linear]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.0}], ids=["full", "lora"])
def test_a_given_backbone_is_adapted_once_for_all_seeds(
    lora: dict[str, object] | None, cli: Cli, checkpoint: Callable[[str], Path], toy_data: Path, tmp_path: Path
) -> None:
    adapt = {"lr": 0.01, "epochs": 2, "samples": 48, "batch": 8, "warmup_steps": 2}
    settings = changes(**backbone(checkpoint("llama"), lora=lora, adapt=adapt), recompute=True, loop__iterations=0)
    command = ("run", "llama-3.2-1b", "--data", toy_data, "--shared", tmp_path / "shared", *settings)
    cli(*command, "-o", tmp_path / "one", "--set", "method=bigrec")
    done = cli(*command, "-o", tmp_path / "two", "--set", "method=bigrec", "--set", "seed=1", "--set", "sft.epochs=0")
    stages = {path.name for path in (tmp_path / "one/stages").iterdir()}
    assert stages == {"00-backbone", "01-sft", "02-evaluate-sft-0"}
    assert "= 00-backbone" in done.stderr, "shared with the run of the other seed"
    assert not (tmp_path / "two/stages/01-sft").exists(), "without SFT the adapted model is the first one"
    log = [json.loads(line)["loss"] for line in (tmp_path / "one/stages/00-backbone/log.jsonl").open()]
    assert len(log) == 12
    assert sum(log[-3:]) < (0.99 if lora else 0.9) * sum(log[:3])
    for run in ("one", "two"):
        assert len(set(Recommender.load(tmp_path / run).recommend([[3, 4]], k=3)[0])) == 3
