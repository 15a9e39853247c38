"""Batches that were finished are not done again; damaged lines of the journal are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_scoring import load, ragged_groups

from sprec.engine.batches import cached, in_batches, wider
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.train.scoring import score
from sprec.system.errors import UserError

BATCHES = [[3, 1], [0], [2, 4]]


def square(done: list[list[int]], stop_after: int = 99) -> Callable[[list[int]], list[float]]:
    def work(rows: list[int]) -> list[float]:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(rows)
        return [row * row / 3 for row in rows]

    return work


def test_values_come_in_the_order_of_the_rows() -> None:
    assert in_batches(BATCHES, square([]), "") == [0, 1 / 3, 4 / 3, 3, 16 / 3]
    assert in_batches([], square([]), "") == []


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_finished_batches_are_remembered(stop: int, tmp_path: Path) -> None:
    done: list[list[int]] = []
    with pytest.raises(KeyboardInterrupt):
        in_batches(BATCHES, square(done, stop), "", journal=tmp_path)
    assert in_batches(BATCHES, square(done), "", journal=tmp_path) == [0, 1 / 3, 4 / 3, 3, 16 / 3]
    assert done == BATCHES


def test_every_damaged_byte_of_the_journal_is_noticed(tmp_path: Path) -> None:
    in_batches(BATCHES, square([]), "", journal=tmp_path)
    file = tmp_path / "batches-0.jsonl"
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert in_batches(BATCHES, square([]), "", journal=tmp_path) == [0, 1 / 3, 4 / 3, 3, 16 / 3]
        file.write_bytes(whole[:position])  # torn: the next entry starts on a new line
        done: list[list[int]] = []
        in_batches(BATCHES, square(done), "", journal=tmp_path)
        assert len(done) == 3 - whole[: position + 1].count(b"\n") or whole[position] == ord("\n")
        again: list[list[int]] = []
        in_batches(BATCHES, square(again), "", journal=tmp_path)
        assert again == []


def test_torn_and_damaged_lines_of_the_journal_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_batches(BATCHES, square([]), "", journal=tmp_path)
    in_batches(BATCHES, square([]), "", journal=tmp_path)
    assert capsys.readouterr().err == "", "it is whole"
    file = tmp_path / "batches-0.jsonl"
    first, second, third, *_ = file.read_text().splitlines()
    file.write_text("\n".join([first.replace("[", "{"), second, third[:-3]]))
    done: list[list[int]] = []
    in_batches(BATCHES, square(done), "", journal=tmp_path)
    assert done == [BATCHES[0], BATCHES[2]]
    assert capsys.readouterr().err == f"! {file} has torn or damaged lines (2); their batches are done again\n"


def roomy_for(rows_at_once: int, tried: list[list[int]]) -> Callable[[list[int]], list[float]]:
    def work(rows: list[int]) -> list[float]:
        tried.append(rows)
        if len(rows) > rows_at_once:
            raise torch.OutOfMemoryError("out of memory")
        return [row * row / 3 for row in rows]

    return work


def test_a_batch_that_does_not_fit_is_done_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[list[int]] = []
    batches = [[0, 1], [2, 3, 4, 5, 6], [7, 8, 9]]
    assert in_batches(batches, roomy_for(2, tried), "scores") == [row * row / 3 for row in range(10)]
    assert tried == [[0, 1], [2, 3, 4, 5, 6], [2, 3, 4], [2, 3], [4, 5], [6], [7], [8], [9]]
    assert capsys.readouterr().err.splitlines() == [
        "! out of memory in scores: going on with 1/2 of a batch at once",
        "! out of memory in scores: going on with 1/4 of a batch at once",
    ]
    with pytest.raises(UserError, match=r"out of memory in scores with one example at once; take a smaller model"):
        in_batches(batches, roomy_for(0, []), "scores")


def test_other_errors_of_the_work_are_not_swallowed() -> None:
    def work(_: list[int]) -> list[float]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        in_batches(BATCHES, work, "scores")


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=6), Decoding("sample", 6, count=2, seed=3)])
def test_scores_and_answers_do_not_depend_on_pieces(
    decoding: Decoding, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, groups = load(checkpoint("llama")), ragged_groups(5, 12, 3)
    asked = [group.prompt for group in groups]
    scores, answers = score(policy, groups), generate(policy, asked, decoding)
    forward = type(policy.model).forward

    def scarce(*arguments: Any, **options: Any) -> Any:
        ids = options.get("input_ids", arguments[1] if len(arguments) > 1 else None)
        if ids is not None and len(ids) > 4 * decoding.count:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*arguments, **options)

    monkeypatch.setattr(type(policy.model), "forward", scarce)
    for one, two in zip(scores, score(policy, groups), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    again = generate(policy, asked, decoding)
    assert [[one.tokens for one in own] for own in answers] == [[one.tokens for one in own] for own in again]


def test_other_batches_are_not_taken_for_these(tmp_path: Path) -> None:
    in_batches(BATCHES, square([]), "", journal=tmp_path)
    done: list[list[int]] = []
    in_batches([[0], [1, 2, 3, 4]], square(done), "", journal=tmp_path)
    assert done == [[1, 2, 3, 4]]


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
def test_interrupted_rollouts_equal_whole_ones(
    mode: str, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load(checkpoint("llama"))
    prompts = [group.prompt for group in ragged_groups(3, 12, 1)]
    decoding = Decoding(mode, max_new_tokens=6, count=2, beams=3, seed=4)  # type: ignore[arg-type]
    expected = generate(policy, prompts, decoding, budget=256)
    forward, calls = policy.model.forward, 0

    def dies(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(policy.model, "forward", dies)
        with pytest.raises(KeyboardInterrupt):
            generate(policy, prompts, decoding, budget=256, journal=tmp_path)
    assert len((tmp_path / "batches-0.jsonl").read_text().splitlines()) >= 1
    assert generate(policy, prompts, decoding, budget=256, journal=tmp_path) == expected
    assert generate(policy, prompts, decoding, budget=256, journal=tmp_path) == expected


def test_scores_survive_the_journal_bit_for_bit(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    policy, groups = load(checkpoint("qwen")), ragged_groups(3, 12, 3)
    plain = score(policy, groups, budget=256)
    for _ in range(2):
        found = score(policy, groups, budget=256, journal=tmp_path)
        assert all((one == two).all() for one, two in zip(plain, found, strict=True))


def test_batches_without_gradients_are_wider() -> None:
    """On a GPU at least two; on a CPU half as wide, or all at once."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert wider(100, [50] * 1000, cpu, 8) == 400
    assert wider(100, [50] * 3, cpu, 8) == 150
    assert wider(100, [60, 20, 20], cpu, 8) == 180, "room for all, padded"
    assert wider(100, [50], cpu, 8) == 100
    assert wider(100, [50] * 1000, gpu, 8) == 800
    assert wider(100, [50] * 10, gpu, 8) == 250, "two batches of five"
    assert wider(100, [50], gpu, 8) == 100


def test_what_is_read_once_stays_in_the_caches_of_a_cpu() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [cached(budget, cpu) for budget in (1, 2048, 8192)] == [2, 4096, 4096]
    assert [cached(budget, gpu) for budget in (1, 2048, 8192)] == [1, 2048, 8192]
