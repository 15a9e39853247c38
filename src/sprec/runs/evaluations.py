"""The evaluations of a finished run: its own, and later ones with other settings. Both keep their lists."""

from collections.abc import Sequence
from pathlib import Path

from sprec.config import Recipe
from sprec.data import Dataset
from sprec.evaluation import CUTOFFS
from sprec.recommend.protocols import Recommendations
from sprec.runs import protocols, tilt_stage, weights_stage
from sprec.runs.checks import check_fit, check_installed
from sprec.runs.finished import backbone_of, policy_key, read_run
from sprec.runs.pipeline import load_results
from sprec.runs.recipes import validate
from sprec.runs.recommender import open_run
from sprec.runs.session import Session
from sprec.runs.stages import (
    RECOMMENDATIONS,
    evaluation_depends,
    metrics_of,
    read_recommendations,
    write_recommendations,
)
from sprec.runs.store import EVALUATIONS, Stage, Store
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import say


def evaluate_run(run: Path, changes: Sequence[str] = (), ks: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Metrics of the last model of a run, optionally with other settings of recommending or evaluating.

    The lists are kept in ``RUN/evaluations``: the same call again reads them, and ``compare_runs`` takes their folder.

    Args:
        run: a finished run.
        changes: ``section.key=value`` strings as in ``sprec run --set``.
        ks: cut-offs, up to the length of the lists.

    Raises:
        UserError: there is no finished run, a setting does not exist, would need another run or does not fit the data.
    """
    session = open_run(Path(run), changes)
    check_fit(session.recipe, session.dataset)
    check_installed(session.recipe)
    return metrics_of(session, _lists(session), ks)


def _lists(session: Session) -> Recommendations:
    """The lists of the last model, made now if there are none."""
    root, recipe = session.store.root, session.recipe
    backbone = backbone_of(session)
    depends = evaluation_depends(session, Stage(root, policy_key(root)), backbone)
    if session.changed_items:  # it has not been evaluated with these items
        key = Store.key_of("evaluate", depends)
    else:
        last = load_results(root)[-1]
        key = Store.key_of(f"evaluate-{last.stage}-{last.iteration}", depends)
    folder = root / EVALUATIONS / f"{recipe.recommend.protocol}-{key[:8]}"
    if folder.exists() and not storage.verify(folder) and storage.read_manifest(folder)["key"] == key:
        say(f"lists read from {folder}")
        return read_recommendations(folder / RECOMMENDATIONS)
    final = Stage(root, "model")
    offset = tilt_stage.served(session, recipe.recommend, final, backbone)
    settings = weights_stage.served(session, recipe.recommend, final, backbone)
    found = protocols.recommend(session, settings, final, backbone, session.cases, offset=offset)
    try:
        with storage.writing(folder, "the metrics are complete"), storage.replacing(folder) as scratch:
            write_recommendations(scratch / RECOMMENDATIONS, found)
            storage.seal(scratch, {"key": key, "depends": depends, "recipe": recipe.model_dump(mode="json")})
        say(f"lists kept in {folder}")
    except UserError as error:
        say(f"! the lists are not kept: {error}")
    return found


def is_kept(folder: Path) -> bool:
    """Whether ``folder`` is one in which :func:`evaluate_run` keeps lists."""
    return folder.parent.name == EVALUATIONS and (folder / storage.MANIFEST).is_file()


def kept(folder: Path) -> tuple[Recipe, Dataset, str]:
    """The settings, the data and the key of lists that :func:`evaluate_run` kept in a ``folder``.

    Raises:
        UserError: they are damaged, or the run has another model or other data now.
    """
    root = folder.parent.parent
    problem = storage.verify(folder)
    if problem:
        raise UserError(f"{problem}; sprec evaluate makes it again")
    manifest, (_, dataset) = storage.read_manifest(folder), read_run(root)
    policy, data = manifest["depends"]["policy"], manifest["depends"]["data"]
    present = (None, policy_key(root), *storage.read_manifest(root)["stages"].values())
    if policy not in present or data != dataset.hash:
        raise UserError(f"{folder} is of a model or of data that {root} had before; evaluate it again")
    return validate(manifest["recipe"], str(folder / storage.MANIFEST)), dataset, manifest["key"]
