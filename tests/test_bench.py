"""The benchmark at toy size: both sides compute the same; records, tables and the regression check hold."""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from sprec.bench import engine, measure, report
from sprec.bench.measure import Timed, matmul_rate, useful_flops
from sprec.bench.report import run
from sprec.bench.runner import Part, check_same, parts
from sprec.bench.work import Work, make_model
from sprec.cli import app
from sprec.config import Scratch
from sprec.data.demo import demo
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.policy import scratch
from sprec.prompts import parse_title
from sprec.system.errors import UserError
from sprec.system.hardware import cpu_has_bf16
from sprec.system.interrupts import Interrupted

CHECK = Path(__file__).parents[1] / "benchmarks" / "check.py"
DOCS = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "build.py"))
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
    assert pairs["prompt_tokens"] > pairs["own_prompt_tokens"] > pairs["answer_tokens"] > 2
    assert record["precision"] == measure.precision("cpu")
    assert bool(record["matmul_flops_bf16"]) is cpu_has_bf16()
    # two pairs are four sequences of the peer, each with the prompt that is read once here
    assert 1 / 40 < pairs["engine"]["operations"] / peer["operations"] < 1 / 4
    assert pairs["share"] == pytest.approx(pairs["flops"] / pairs["engine"]["seconds"] / record["matmul_flops"])


@pytest.mark.parametrize(
    ("size", "names", "message"),
    [
        ("9b", ["dpo"], "no size '9b'"),
        ("toy", ["dpo", "speed"], "no part 'speed'"),
        ("1b", ["dpo"], "needs a CUDA device"),
    ],
)
def test_mistakes_are_one_line(size: str, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(size, names, None, 1, Work("", "engine", "", "", 8, device="cpu"), [1], None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("samples", "batch"), [(48, 32), (36, 12)])
def test_steps_that_peers_cannot_divide_are_refused(samples: int, batch: int) -> None:
    base = Work("", "engine", "", "", samples, batch=batch, device="cpu")
    with pytest.raises(UserError, match=f"{samples} samples are not a multiple of {batch} prompts.*--samples 64"):
        run("toy", ["sft"], None, 1, base, [1], None)


def test_the_engine_alone_needs_no_peer() -> None:
    base = Work("", "engine", "", "", 8, batch=8, device="cpu")
    found = run("toy", ["sft"], None, 1, base, [1], None, ["none"])
    (part,) = found["parts"]
    assert part["peers"] == {}
    assert part["engine"]["seconds"] > 0
    assert found["failed"] == {}


def test_the_shape_of_the_pretrained_model(tmp_path: Path) -> None:
    """134,515,008 parameters is what the model's page says; heads and layers are those of its config.json."""
    assert make_model(tmp_path, "135m", demo(), "cpu") == 134_515_008
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["num_hidden_layers"], config["num_attention_heads"], config["num_key_value_heads"]) == (30, 9, 3)


@pytest.mark.timeout(400)
def test_the_script_for_gpus_runs_on_a_cpu_in_a_tiny_form(tmp_path: Path) -> None:
    """So that nothing in it breaks for the first time on a GPU."""
    script = CHECK.with_name("gpu.sh")
    done = subprocess.run(
        ["bash", script],
        env=os.environ | {"OUT": str(tmp_path), "TINY": "1", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.partition(":")[0] for line in (tmp_path / "steps.txt").read_text().splitlines()]
    assert steps == ["doctor", "tests", "bench-toy"]
    record = json.loads((tmp_path / "bench-toy.json").read_text())
    assert [part["part"] for part in record["parts"]] == ["dpo-1", "rollout"]
    assert "needs a CUDA device" in (tmp_path / "tests.txt").read_text()


def test_an_unknown_peer_is_named_before_anything_is_made() -> None:
    with pytest.raises(UserError, match="no peer 'x'; peers: scripts, trl, trl-tuned"):
        run("toy", ["sft"], None, 1, Work("", "engine", "", "", 8, device="cpu"), [1], None, ["x"])


@pytest.mark.parametrize(
    ("losses", "theirs", "message"),
    [
        ([0.6931, 0.5], [0.6931, 0.4999], ""),
        ([0.6931, 0.5], [0.6931, 0.49], "loss of step 2 is 0.50000 here and 0.49000 with trl"),  # the gradients differ
        ([0.69, 0.5], [0.7, 0.5], "loss of step 1"),
        ([float("nan")], [0.7], "loss of step 1"),
    ],
)
def test_losses_of_every_step_must_agree(losses: list[float], theirs: list[float], message: str) -> None:
    part = parts(Work("", "engine", "m", "d", 8, device="cpu"), ["dpo"], [1])[0]
    ours, others = ({"losses": own, "found": []} for own in (losses, theirs))
    if not message:
        check_same(part, "trl", ours, others)
        return
    with pytest.raises(UserError, match=message):
        check_same(part, "trl", ours, others)


def test_answers_must_agree_up_to_the_shorter_limit() -> None:
    part = parts(Work("", "engine", "m", "d", 8, device="cpu"), ["rollout"], [1])[0]
    ours = {"losses": [], "found": ["The Hobbit", "Dune", "Am\ufffd", *["Emma"] * 17]}  # the third cut inside a letter
    theirs = {"losses": [], "found": ["The Hobbit and more", "Dune", "Amélie", *["Emma"] * 17]}
    check_same(part, "official", ours, theirs)
    others = theirs | {"found": [*theirs["found"][:17], "Ivanhoe", "Ivanhoe", "Ivanhoe"]}
    with pytest.raises(UserError, match="15% of the answers differ from those of official"):
        check_same(part, "official", ours, others)


@pytest.mark.parametrize("negatives", ["1,x", "0", "", "1,,2", "1,-3"])
def test_negatives_that_are_no_numbers_are_refused(negatives: str) -> None:
    with pytest.raises(UserError, match="--negatives takes positive whole numbers"):
        CliRunner().invoke(app, ["bench", "--negatives", negatives], catch_exceptions=False)


def test_what_was_measured_is_kept_when_another_part_fails() -> None:
    """The side of the first part ends at once, the third part is stopped by a signal, the fourth does not begin."""
    asked = parts(Work("", "engine", "m", "d", 8), ["sft", "grounding", "rollout", "beam"], [1])

    def measure(part: Part) -> dict[str, Any]:
        if part.name == "sft":
            raise UserError("sft: the loss of step 2 is another one")
        if part.name == "rollout":
            raise Interrupted(signal.SIGTERM)
        return {"part": part.name}

    found = report.measured(asked, measure)
    assert found == (
        [{"part": "grounding"}],
        {"sft": "the loss of step 2 is another one", "rollout": "stopped by SIGTERM"},
    )


def test_peers_that_are_left_out_do_not_run() -> None:
    (pairs,) = parts(Work("", "engine", "m", "d", 10), ["dpo"], [3], ["trl"])
    assert (pairs.name, list(pairs.peers)) == ("dpo-3", ["trl"])


@pytest.mark.parametrize("across_words", [True, False])
def test_tokens_reach_over_spaces_only_where_they_may(across_words: bool) -> None:
    settings, device = Scratch(hidden=32, layers=1, heads=2, vocabulary=320), torch.device("cpu")
    titles = [f"the old man and the sea {n}" for n in range(50)]
    tokenizer = scratch(settings, titles, 0, device, torch.float32, across_words=across_words).tokenizer
    ids = tokenizer("the old man and the sea", add_special_tokens=False)["input_ids"]
    longest = max((str(tokenizer.decode(one)) for one in ids), key=len)
    assert (" " in longest.strip()) == across_words


def test_useful_flops_by_hand(tmp_path: Path) -> None:
    dataset = demo(train=4, valid=2, test=2, extra=2)
    dataset.save(tmp_path / "data")
    make_model(tmp_path / "model", "toy", dataset, "cpu")
    policy = Work("dpo", "engine", str(tmp_path / "model"), str(tmp_path / "data"), 4, device="cpu").policy()
    config = policy.model.config
    head = config.vocab_size * 32
    body = sum(value.numel() for value in policy.model.parameters()) - head
    # prompt of 3, answers of 1, 3 and 3 tokens, the latter alike but for their end: 3 + 2 tokens read, since ends are
    # not, 1 + 2 states predict; pairs 6 + (3 + 1) + (3 + 2)
    expected = 3 * (2 * body * 5 + 2 * head * 3 + 4 * 32 * 2 * 15)
    assert useful_flops(policy, [PromptGroup([1, 5, 6], ([7], [8, 9, 7], [8, 9, 5]))], 3) == expected


def test_the_matmul_rate_is_that_of_a_product() -> None:
    assert 1e8 < matmul_rate("cpu", size=128, repetitions=3) < 1e14


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_the_matmul_rate_is_in_the_precision_of_the_engine(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, name: str
) -> None:
    products: list[torch.dtype] = []

    def timed(call: Callable[[], Tensor], _: torch.device) -> tuple[measure.Spent, Tensor]:
        products.append((product := call()).dtype)
        return measure.Spent(0.5, 0.5), product

    monkeypatch.setattr(measure, "pick_precision", lambda _wish, _device: dtype)
    monkeypatch.setattr(measure, "seconds", timed)
    assert matmul_rate("cpu", size=8, repetitions=1) == 2 * 8**3 / 0.5
    assert set(products) == {dtype}
    assert measure.precision("cpu") == name


def test_repeated_answers_are_a_fifth_distinct_and_both_sides_name_the_same_items() -> None:
    which = engine.repeated(1000)
    assert len(which) == 1000
    assert set(which.tolist()) == set(range(200))
    peers = pytest.importorskip("sprec.bench.peers", reason="needs trl")
    work = Work("grounding-repeated", "engine", "m", "d", 50, device="cpu")
    for ours, theirs in ((engine.grounding, peers.grounding), (engine.grounding_repeated, peers.grounding_repeated)):
        one, two = ours(work)(), theirs(work)()
        assert one.found == two.found
        assert one.tokens == two.tokens == 50
        assert len(one.found) == 50
    assert len(set(one.found)) == 10


def test_the_grounding_of_a_million_items_is_that_of_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MILLION", 300)
    timed: Timed = engine.million_grounding(Work("million-grounding", "engine", "m", "d", 20))()
    queries, rows = engine.embeddings(20, 300)
    assert timed.found == torch.cdist(queries.double(), rows.double()).argmin(1).tolist()


def test_the_evaluation_names_the_items_nearest_to_the_greedy_answers(tmp_path: Path) -> None:
    dataset = demo(train=4, valid=2, test=20, extra=2)
    dataset.save(tmp_path / "data")
    make_model(tmp_path / "model", "toy", dataset, "cpu")
    work = Work("evaluation", "engine", str(tmp_path / "model"), str(tmp_path / "data"), 24, device="cpu")
    answers = [parse_title(text) or "NAN" for text in engine.rollout(work)().found]
    policy = work.policy()
    queries, rows = policy.embed(answers), policy.embed(dataset.catalog.titles)
    timed: Timed = engine.evaluation(work)()
    assert timed.found == torch.cdist(queries.double(), rows.double()).argmin(1).tolist()
    assert timed.tokens == sum(map(len, policy.encode_prompts(work.texts().prompts)))


def test_synthetic_answers_differ(tmp_path: Path) -> None:
    demo(train=4, valid=2, test=2, extra=2).save(tmp_path / "data")
    answers = engine.million_answers(Work("million-trie", "engine", "m", str(tmp_path / "data"), 500), 500)
    assert len(set(answers)) == 500
    assert all(answer.startswith('"') and answer.endswith(f' {n}"\n') for n, answer in enumerate(answers))


def test_parts_say_which_sides_meet() -> None:
    found = parts(Work("", "engine", "m", "d", 10), ["dpo", "grounding", "iteration"], [1, 5])
    assert [part.name for part in found] == ["dpo-1", "dpo-5", "grounding", "iteration"]
    assert [work.part for work in found[3].peers["scripts"]] == ["rollout", "sft", "dpo", "evaluate"]
    assert found[3].peers["scripts"][3].samples == 5
    alone = parts(Work("", "engine", "m", "d", 10), ["grounding-repeated", "evaluation", "million"], [1])
    assert [(part.name, part.engine.samples, list(part.peers)) for part in alone] == [
        ("grounding-repeated", 1000, ["argsort"]), ("evaluation", 1000, []), ("million-tokens", 1_000_000, []),
        ("million-trie", 1_000_000, []), ("million-grounding", 1000, []),
    ]  # fmt: skip
    with pytest.raises(UserError, match="no part 'x'"):
        parts(Work("", "engine", "m", "d", 10), ["x"], [1])


def step(negatives: int, cpu_seconds: float, samples: int) -> dict[str, Any]:
    return {
        "part": f"dpo-{negatives}", "samples": samples, "engine": {"cpu_seconds": cpu_seconds},
        "prompt_tokens": 80.0, "own_prompt_tokens": 30.0, "answer_tokens": 10.0,
    }  # fmt: skip


def test_the_cost_of_further_negatives_by_hand() -> None:
    """C = 10: the bound is 12.5 / 100 for P = 80 and 12.5 / 50 for P = 30; K=3: (1.2 - 1) / 2, K=5: (1.8 - 1) / 4."""
    steps = [step(5, 0.9, 8), step(1, 1.0, 16), step(3, 1.2, 16)]
    line = DOCS["further_negatives"](steps)
    assert "costs 10.0% (K=3), 20.0% (K=5) of the step with one" in line
    assert "C = 10.0 tokens in the mean: that is 12.5% (K=3 met, K=5 missed) with P = 80, whole prompts, and " in line
    assert "and 25.0% (K=3 met, K=5 met) with P = 30, the tokens" in line
    del steps[1]["own_prompt_tokens"]
    assert DOCS["further_negatives"](steps).endswith("with P = 80, whole prompts.")
    assert DOCS["further_negatives"]([step(5, 1.0, 8)]) == ""
    assert DOCS["further_negatives"]([step(1, 1.0, 8)]) == ""
    older = [{key: value for key, value in step(k, 1.0, 8).items() if "tokens" not in key} for k in (1, 5)]
    assert DOCS["further_negatives"](older) == ""


def record(path: Path, precision: dict[str, str]) -> Path:
    side = {"seconds": 2.0, "cpu_seconds": 3.0, "tokens_per_second": 50.0, "peak_mib": 6000.0, "above_mib": 1000.0}
    peer = {
        "seconds": 8.0,
        "ratio": 4.0,
        "ratio_low": 3.0,
        "ratio_high": 5.0,
        "cpu_ratio": 4.5,
        "peak_mib": 10000.0,
        "above_mib": 2500.0,
    }
    parts = [
        {"part": "million-grounding", "samples": 1000, "engine": side, "peers": {}},
        {"part": "dpo-5", "samples": 8, "engine": side, "peers": {"trl": peer | {"peak_share": 0.6}}},
        {"part": "sft", "samples": 8, "engine": side, "peers": {"trl": peer | {"peak_share": 0.7}}},
    ]
    found = {"parameters": 5, "data": "d", "machine": {"device": "x"}, "date": "today", "repeats": 2, "parts": parts}
    path.write_text(json.dumps(found | {"matmul_flops": 7e10} | precision))
    return path


def test_the_table_shows_memory_targets_precision_and_parts_without_peers(tmp_path: Path) -> None:
    table = DOCS["benchmark"]([record(tmp_path / "new.json", {"precision": "fp32"})])
    rows = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert (
        "| 15 missed | 50 | 6,000 / 10,000 (60.0%, target 60% met; 40.0% of what the work takes) |" in rows["| dpo-5"]
    )
    assert "| 2 met | 50 | 6,000 / 10,000 (70%) |" in rows["| sft"]
    assert rows["| million-grounding"] == (
        "| million-grounding | | 1000 | 2 | | | 3 s | 5 s met | 50 | 6,000 (target 4,096 missed) | |"
    )
    assert "2048^3 fp32 product: 70 to 70 GFLOP/s" in table
    old = record(tmp_path / "old.json", {})
    assert "bf16" not in table
    assert "2048^3 bf16 product" in DOCS["benchmark"]([old])
    assert "2048^3 bf16 and fp32 product" in DOCS["benchmark"]([old, tmp_path / "new.json"])


def test_float32_is_compared_with_the_bf16_rate_where_that_was_measured() -> None:
    def run(precision: str, rate: float | None, **flops: float) -> dict[str, Any]:
        parts = [{"part": part, "flops": own, "engine": {"seconds": 2.0}} for part, own in flops.items()]
        return {"precision": precision, "matmul_flops_bf16": rate, "parts": parts}

    found = DOCS["beside_bf16"]([run("fp32", 1e11, sft=9e10, beam=0.0), run("fp32", 2e11, sft=3e11), run("bf16", 9e11)])
    assert "slower than those of float32 on this processor, 100 to 200 GFLOP/s" in found
    assert found.endswith(": sft 45% to 75% (missed).")
    assert DOCS["beside_bf16"]([run("fp32", None, sft=1e11), run("bf16", 9e11, sft=1e11)]) == ""


def test_counted_operations_are_those_of_products_and_attention() -> None:
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)

    def work() -> str:
        torch.randn(4, 6) @ torch.randn(6, 9)
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
        return "done"

    found, result = measure.counted(work)
    products, attention = 2 * 4 * 6 * 9, 2 * (2 * 2 * 3 * 5 * 7 * 8)
    assert (found, result) == (products + attention, "done")


def test_the_table_of_operations_has_the_work_and_the_rate() -> None:
    def side(operations: float) -> dict[str, float]:
        return {"operations": operations, "seconds": 2.0}

    sft = {"part": "sft", "samples": 64, "engine": side(4e10), "peers": {"trl": side(1e11), "old": {"seconds": 2.0}}}
    alone = {"part": "evaluation", "samples": 9, "engine": side(2e10), "peers": {}}
    whole = {"part": "iteration", "samples": 9, "engine": side(0), "peers": {}}
    before = {"part": "sft", "samples": 9, "engine": {"seconds": 2.0}, "peers": {}}
    run = {"precision": "fp32", "matmul_flops": 5e10, "matmul_flops_bf16": 2.5e10, "parts": [sft, alone, whole, before]}
    assert DOCS["operations"]([run])[2:] == [
        "| sft | 64 | 40 | 40% of `trl` | 40% (80% of bf16's) |",
        "| evaluation | 9 | 20 |  | 20% (40% of bf16's) |",
    ]
    assert DOCS["operations"]([run | {"precision": "bf16", "parts": [alone]}])[2:] == [
        "| evaluation | 9 | 20 |  | 20% |"
    ]
    assert DOCS["operations"]([run | {"parts": [before]}]) == []


def test_the_table_of_speed_has_the_range_over_runs_and_peers(tmp_path: Path) -> None:
    def file(name: str, **ratios: float) -> Path:
        parts = [{"part": "sft", "peers": {peer.replace("_", "-"): {"ratio": own} for peer, own in ratios.items()}}]
        (tmp_path / name).write_text(json.dumps({"parts": parts}))
        return tmp_path / name

    sizes = {"2M": [file("a", trl=2.61, trl_tuned=2.2), file("b", trl=2.71)], "30M": [file("c", trl=2.5)]}
    rows = {line.split(" | ")[0]: line for line in DOCS["speed"](sizes).splitlines()}
    assert rows["| fine-tuning"] == "| fine-tuning | TRL | 2.2 to 2.7 | 2.5 |"
    assert rows["| a whole iteration"].endswith("| – | – |")


def saved(path: Path, ratio: float, samples: int = 64, **more: Any) -> Path:
    part = {"part": "sft", "samples": samples, "peers": {"trl": {"ratio": ratio}}}
    path.write_text(json.dumps({"size": "2m", "precision": "fp32", "parts": [part], **more}))
    return path


@pytest.mark.parametrize(("ratio", "code"), [(3.9, 0), (3.1, 0), (2.9, 1)])
def test_the_regression_check_compares_ratios(tmp_path: Path, ratio: float, code: int) -> None:
    """With the run of about as many samples; older ones had another peer under the same name."""
    (tmp_path / "results").mkdir()
    saved(tmp_path / "results" / "2m-a.json", 4.0, batch=32)
    saved(tmp_path / "results" / "2m-b.json", 9.0, samples=512, batch=32)
    saved(tmp_path / "results" / "2m-c.json", 9.0)
    new = saved(tmp_path / "new.json", ratio, samples=32, batch=16)
    main = runpy.run_path(str(CHECK))["main"]
    assert main([str(new)], tmp_path / "results") == code
    far = saved(tmp_path / "far.json", ratio / 10, samples=15, batch=16)
    assert main([str(far)], tmp_path / "results") == 0, "no run on record is comparable"


@pytest.mark.gpu
@pytest.mark.timeout(1200)  # every side is a process that imports its libraries and compiles its kernels
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_sides_on_a_gpu() -> None:
    pytest.importorskip("trl")
    options = ("--parts", "dpo,sft,rollout,beam", "--samples", "16", "--negatives", "2", "--json")
    done = subprocess.run(
        [*BENCH[:-2], "--device", "cuda", *options],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_committed_numbers_are_no_regression_from_themselves() -> None:
    committed = sorted((CHECK.parent / "results").glob("*-*.json"))
    assert committed
    assert runpy.run_path(str(CHECK))["main"](list(map(str, committed))) == 0
