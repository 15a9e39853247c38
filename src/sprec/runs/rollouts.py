"""Rejected answers: the model's own (self-play) or sampled items, and their file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from sprec.config import HuggingFace
from sprec.data import Catalog, Split
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.decode.remote import Served, complete, load_adapters
from sprec.methods import negatives as samplers
from sprec.methods.histories import item_counts
from sprec.prompts import PromptBuilder, parse_negative
from sprec.runs.examples import prompts
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.runs.streams import Stream, rng_of, seed_of
from sprec.system import processes

FILE = "rollouts.jsonl"
_REDRAWS = 8
"""Samples for a case whose answer is its target; the prompt is read once for all."""


@dataclass(frozen=True)
class Rollouts:
    """Rejected titles of n training examples.

    Attributes:
        rows: rows of the training split, (n,); examples without negatives are left out.
        titles: the rejected titles of each, best first; not necessarily titles of the catalog.
    """

    rows: np.ndarray
    titles: list[list[str]]

    def write(self, folder: Path, builder: PromptBuilder, train: Split) -> None:
        """Write a JSON line per pair: prompt, chosen, rejected (TRL's form), row, target and rejected item (or null).

        Args:
            folder: gets the file.
            builder: writes prompts and answers.
            train: the training split.
        """
        with (folder / FILE).open("w", encoding="utf-8") as file:
            for row, titles in zip(self.rows.tolist(), self.titles, strict=True):
                example = train[row]
                for title in titles:
                    pair = {
                        "row": row,
                        "prompt": builder.prompt(example.history, "prefer"),
                        "chosen": builder.response(example.target, "prefer"),
                        "rejected": builder.reject(title),
                        "target": example.target,
                        "rejected_item": builder.catalog.by_title.get(title),
                        "title": title,
                    }
                    file.write(json.dumps(pair, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Rollouts":
        """Read the file of :meth:`write` in a ``folder``."""
        titles: dict[int, list[str]] = {}
        with (folder / FILE).open(encoding="utf-8") as file:
            for line in file:
                pair = json.loads(line)
                titles.setdefault(pair["row"], []).append(pair["title"])
        return cls(np.array(list(titles), dtype=np.int64), list(titles.values()))

    def without_equal(self, catalog: Catalog, train: Split) -> "Rollouts":
        """Leave out rejected titles that are those of the targets in ``train``, by the ``catalog``."""
        kept = [
            [title for title in titles if title != catalog.titles[train.targets[row]]]
            for row, titles in zip(self.rows, self.titles, strict=True)
        ]
        return Rollouts._of(self.rows, kept)

    @classmethod
    def _of(cls, rows: np.ndarray, titles: Sequence[list[str]]) -> "Rollouts":
        full = [index for index, own in enumerate(titles) if own]
        return cls(np.asarray(rows)[full], [titles[index] for index in full])

    def news(self, catalog: Catalog) -> str:
        """A summary of the negatives in words, by the ``catalog``: the first place where a collapsing model shows."""
        titles = [title for own in self.titles for title in own]
        return f"{len(titles)} negatives, {len(set(titles))} distinct, {self.known(catalog):.0%} in the catalog"

    def known(self, catalog: Catalog) -> float:
        """Share of the titles that exist in the ``catalog``; 0 if there are none."""
        titles = [title for own in self.titles for title in own]
        return sum(title in catalog.by_title for title in titles) / max(1, len(titles))


def make_rollouts(session: Session, policy: Stage, backbone: Stage, rows: np.ndarray, iteration: int) -> Rollouts:
    """The negatives of an iteration by the recipe.

    A share ``random_ratio`` of the cases gets uniform items instead (paper, RQ3).

    Args:
        session: the run.
        policy: the model that answers.
        backbone: encodes titles, for grounded and semantic negatives.
        rows: of the training split.
        iteration: its number, from 1.
    """
    settings, catalog = session.recipe.negatives, session.dataset.catalog
    examples = session.dataset.train.take(rows)
    if settings.source == "self-play":
        titles = _self_play(session, policy, backbone, examples, iteration)
    else:
        titles = _titles(catalog, _sampled(session, backbone, examples, iteration))
    if settings.random_ratio:
        rng = rng_of(session.recipe.seed, Stream.MIX, iteration)
        drawn = samplers.uniform(rng, examples, len(catalog), settings.count, settings.exclude_history)
        titles = samplers.mix(rng, titles, _titles(catalog, drawn), settings.random_ratio)
    return Rollouts._of(rows, titles)


def _self_play(session: Session, policy: Stage, backbone: Stage, examples: Split, iteration: int) -> list[list[str]]:
    """The policy's answers: parsed, without repetitions in a case, at most N per case."""
    settings, recipe = session.recipe.negatives, session.recipe
    wide = 2 * settings.count  # paper, RQ3: 2N beams, then the N best different titles
    decoding = Decoding(
        mode=settings.decode,
        max_new_tokens=_limit(session, policy),
        count=wide if settings.decode == "beam" else settings.count,
        beams=wide,
        temperature=settings.temperature,
        seed=seed_of(recipe.seed, Stream.ROLLOUT, iteration),
    )
    titles = _answers(session, policy, backbone, examples, decoding, f"rollout {iteration}", "rollout")
    if settings.redraw_equal:
        titles = _wrong_answers(session, policy, backbone, examples, titles, iteration)
    return [own[: settings.count] for own in titles]


def _limit(session: Session, policy: Stage) -> int:
    setting = session.recipe.negatives.max_new_tokens
    return session.answer_limit(session.policy(policy), setting, "negatives.max_new_tokens")


def _wrong_answers(
    session: Session, policy: Stage, backbone: Stage, examples: Split, titles: list[list[str]], iteration: int
) -> list[list[str]]:
    """Answers without the targets; if no other is left, samples are drawn (RosePO, self-hard).

    A case whose samples are all its target has no negative.
    """
    wanted = [session.dataset.catalog.titles[target] for target in examples.targets]
    wrong = [[title for title in own if title != target] for own, target in zip(titles, wanted, strict=True)]
    again = np.array([case for case, own in enumerate(titles) if own and not wrong[case]], dtype=np.int64)
    if not len(again):
        return wrong
    decoding = Decoding(
        mode="sample",
        max_new_tokens=_limit(session, policy),
        count=_REDRAWS,
        temperature=session.recipe.negatives.temperature,
        seed=seed_of(session.recipe.seed, Stream.REDRAW, iteration),
    )
    # which cases these are may depend on rounding, and so on an earlier process's batches
    journal = f"redraw-{sha256(again.tobytes()).hexdigest()[:16]}"
    drawn = _answers(session, policy, backbone, examples.take(again), decoding, f"redraw {iteration}", journal)
    for case, own in zip(again.tolist(), drawn, strict=True):
        wrong[case] = [title for title in own if title != wanted[case]]
    return wrong


def _answers(
    session: Session, policy: Stage, backbone: Stage, examples: Split, decoding: Decoding, note: str, name: str
) -> list[list[str]]:
    """The distinct titles in the policy's answers to each example, grounded if the recipe says so.

    Args:
        note: for the progress bar.
        name: of the journal.
    """
    recipe, model = session.recipe, session.policy(policy)
    asked = prompts(model, session.builder, examples, "generate", recipe.prompt.max_tokens, session.store.tokens)
    journal = session.store.unfinished / name
    if recipe.server:
        answers = complete(model, asked, decoding, _served(session, policy), description=note, journal=journal)
    else:
        answers = generate(model, asked, decoding, budget=recipe.tokens_per_batch, description=note, journal=journal)
    titles, known = [], session.dataset.catalog.by_title
    for answer in answers:
        texts = model.decode([completion.tokens for completion in answer])
        parsed = [parse_negative(text, known) for text in texts]
        titles.append(list(dict.fromkeys(title for title in parsed if title)))
    if recipe.negatives.ground:
        nearest = session.grounder(backbone)
        grounded = [_titles(session.dataset.catalog, nearest.top_k(own, 1).T)[0] if own else [] for own in titles]
        titles = [list(dict.fromkeys(own)) for own in grounded]  # several titles may have the same nearest item
    return titles


def _served(session: Session, policy: Stage) -> Served:
    """The weights of a stage on the recipe's server, under a unique name, as servers keep caches by name."""
    server, folder = session.recipe.server, policy.folder / "model"
    if server is None:
        raise ValueError("no server asked for")
    if isinstance(session.recipe.backbone, HuggingFace) and session.recipe.backbone.lora:
        return processes.by_first(lambda: load_adapters(server, policy.key, folder))
    named = session.store.unfinished.absolute() / f"model-{policy.key}"

    def link() -> None:
        named.parent.mkdir(parents=True, exist_ok=True)
        if not named.is_symlink():
            named.symlink_to(folder.absolute(), target_is_directory=True)

    processes.by_first(link)
    return Served(server, str(named))


def _sampled(session: Session, backbone: Stage, examples: Split, iteration: int) -> np.ndarray:
    """Item ids of sampled negatives, (n, K)."""
    settings, train, items = session.recipe.negatives, session.dataset.train, len(session.dataset.catalog)
    drawing = samplers.Drawing(
        rng_of(session.recipe.seed, Stream.NEGATIVES, iteration),
        examples,
        items,
        settings,
        counts=lambda: item_counts(train, items),
        embeddings=lambda: session.grounder(backbone).item_embeddings,
    )
    return samplers.SAMPLERS[settings.source].draw(drawing)


def _titles(catalog: Catalog, items: np.ndarray) -> list[list[str]]:
    return [[catalog.titles[item] for item in row if item >= 0] for row in items.tolist()]
