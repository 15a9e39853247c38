"""The whole method: backbone, SFT, iterations, evaluation. The loop reads like the paper's pseudo-code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sprec import storage
from sprec.config import Recipe
from sprec.data import Dataset
from sprec.engine import processes
from sprec.engine.backbone import pick_device
from sprec.errors import UserError
from sprec.methods.histories import longest
from sprec.methods.sampling import excluded_items, require_room
from sprec.methods.table import WITHOUT_MODEL
from sprec.progress import say
from sprec.runs import health, stages
from sprec.runs.oracle import needs_oracle, oracle
from sprec.runs.session import Session
from sprec.runs.store import Stage, Store

METRICS, RECIPE, MODEL = "metrics.json", "recipe.json", "model"


@dataclass(frozen=True)
class Result:
    """The metrics of one evaluated stage."""

    stage: str
    iteration: int
    method: str
    metrics: Mapping[str, float]


def run(
    recipe: Recipe,
    dataset: Dataset,
    out: Path | str,
    *,
    shared: Path | None = None,
    strict: bool = False,
    patient: bool = True,
) -> list[Result]:
    """Run a recipe on a dataset; the same call again resumes where it stopped.

    Args:
        recipe: all settings.
        dataset: the data, as it was loaded or saved; its test split must not be empty.
        out: the run directory.
        shared: a folder where runs share stages that they have in common.
        strict: refuse damaged stages instead of redoing them.
        patient: wait for a stage that another run is making; else end with :class:`~sprec.runs.store.BusyError`.

    Returns:
        The metrics of each evaluated stage, in order; also in ``out/metrics.json``.

    Raises:
        UserError: the recipe does not fit the data, or these are in memory only.
        BusyError: another process works in the directory.
    """
    if not dataset.hash:
        raise UserError(f"{dataset.name} is not on the disk, where runs know data by: dataset = dataset.save(FOLDER)")
    check_fit(recipe, dataset)
    check_installed(recipe)
    store = Store(Path(out), shared, strict, patient)
    processes.start(cpu=pick_device(recipe.device).type == "cpu")
    with processes.together(), store.lock():
        processes.by_first(lambda: _open(store, recipe, dataset))
        session = Session(recipe, dataset, store)
        results, final = _without_model(session) if recipe.method in WITHOUT_MODEL else _loop(session)
        processes.by_first(lambda: _close(store, results, final))
    return results


def _open(store: Store, recipe: Recipe, dataset: Dataset) -> None:
    """Put recipe and data into the run directory; results of other settings or data leave it."""
    about, file = describe(recipe, dataset), store.root / RECIPE
    if (store.root / storage.MANIFEST).exists():
        _complain(store, storage.verify(store.root))
    with storage.writing(store.root, "make room or choose another -o"):
        if _text(file) != storage.as_text(about):
            (store.root / storage.MANIFEST).unlink(missing_ok=True)
            (store.root / METRICS).unlink(missing_ok=True)
            storage.discard(store.root / MODEL)
            storage.write_json(file, about)
        if not _has_data(store, dataset):
            dataset.save(store.root / "dataset", overwrite=True)


def _close(store: Store, results: Sequence[Result], final: Stage | None) -> None:
    """Metrics, the last model if there is one, and the manifest that says that the run is complete."""
    with storage.writing(store.root, "the stages are intact, the same command finishes the run"):
        storage.write_json(store.root / METRICS, [record(result) for result in results])
        if final is not None:
            storage.link_tree(final.folder / MODEL, store.root / MODEL)
        model = [path.relative_to(store.root).as_posix() for path in sorted((store.root / MODEL).rglob("*"))]
        storage.seal(store.root, {}, [RECIPE, METRICS, *model])
    store.prune()


def _text(file: Path) -> str:
    """The content of a file, empty where there is none or it is damaged."""
    try:
        return file.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def _without_model(session: Session) -> tuple[list[Result], None]:
    """The methods that rank items: one evaluation."""
    method = session.recipe.method
    basis = oracle(session) if needs_oracle(session.recipe) else Stage(Path(), method)
    metrics = stages.evaluate(session, f"{method}-0", basis, basis)
    return [Result(method, 0, method, metrics)], None


def _loop(session: Session) -> tuple[list[Result], Stage]:
    recipe, loop = session.recipe, session.recipe.loop
    results: list[Result] = []
    start_from = "bigrec" if loop.iterations else recipe.method

    def evaluate(stage: str, policy: Stage, iteration: int, last: bool) -> None:
        if last or iteration == 0 or recipe.evaluate == "stages":
            metrics = stages.evaluate(session, f"{stage}-{iteration}", policy, backbone)
            results.append(Result(stage, iteration, recipe.method if iteration else start_from, metrics))
            _watch(results, recipe)

    backbone = stages.backbone(session)
    if needs_oracle(recipe):
        oracle(session)
    policy = stages.initial_sft(session, backbone)
    evaluate("sft", policy, 0, last=loop.iterations == 0)
    for iteration in range(1, loop.iterations + 1):
        last = iteration == loop.iterations
        sample = stages.draw(session, iteration)
        start = policy
        if loop.dpo_step:
            negatives = stages.negatives(session, policy, backbone, sample, iteration)
        if loop.sft_step:
            policy = stages.sft_step(session, policy, sample, iteration)
            evaluate("sft", policy, iteration, last=last and not loop.dpo_step)
        if loop.dpo_step:
            reference = policy if recipe.prefer.reference == "post-sft" else start
            policy = stages.prefer(session, policy, reference, negatives, iteration, current=start)
            evaluate("prefer", policy, iteration, last)
    return results, policy


def record(result: Result) -> dict[str, Any]:
    """A result as JSON: an undefined metric is null."""
    return vars(result) | {"metrics": storage.defined(result.metrics)}


def check_fit(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse what cannot work before any work is done.

    Raises:
        UserError: an empty split, a catalog that is too small, or missing genres.
    """
    for split in ("train", recipe.split):
        if not len(dataset.splits[split]):
            raise UserError(f"the {split} split of {dataset.name} is empty; import the data again with another split")
    items, k = len(dataset.catalog), recipe.recommend.top_k
    if k > items:
        raise UserError(f"recommend.top_k={k}, but the catalog of {dataset.name} has {items} items; lower it")
    check_beams(recipe, dataset)
    _require_negatives(recipe, dataset)
    if needs_oracle(recipe) and items < 2:
        raise UserError(f"SASRec learns to tell items apart, and the catalog of {dataset.name} has {items}")
    if needs_oracle(recipe) and not len(dataset.valid):
        raise UserError(f"SASRec stops by validation, and the valid split of {dataset.name} is empty; import one")
    if recipe.method not in WITHOUT_MODEL and recipe.sft.epochs and recipe.sft.valid and not len(dataset.valid):
        raise UserError(
            f"the SFT keeps the epoch with the best validation loss, and the valid split of {dataset.name} is empty; "
            "import one, or set sft.valid=0 to keep the last epoch"
        )
    if recipe.recommend.exclude_history:
        cases = dataset.splits[recipe.split][: recipe.cases]
        require_room(excluded_items(cases, items, history=True, target=False), items, k)
    if recipe.sft.weights not in ("none", "equal") and not dataset.genres:
        raise UserError(f"method {recipe.method} weighs samples by genre, but {dataset.name} has no genres")


def check_beams(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse a search for more titles than there are.

    Raises:
        UserError: names the setting.
    """
    beams, items = recipe.recommend.beams, len(dataset.catalog)
    if recipe.recommend.protocol in ("exact", "d3", "d3-grounded") and beams > items:
        raise UserError(f"recommend.beams={beams}, but the catalog of {dataset.name} has {items} items; lower it")


def _require_negatives(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse more negatives than the catalog has for some training example.

    Raises:
        UserError: names the setting.
    """
    settings, items = recipe.negatives, len(dataset.catalog)
    if not recipe.loop.iterations or not recipe.loop.dpo_step:
        return
    if settings.count >= items:
        raise UserError(f"negatives.count={settings.count}, but the catalog has {items} items; lower it")
    semantic = settings.source == "semantic"
    wanted = (settings.top or settings.count) if semantic else settings.count
    sampled = settings.source != "self-play" or settings.random_ratio > 0
    if not sampled or wanted + longest(dataset.train) + 1 <= items:  # no example can exclude more than that
        return
    excluded = excluded_items(
        dataset.train,
        items,
        history=not settings.least_similar if semantic else settings.exclude_history,
        target=not (semantic and settings.least_similar),
    )
    try:
        require_room(excluded, items, wanted)
    except UserError as error:
        raise UserError(f"negatives.{'top' if semantic and settings.top else 'count'}={wanted}: {error}") from error


def check_installed(recipe: Recipe) -> None:
    """Refuse trackers and encoders that are not installed before any work is done.

    Raises:
        UserError: names the package.
    """
    encodes = recipe.method not in WITHOUT_MODEL and recipe.recommend.encoder.startswith("sentence-transformers:")
    if encodes and find_spec("sentence_transformers") is None:
        raise UserError("recommend.encoder needs sentence-transformers: pip install 'sprec[ground]'")
    for tracker in recipe.track:
        if find_spec(tracker) is None:
            raise UserError(f"track=[{tracker}] needs the package {tracker}: pip install {tracker}")


def _has_data(store: Store, dataset: Dataset) -> bool:
    """Whether the run directory already holds this dataset: it goes along, so that a run can be used anywhere."""
    folder = store.root / "dataset"
    if not folder.exists():
        return False
    try:
        return Dataset.load(folder).hash == dataset.hash
    except UserError as error:
        _complain(store, str(error).split(";")[0])
        storage.discard(folder)
        return False


def _complain(store: Store, problem: str) -> None:
    if problem and store.strict:
        raise UserError(f"{problem}; without --strict it is written again")
    if problem:
        say(f"! {problem}; it is written again")


def describe(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What ``recipe.json`` holds: the resolved recipe, the data it ran on, and the versions."""
    data = {"name": dataset.name, "hash": dataset.hash, "counts": {n: len(s) for n, s in dataset.splits.items()}}
    return {"recipe": recipe.model_dump(mode="json"), "dataset": data, "versions": storage.versions()}


def load_results(out: Path | str) -> list[Result]:
    """The metrics of a finished run.

    Raises:
        UserError: there is no finished run.
    """
    problem = storage.verify(Path(out), METRICS)
    if problem:
        raise UserError(f"{out} is not a finished run ({problem}); the same sprec run command finishes it")
    return [result_of(**entry) for entry in storage.read_json(Path(out) / METRICS)]


def result_of(stage: str, iteration: int, method: str, metrics: dict[str, float | None]) -> Result:
    """A result from what :func:`record` made of it."""
    values = {name: math.nan if value is None else value for name, value in metrics.items()}
    return Result(stage, iteration, method, values)


def _watch(results: list[Result], recipe: Recipe) -> None:
    """Warn of what goes wrong, and stop if the recipe wants that, when the model forgets how titles are written."""
    where = f"{results[-1].stage} {results[-1].iteration}"
    preferred = results[-1].stage == "prefer" or (recipe.loop.dpo_step and results[-1].iteration > 1)
    for warning in health.of_evaluations([result.metrics for result in results], preferred):
        say(f"! after {where}: {warning}")
    share = results[-1].metrics.get("ExactTitles", 1.0)
    health.require_titles(share, recipe.stop_below_exact_share, where, preferred)
