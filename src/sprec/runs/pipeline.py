"""The whole method: backbone, SFT, iterations, evaluation. The loop reads like the paper's pseudo-code."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprec.config import Recipe
from sprec.data import Dataset
from sprec.runs import health, stages
from sprec.runs.checks import check_fit, check_installed, check_method
from sprec.runs.keys import EVERYTHING, settings_of
from sprec.runs.lineage import further, has_other_items, lineage
from sprec.runs.origin import start_from
from sprec.runs.protocols import trains_model
from sprec.runs.recipes import validate
from sprec.runs.sasrec_stage import needs_sasrec, sasrec
from sprec.runs.session import Session, Start
from sprec.runs.store import EVALUATIONS, KEPT, RECIPE, Stage, Store
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.hardware import pick_device
from sprec.system.progress import say

METRICS = "metrics.json"
_BASELINE = "baseline-"


@dataclass(frozen=True)
class Result:
    """The ``metrics`` of one evaluated ``stage`` of a ``method``, in an ``iteration`` (0 before the first)."""

    stage: str
    iteration: int
    method: str
    metrics: Mapping[str, float]

    @property
    def baseline(self) -> bool:
        """Whether it is of a recommender that stands beside the run's own models."""
        return self.stage.startswith(_BASELINE)


def run(
    recipe: Recipe,
    dataset: Dataset,
    out: Path | str,
    *,
    shared: Path | None = None,
    strict: bool = False,
    patient: bool = True,
    overwrite: bool = False,
    start: Path | None = None,
) -> list[Result]:
    """Run a recipe on a dataset; the same call again resumes where it stopped.

    Args:
        recipe: all settings.
        dataset: the data, loaded or saved; its test split must not be empty.
        out: the run directory.
        shared: a folder where runs share common stages.
        strict: refuse damaged stages instead of making them again.
        patient: wait for a stage that another run is making; if False, end with
            :class:`~sprec.runs.store.BusyError`.
        overwrite: replace a run on other data, or one that is finished. Its model, metrics and data stay until this run
            is complete.
        start: a finished run to continue: its last model is trained further, on the rows that it has not seen.

    Returns:
        The metrics of the baselines, then of each evaluated stage, in order; also in ``out/metrics.json``.

    Raises:
        UserError: the recipe does not fit the data, the data are only in memory, or the directory holds a run on other
            data or something that is not a run.
        BusyError: another process works in the directory.
    """
    if not dataset.hash:
        raise UserError(f"{dataset.name} is in memory only; save it first: dataset = dataset.save(FOLDER)")
    check_method(recipe)
    check_fit(recipe, dataset)
    check_installed(recipe)
    store = Store(Path(out), shared, strict, patient)
    session = Session(recipe, dataset, store, start_from(start, recipe, dataset) if start else None)
    about = describe(recipe, dataset, further(start, store.root) if start else ())
    processes.start(cpu=pick_device(recipe.device).type == "cpu")
    with processes.together(), store.lock():
        processes.by_first(lambda: _open(session, about, overwrite))
        results, kept = _stages(session)
        processes.by_first(lambda: _close(session, about, results, kept))
    return results


def _open(session: Session, about: Mapping[str, Any], overwrite: bool) -> None:
    """Write recipe and data to the run directory; the files of a finished run stay until its successor is complete.

    Raises:
        UserError: without ``overwrite``: the run is on other data, or finished and would lose stages.
    """
    store, dataset = session.store, session.dataset
    root, problem = store.root, ""
    sealed = (root / storage.MANIFEST).exists()
    if sealed:
        problem = storage.verify(root)
        _complain(store, problem)
    before = _data_of(root)
    if before not in ("", dataset.hash) and not overwrite:
        raise UserError(
            f"{root} is a run on other data than {dataset.name}; choose another -o, or pass --overwrite to replace it"
        )
    if sealed and not problem and not overwrite:
        _require_same_stages(root, session, about)
    with storage.writing(root, "make room or choose another -o"):
        if not sealed or problem:
            _describe(root, about)
        if not sealed or problem or before == dataset.hash:
            _keep_data(store, dataset)


def _require_same_stages(root: Path, session: Session, about: Mapping[str, Any]) -> None:
    """Refuse to replace stages of a finished run.

    Raises:
        UserError: names a stage that would be replaced, and the changed settings.
    """
    if has_other_items(root):
        raise UserError(
            f"{root} holds a trained model whose items were changed; choose another -o, or pass --overwrite to "
            "replace it"
        )
    recipe = session.recipe
    before, now = storage.read_manifest(root).get("stages", {}), planned(recipe, session.dataset, session.start)
    lost = [folder for folder, key in before.items() if now.get(folder.partition("-")[2]) != key]
    if not lost:
        return
    try:
        old = settings_of(validate(storage.read_json(root / RECIPE)["recipe"], RECIPE), EVERYTHING)
    except UserError:  # written by a version with other settings
        old = {}
    new = settings_of(recipe, EVERYTHING)
    others = [name for name in {**old, **new} if old.get(name) != new.get(name)] if old else []
    if lineage(root) != about.get("lineage", []):
        others.insert(0, "--from")
    raise UserError(
        f"{root} is finished, and {lost[0]} would be made again "
        f"({'another ' + ', '.join(others[:3]) if others else 'it is of another version'}); choose another -o, or pass "
        "--overwrite to replace the run"
    )


def _describe(root: Path, about: Mapping[str, Any]) -> bool:
    """Write ``recipe.json`` if it changes, and remove the seal and metrics, which are then no longer valid."""
    content = storage.as_text(about)
    if _text(root / RECIPE) == content:
        return False
    (root / storage.MANIFEST).unlink(missing_ok=True)
    (root / METRICS).unlink(missing_ok=True)
    storage.write_text(root / RECIPE, content)
    return True


def _close(session: Session, about: Mapping[str, Any], results: Sequence[Result], kept: Mapping[str, Stage]) -> None:
    """Complete a run: recipe, data, metrics, :data:`KEPT`, and the manifest that seals it."""
    store = session.store
    root = store.root
    with storage.writing(root, "the stages are intact, the same command finishes the run"):
        if _describe(root, about):
            _keep_data(store, session.dataset)
        storage.write_json(root / METRICS, [record(result) for result in results])
        for name in KEPT:
            if name in kept and kept[name].folder != Path():  # models from the hub are not copied
                storage.link_tree(kept[name].folder, root / name)
            else:
                storage.discard(root / name)
        files = [file.relative_to(root).as_posix() for name in KEPT for file in sorted((root / name).rglob("*"))]
        keys = {"stages": store.keys, "backbone": kept["backbone"].key if "backbone" in kept else ""}
        storage.seal(root, keys, [RECIPE, METRICS, *files])
    store.prune()


def _data_of(root: Path) -> str:
    """The hash of the data that a run directory was made from; empty if unknown."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(storage.read_json(root / RECIPE)["dataset"]["hash"])
    with suppress(UserError):
        return Dataset.load(root / "dataset").hash
    return ""


def _text(file: Path) -> str:
    """The content of a file, empty if it is missing or damaged."""
    try:
        return file.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def planned(recipe: Recipe, dataset: Dataset, start: Start | None = None) -> dict[str, str]:
    """The stages of a run, by name, with their keys; nothing is made.

    Args:
        recipe: all settings.
        dataset: the data.
        start: the model that is trained further; by default the recipe's backbone.
    """
    store = Store(Path(), dry=True)
    _stages(Session(recipe, dataset, store, start))
    return {folder.partition("-")[2]: key for folder, key in store.keys.items()}


def _stages(session: Session) -> tuple[list[Result], dict[str, Stage]]:
    """Make all stages of a run; returns the evaluations, and what is :data:`KEPT`."""
    results, kept = _loop(session) if trains_model(session.recipe) else _without_model(session)
    baselines = _baselines(session)
    if not session.store.dry:
        for warning in health.of_baselines(results[-1].metrics, {one.method: one.metrics for one in baselines}):
            say(f"! {warning}")
    return [*baselines, *results], kept


def _baselines(session: Session) -> list[Result]:
    """What a run has to beat, on the same cases; the recipe says which."""
    recipe, nothing = session.recipe, Stage(Path(), "")
    results = []
    for method in recipe.baselines:
        settings = recipe.recommend.model_copy(update={"protocol": method, "tilt": False})
        if settings == recipe.recommend:
            continue  # the run itself
        beside = Session(recipe.model_copy(update={"recommend": settings}), session.dataset, session.store)
        stage = f"{_BASELINE}{method}"
        results.append(Result(stage, 0, method, stages.evaluate(beside, f"{stage}-0", nothing, nothing)))
    return results


def _without_model(session: Session) -> tuple[list[Result], dict[str, Stage]]:
    """The stages of methods that rank items: one evaluation."""
    method, nothing = session.recipe.method, Stage(Path(), "")
    own = sasrec(session) if needs_sasrec(session.recipe) else nothing
    metrics = stages.evaluate(session, f"{method}-0", nothing, nothing)
    learned = {"weights": session.weights or nothing, "tilt": session.tilt or nothing}
    return [Result(method, 0, method, metrics)], {"sasrec": own, **learned}


def _loop(session: Session) -> tuple[list[Result], dict[str, Stage]]:
    recipe, loop = session.recipe, session.recipe.loop
    results: list[Result] = []
    start_from = "bigrec" if loop.iterations else recipe.method

    def evaluate(stage: str, policy: Stage, iteration: int, last: bool) -> None:
        if last or iteration == 0 or recipe.evaluate == "stages":
            metrics = stages.evaluate(session, f"{stage}-{iteration}", policy, backbone)
            results.append(Result(stage, iteration, recipe.method if iteration else start_from, metrics))
            if not session.store.dry:
                _watch(results, recipe)

    backbone = stages.backbone(session)
    assistant = sasrec(session) if needs_sasrec(recipe) else Stage(Path(), "")
    policy = stages.initial_sft(session, session.start.stage if session.start else backbone)
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
    final, nothing = Stage(policy.folder / "model", policy.key), Stage(Path(), "")
    learned = {"weights": session.weights or nothing, "tilt": session.tilt or nothing}
    return results, {"model": final, "backbone": backbone, "sasrec": assistant, **learned}


def record(result: Result) -> dict[str, Any]:
    """A ``result`` as JSON; undefined metrics are null."""
    return vars(result) | {"metrics": storage.defined(result.metrics)}


def _keep_data(store: Store, dataset: Dataset) -> None:
    """Copy the dataset into the run directory, if it is not there, so that the run can be used anywhere."""
    folder = store.root / "dataset"
    if folder.exists():
        try:
            if Dataset.load(folder).hash == dataset.hash:
                return
        except UserError as error:
            _complain(store, str(error).split(";")[0])
            storage.discard(folder)
    dataset.save(folder, overwrite=True)


def _complain(store: Store, problem: str) -> None:
    if problem and store.strict:
        raise UserError(f"{problem}; without --strict it is written again")
    if problem:
        say(f"! {problem}; it is written again")


def describe(recipe: Recipe, dataset: Dataset, steps: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The content of ``recipe.json``: the resolved ``recipe``, the ``dataset``, versions, and the lineage ``steps``."""
    data = {"name": dataset.name, "hash": dataset.hash, "counts": {n: len(s) for n, s in dataset.splits.items()}}
    about = {"recipe": recipe.model_dump(mode="json"), "dataset": data, "versions": storage.versions()}
    return about | ({"lineage": list(steps)} if steps else {})


def load_results(out: Path | str) -> list[Result]:
    """The metrics of the finished run ``out``: baselines first, its last model at the end.

    Raises:
        UserError: there is no finished run, or its items were changed after the evaluation.
    """
    problem = storage.verify(Path(out), METRICS)
    if problem and has_other_items(Path(out)):
        raise UserError(
            f"{out} was not evaluated after its items changed; sprec evaluate {out} does that and keeps its lists in "
            f"{Path(out) / EVALUATIONS}"
        )
    if problem:
        raise UserError(f"{out} is not a finished run ({problem}); the same sprec run command finishes it")
    return [result_of(**entry) for entry in storage.read_json(Path(out) / METRICS)]


def load_own_results(out: Path | str) -> list[Result]:
    """The metrics of the run's own models, or of the recommender that it is, without the baselines beside it.

    Args:
        out: as :func:`load_results` takes it.
    """
    return [result for result in load_results(out) if not result.baseline]


def result_of(stage: str, iteration: int, method: str, metrics: dict[str, float | None]) -> Result:
    """The result with this ``stage``, ``iteration``, ``method`` and ``metrics`` in a :func:`record`."""
    values = {name: math.nan if value is None else value for name, value in metrics.items()}
    return Result(stage, iteration, method, values)


def _watch(results: list[Result], recipe: Recipe) -> None:
    """Warn of what goes wrong, and stop, if the recipe asks for it, when the model forgets how titles are written."""
    where = f"{results[-1].stage} {results[-1].iteration}"
    preferred = results[-1].stage == "prefer" or (recipe.loop.dpo_step and results[-1].iteration > 1)
    for warning in health.of_evaluations([result.metrics for result in results], preferred):
        say(f"! after {where}: {warning}")
    share = results[-1].metrics.get("ExactTitles", 1.0)
    health.require_titles(share, recipe.stop_below_exact_share, where, preferred)
