"""Training examples whose token ids are kept in files are those that are kept in memory, made once for all stages."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from sprec.config import HuggingFace
from sprec.data import Dataset
from sprec.engine import columns
from sprec.engine.model.policy import Policy, load_huggingface
from sprec.prompts import PromptBuilder, Style
from sprec.runs.examples import preference_groups, prompts, sequence_groups, sft_groups


@pytest.fixture(scope="module")
def policy(checkpoint: Callable[[str], Path]) -> Policy:
    return load_huggingface(HuggingFace(path=str(checkpoint("llama")), lora=None), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("style", ["unified", "official", "compact"])
def test_files_hold_what_memory_holds(
    style: Style, policy: Policy, toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that cuts prompts; chunks of 7 of 30 examples."""
    monkeypatch.setattr(columns, "CHUNK", 7)
    examples = toy_dataset.train[:30]
    builder = PromptBuilder(toy_dataset.catalog, toy_dataset.wording, style, 10)
    titles = [[toy_dataset.catalog.titles[row % 9]] * (row % 3) + ["No such film"] for row in range(30)]
    longest = max(map(len, prompts(policy, builder, examples, "sft", 10_000)))
    limit = longest - 3

    def made(folder: Path | None) -> dict[str, Sequence[object]]:
        return {
            "sft": sft_groups(policy, builder, examples, limit, folder),
            "prefer": preference_groups(policy, builder, examples, titles, limit, folder),
            "sequence": sequence_groups(policy, builder, examples, limit, folder),
            "prompts": prompts(policy, builder, examples, "generate", limit, folder),
        }

    expected = made(None)
    for name, found in made(tmp_path).items():
        assert list(found) == list(expected[name]), name
    folders = {folder.name for folder in tmp_path.iterdir()}
    assert len(folders) == (3 if style == "official" else 1) + 2  # of prompts, and two of answers
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "_encode", lambda *_, **__: pytest.fail("tokenised again"))
        made(tmp_path)
    sft_groups(policy, builder, examples, limit - 1, tmp_path)
    sft_groups(policy, builder, toy_dataset.train[1:31], limit, tmp_path)
    assert len(list(tmp_path.iterdir())) in (len(folders) + 2, len(folders) + 3)  # other targets, perhaps


def test_the_key_of_a_tokenizer_is_of_its_content(policy: Policy, checkpoint: Callable[[str], Path]) -> None:
    twin = load_huggingface(HuggingFace(path=str(checkpoint("llama")), lora=None), torch.device("cpu"), torch.float32)
    assert twin.tokenizer_content == policy.tokenizer_content
    twin.tokenizer.add_tokens(["Dune"])
    del twin.__dict__["tokenizer_content"]
    assert twin.tokenizer_content != policy.tokenizer_content
