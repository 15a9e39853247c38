"""The benchmark at toy size: both sides compute the same; records, tables and the regression check hold."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sprec.bench.measure import matmul_rate, useful_flops
from sprec.bench.report import run
from sprec.bench.runner import parts
from sprec.bench.work import Work, make_model
from sprec.data.demo import demo
from sprec.engine.groups import PromptGroup
from sprec.errors import UserError

CHECK = Path(__file__).parents[1] / "benchmarks" / "check.py"
BENCH = [sys.executable, "-m", "sprec", "bench", "--size", "toy", "--repeats", "1", "--device", "cpu"]


def test_both_sides_compute_the_same() -> None:
    pytest.importorskip("trl")
    options = ("--parts", "dpo", "--samples", "8", "--negatives", "2", "--json")
    done = subprocess.run([*BENCH, *options], check=True, capture_output=True, text=True)
    record = json.loads(done.stdout.splitlines()[-1])
    (pairs,) = record["parts"]
    assert pairs["part"] == "dpo-2"
    assert pairs["engine"]["losses"][0] == pytest.approx(0.6931, abs=1e-3)
    peer = pairs["peers"]["trl"]
    assert peer["first_loss_apart"] < 1e-3
    assert peer["ratio"] == pytest.approx(peer["seconds"] / pairs["engine"]["seconds"])
    assert pairs["share"] == pytest.approx(pairs["flops"] / pairs["engine"]["seconds"] / record["matmul_flops"])


@pytest.mark.parametrize(
    ("size", "names", "negatives", "message"),
    [
        ("9b", ["dpo"], [1], "no size '9b'"),
        ("toy", ["dpo", "speed"], [1], "no part 'speed'"),
        ("toy", ["dpo"], [], "--negatives takes whole numbers"),
        ("1b", ["dpo"], [1], "needs a CUDA device"),
    ],
)
def test_mistakes_are_one_line(size: str, names: list[str], negatives: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(size, names, None, 1, 8, negatives, "cpu", None)
    assert "\n" not in str(error.value)


def test_useful_flops_by_hand(tmp_path: Path) -> None:
    dataset = demo(train=4, valid=2, test=2, extra=2)
    dataset.save(tmp_path / "data")
    make_model(tmp_path / "model", "toy", dataset, "cpu")
    policy = Work("dpo", "engine", str(tmp_path / "model"), str(tmp_path / "data"), 4, device="cpu").policy()
    config = policy.model.config
    head = config.vocab_size * 32
    body = sum(value.numel() for value in policy.model.parameters()) - head
    # prompt of 3, answers of 1 and 2 tokens: 6 tokens read, 3 predicted; pairs 6 + (3 + 1) + (6 + 3)
    expected = 3 * (2 * body * 6 + 2 * head * 3 + 4 * 32 * 2 * 19)
    assert useful_flops(policy, [PromptGroup([1, 5, 6], ([7], [8, 9]))], 3) == expected


def test_the_matmul_rate_is_that_of_a_product() -> None:
    assert 1e8 < matmul_rate("cpu", size=128, repetitions=3) < 1e14


def test_parts_say_which_sides_meet() -> None:
    found = parts(Work("", "engine", "m", "d", 10), ["dpo", "grounding", "iteration"], [1, 5])
    assert [part.name for part in found] == ["dpo-1", "dpo-5", "grounding", "iteration"]
    assert [work.part for work in found[3].peers["scripts"]] == ["rollout", "sft", "dpo", "evaluate"]
    assert found[3].peers["scripts"][3].samples == 5
    with pytest.raises(UserError, match="no part 'x'"):
        parts(Work("", "engine", "m", "d", 10), ["x"], [1])


def saved(path: Path, ratio: float) -> Path:
    part = {"part": "sft", "peers": {"trl": {"ratio": ratio}}}
    path.write_text(json.dumps({"size": "2m", "parts": [part], "machine": {"device": "x"}}))
    return path


@pytest.mark.parametrize(("ratio", "code"), [(3.9, 0), (3.1, 0), (2.9, 1)])
def test_the_regression_check_compares_ratios(tmp_path: Path, ratio: float, code: int) -> None:
    (tmp_path / "results").mkdir()
    saved(tmp_path / "results" / "2m-sft.json", 4.0)
    new = saved(tmp_path / "new.json", ratio)
    main = runpy.run_path(str(CHECK))["main"]
    assert main([str(new)], tmp_path / "results") == code


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_sides_on_a_gpu() -> None:
    pytest.importorskip("trl")
    done = subprocess.run(
        [*BENCH[:-2], "--device", "cuda", "--parts", "dpo,sft,rollout,beam", "--samples", "16", "--json"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
