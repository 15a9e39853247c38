"""Reading a finished run: only what it was sealed with is used, checked by hashes and keys.

A valid stage, dataset or backbone of another run is refused.
"""

from pathlib import Path
from typing import Any

from sprec.config import HuggingFace, Recipe, makes_backbone
from sprec.data import Dataset
from sprec.runs import protocols
from sprec.runs.recipes import validate
from sprec.runs.session import Session
from sprec.runs.stages import given
from sprec.runs.store import RECIPE, Stage
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.paths import require_path

_AGAIN = "the same sprec run command repairs it"


def read_run(root: Path) -> tuple[Recipe, Dataset]:
    """The recipe and data of a run, finished or not.

    The recipe's permissions of code and pickles are dropped: they were given by the user who ran it, not by the reader.

    Args:
        root: the run directory.

    Raises:
        UserError: there is no run at this path, folders cannot have its name, or its dataset is not the one that it was
            made from.
    """
    require_path(root)
    try:
        content = storage.read_json(root / RECIPE)
        settings, data = content["recipe"], content["dataset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not root.exists():
            raise UserError(f"{root} does not exist") from error
        raise UserError(f"{root} is not a run: recipe.json is missing or damaged") from error
    recipe = validate(settings, str(root / RECIPE), storage.newer(content))
    dataset = Dataset.load(root / "dataset")
    if not isinstance(data, dict) or data.get("hash") != dataset.hash:
        raise UserError(f"{root / 'dataset'} is not the data that the run was made from; {_AGAIN}")
    if isinstance(recipe.backbone, HuggingFace):
        none = recipe.backbone.model_copy(update={"trust_remote_code": False, "allow_pickle": False})
        recipe = recipe.model_copy(update={"backbone": none})
    return recipe, dataset


def sealed(root: Path) -> dict[str, Any]:
    """The manifest of a finished run; of its files only the recipe is checked.

    Args:
        root: the run directory.

    Raises:
        UserError: the run is not finished, or was finished by a version that did not record its stages.
    """
    problem = storage.verify(root, RECIPE)
    if problem:
        raise UserError(f"{root} is not a finished run ({problem}); finish it with the same sprec run command")
    manifest = storage.read_manifest(root)
    if not isinstance(manifest.get("stages"), dict):
        raise UserError(f"{root} was finished by an earlier version; the same sprec run command seals it anew")
    return manifest


def policy_key(root: Path) -> str:
    """The key of the last model of a finished run; empty if it has none.

    Args:
        root: the run directory.

    Raises:
        UserError: the run is not finished.
    """
    manifest = sealed(root)
    made: dict[str, str] = manifest["stages"]
    last = (key for name, key in reversed(made.items()) if not {"evaluate", "tilt", "weights"} & {*name.split("-")})
    return str(manifest.get("policy", next(last, "")))


def stage_of(root: Path, name: str) -> Stage:
    """A stage of a finished run.

    Args:
        root: the run directory.
        name: without its number, as ``evaluate-sft-0``.

    Raises:
        UserError: the run is not finished, or the stage is missing, damaged or another run's.
    """
    stages: dict[str, str] = sealed(root)["stages"]
    folder = next((folder for folder in stages if folder.partition("-")[2] == name), None)
    if folder is None:
        raise UserError(f"{root} has no stage {name}")
    return _own(root / "stages" / folder, stages[folder])


def backbone_of(session: Session) -> Stage:
    """The backbone of a finished run, which encodes texts in grounding; without a folder if it was given to the run.

    Args:
        session: the run.

    Raises:
        UserError: it is damaged, or not the one with which the run was made.
    """
    root, recipe = session.store.root, session.recipe
    if not protocols.trains_model(recipe):
        return Stage(Path(), "")
    key = str(sealed(root).get("backbone"))
    if makes_backbone(recipe):
        return _own(root / "backbone", key)
    found = given(recipe)
    if found.key != key:
        raise UserError(f"the backbone is not the model that {root} was made with: its files or revision have changed")
    return found


def _own(folder: Path, key: str) -> Stage:
    problem = storage.verify(folder)
    if problem:
        raise UserError(f"{problem}; {_AGAIN}")
    if storage.read_manifest(folder).get("key") != key:
        raise UserError(f"{folder} belongs to another run, or to one that is being made here; {_AGAIN}")
    return Stage(folder, key)
