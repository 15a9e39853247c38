"""Checks before any work is done."""

from importlib.util import find_spec

from sprec.config import HuggingFace, Recipe
from sprec.data import Dataset
from sprec.engine.model.backbones import located
from sprec.methods.exclusion import excluded_items, require_room, with_twins
from sprec.methods.negatives import check_room
from sprec.recommend.protocols import PROTOCOLS, Need, needs_of, wants_weights
from sprec.runs.protocols import trains_model
from sprec.runs.sasrec_stage import needs_sasrec
from sprec.system.errors import UserError


def check_method(recipe: Recipe) -> None:
    """Refuse a protocol that does not fit the method.

    Args:
        recipe: all settings.

    Raises:
        UserError: the protocol does not use the method's model, or needs one that the method does not have; or there
            are no scores for a tilt.
    """
    protocol = recipe.recommend.protocol
    if trains_model(recipe) != (Need.MODEL in needs_of(recipe.recommend)):
        why = "has no language model" if not trains_model(recipe) else "trains one that this protocol does not ask"
        raise UserError(f"method {recipe.method} {why}: recommend.protocol={protocol} does not go with it")


def check_fit(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse data that do not suffice for the recipe.

    Args:
        recipe: all settings.
        dataset: the data.

    Raises:
        UserError: an empty split, a catalog that is too small, or missing genres.
    """
    for split in ("train", recipe.split):
        if not len(dataset.splits[split]):
            raise UserError(f"the {split} split of {dataset.name} is empty; import the data again with another split")
    items, k = len(dataset.catalog), recipe.recommend.top_k
    if k > items:
        raise UserError(f"recommend.top_k={k}, but the catalog of {dataset.name} has {items} items; lower it")
    check_protocol_fits(recipe, dataset)
    check_room(recipe, dataset)
    if needs_sasrec(recipe) and items < 2:
        raise UserError(f"SASRec needs at least two items, and the catalog of {dataset.name} has {items}")
    if needs_sasrec(recipe) and not len(dataset.valid):
        raise UserError(f"SASRec needs a validation split to stop, and that of {dataset.name} is empty; import one")
    if trains_model(recipe) and recipe.sft.epochs and recipe.sft.valid and not len(dataset.valid):
        raise UserError(
            f"the SFT keeps the epoch with the best validation loss, and the valid split of {dataset.name} is empty; "
            "import one, or set sft.valid=0 to keep the last epoch"
        )
    if (recipe.recommend.tilt or wants_weights(recipe.recommend)) and not len(dataset.valid):
        what = "the tilt is learned" if recipe.recommend.tilt else "the weights of experts are chosen"
        raise UserError(f"{what} on validation rows, and {dataset.name} has none; import a valid split")
    if recipe.recommend.exclude_history:
        cases = dataset.splits[recipe.split][: recipe.cases]
        seen = excluded_items(cases, items, history=True, target=False)
        require_room(with_twins(seen, items, dataset.catalog.twins), items, k)
    if recipe.sft.weights not in ("none", "equal") and not dataset.genres:
        raise UserError(f"method {recipe.method} weighs samples by genre, but {dataset.name} has no genres")


def check_protocol_fits(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse a search for more titles than there are, and a tilt of scores that do not exist: it would do nothing.

    Args:
        recipe: all settings.
        dataset: the data.

    Raises:
        UserError: names the setting.
    """
    beams, items = recipe.recommend.beams, len(dataset.catalog)
    if Need.BEAMS in needs_of(recipe.recommend) and beams > items:
        raise UserError(f"recommend.beams={beams}, but the catalog of {dataset.name} has {items} items; lower it")
    protocol = recipe.recommend.protocol
    if recipe.recommend.tilt and not PROTOCOLS[protocol].tilted:
        known = ", ".join(name for name, row in PROTOCOLS.items() if row.tilted)
        raise UserError(
            f"recommend.tilt needs log-probabilities, and recommend.protocol={protocol} has none; these have: {known}"
        )


def check_installed(recipe: Recipe) -> None:
    """Refuse trackers and encoders that are not installed before any work is done, and fetch a known backbone.

    Args:
        recipe: all settings.

    Raises:
        UserError: names the package, or says why there is no backbone.
    """
    if isinstance(recipe.backbone, HuggingFace) and trains_model(recipe):
        located(recipe.backbone.path)
    encodes = trains_model(recipe) and recipe.recommend.encoder.startswith("sentence-transformers:")
    if encodes and find_spec("sentence_transformers") is None:
        raise UserError("recommend.encoder needs sentence-transformers: pip install 'sprec[ground]'")
    for tracker in recipe.track:
        if find_spec(tracker) is None:
            raise UserError(f"track=[{tracker}] needs the package {tracker}: pip install {tracker}")
