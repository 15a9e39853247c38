"""Batches that were finished are not done again; damaged lines of the journal are."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_scoring import load, ragged_groups

from sprec.engine.batches import in_batches
from sprec.engine.generation import Decoding, generate
from sprec.engine.scoring import score

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
        file.write_bytes(whole[:position])  # torn: what is added comes on a line of its own
        done: list[list[int]] = []
        in_batches(BATCHES, square(done), "", journal=tmp_path)
        assert len(done) == 3 - whole[: position + 1].count(b"\n") or whole[position] == ord("\n")
        again: list[list[int]] = []
        in_batches(BATCHES, square(again), "", journal=tmp_path)
        assert again == []


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
