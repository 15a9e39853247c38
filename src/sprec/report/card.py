"""The model card, and the folder for the hub: weights, tokenizer, recipe, card. Data and titles are not included."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, HfApi, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.repocard import RepoCard
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from jinja2 import Environment, PackageLoader, StrictUndefined

from sprec.config import HuggingFace, Recipe, makes_backbone
from sprec.engine.model.backbones import KNOWN
from sprec.evaluation import Bootstrap, Table, bootstrap, measurable, selected, table_of_methods
from sprec.report import facts
from sprec.runs.finished import backbone_of
from sprec.runs.protocols import trains_model
from sprec.runs.recommender import open_run
from sprec.study.compare import Evaluation
from sprec.system import storage
from sprec.system.errors import UserError

CARD = "README.md"
_NO_HUB: tuple[type[BaseException], ...] = HfHubHTTPError.__bases__
"""The errors of the library's client, and those of the system."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Base:
    """What the model was made from.

    Attributes:
        name: on the hub; empty for a model that was made from scratch.
        licence: its identifier on the hub; empty if unknown.
    """

    name: str
    licence: str


def write_folder(run: Path, name: str, folder: Path, licence: str = "") -> None:
    """Write the folder to upload: the last model, the recipe and the card.

    Args:
        run: a finished run with a language model.
        name: of the model on the hub, ``user/name``.
        folder: must not exist yet.
        licence: identifier of the licence of the model; by default that of the base model.

    Raises:
        UserError: the hub does not accept the name, the folder exists, the run is not finished or has no language
            model, or the base model is not public or its licence is unknown.
    """
    _require_name(name)
    session = open_run(run)
    recipe = session.recipe
    if not trains_model(recipe):
        raise UserError(f"{recipe.method} trains no language model: there is nothing to publish")
    backbone_of(session)  # refuses a model that is no longer the run's
    base = base_of(recipe)
    if base.name and not (licence or base.licence):
        raise UserError(f"the licence of {base.name} is not on this machine; pass it: --licence apache-2.0")
    if folder.exists():
        raise UserError(f"{folder} already exists; name another folder")
    evaluation = facts.evaluated(run)[-1]
    card = card_of(run, name, base, licence or base.licence, evaluation)
    with storage.writing(folder, "name another folder"), storage.replacing(folder) as scratch:
        shutil.copytree(run / "model", scratch, dirs_exist_ok=True)
        adapter = scratch / "adapter_config.json"
        if adapter.is_file():
            storage.write_json(adapter, storage.read_json(adapter) | {"base_model_name_or_path": base.name})
        storage.write_json(scratch / "recipe.json", _public(storage.read_json(run / "recipe.json"), base))
        storage.write_text(scratch / CARD, card)


def push(run: Path, name: str, folder: Path, licence: str = "", *, public: bool = False) -> str:
    """Write the folder and upload it; returns the address of the model.

    Args:
        run: a finished run with a language model.
        name: of the model on the hub, ``user/name``.
        folder: a new folder for the upload.
        licence: as for :func:`write_folder`.
        public: make it visible to all; if False, only to its owner.

    Raises:
        UserError: see :func:`write_folder`; or the hub cannot be reached or refuses.
    """
    write_folder(run, name, folder, licence)
    with _hub(name):
        api = HfApi()
        api.create_repo(name, private=not public, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model trained with sprec")
    return str(done.repo_url)


def card_of(run: Path, name: str, base: Base, licence: str, evaluation: Evaluation) -> str:
    """The model card, in Markdown with metadata.

    Args:
        run: the run directory.
        name: of the model on the hub.
        base: what the model was made from.
        licence: its identifier on the hub, or empty.
        evaluation: the last one of the run.
    """
    data, about = evaluation.dataset, facts.about(run)
    lists = evaluation.lists
    cases = lists.cases(data, evaluation.recipe.split, np.arange(len(lists.rows)), (1, 5))
    metrics = selected(None, measurable(cases))
    sample = bootstrap([cases], metrics=metrics)
    adapter = (run / "model" / "adapter_config.json").is_file()
    metadata = ModelCardData(
        model_name=name.partition("/")[2],
        license=licence or None,
        base_model=base.name or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["recommendation", "sprec", evaluation.method],
        eval_results=_results(sample, evaluation, about["hash"]),
    )
    table: Table = table_of_methods({evaluation.method: sample}, metrics=metrics)
    text = _template().render(
        name=name,
        base=base,
        licence=licence,
        adapter=adapter,
        about=about,
        data=data,
        how=evaluation.how,
        split=evaluation.recipe.split,
        cases=len(lists.rows),
        table=table.markdown().strip(),
        warnings=facts.warnings_of(run, data),
        style=evaluation.recipe.prompt.style,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}"


def base_of(recipe: Recipe) -> Base:
    """What the model of a recipe was made from.

    Args:
        recipe: with a language model.

    Raises:
        UserError: it is a folder of this machine, or an adapter of a model that was made in the run.
    """
    settings = recipe.backbone
    if not isinstance(settings, HuggingFace):
        return Base("", "")
    if makes_backbone(recipe) and settings.lora is not None:
        raise UserError("the model is an adapter of a backbone that was made in the run, which nobody else has")
    if settings.path in KNOWN:
        return Base(KNOWN[settings.path].hub, KNOWN[settings.path].licence_id)
    if Path(settings.path).exists() or not _HUB.fullmatch(settings.path):
        if settings.lora is not None:
            raise UserError(f"the model is an adapter of {settings.path}, a folder that nobody else has")
        return Base(Path(settings.path).name, "")
    card = try_to_load_from_cache(settings.path, CARD, revision=settings.revision)
    known = RepoCard.load(card).data.to_dict().get("license") if isinstance(card, str) else None
    return Base(settings.path, str(known or ""))


def _results(sample: Bootstrap, evaluation: Evaluation, revision: str) -> list[EvalResult]:
    """The metrics in the form of the hub's ``model-index``, with their intervals."""
    found = []
    for metric in sample.per_seed:
        interval = sample.interval(metric)
        if not np.isnan(interval.value):
            value, low, high = (round(float(number), 6) for number in (interval.value, interval.low, interval.high))
            found.append(
                EvalResult(
                    task_type="recommendation",
                    task_name="Next item",
                    dataset_type="sprec",
                    dataset_name=evaluation.dataset.name,
                    dataset_split=evaluation.recipe.split,
                    dataset_revision=revision,
                    metric_type=metric,
                    metric_name=f"{metric}, 95% interval {low:.4f} to {high:.4f}",
                    metric_value=value,
                    metric_args={"low": low, "high": high, "level": 0.95, "cases": len(evaluation.lists.rows)},
                )
            )
    return found


def _public(about: Mapping[str, Any], base: Base) -> dict[str, Any]:
    """``recipe.json`` without paths of this machine."""
    content: dict[str, Any] = json.loads(json.dumps(about))
    if base.name:
        content["recipe"]["backbone"]["path"] = base.name
    return content


def _require_name(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"the hub does not take the name {name!r:.80}: {str(error).splitlines()[0]:.200}") from error
    if "/" not in name:
        raise UserError(f"name the model with its owner: user/{name}")


@contextmanager
def _hub(name: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else ""
        hint = "; log in: hf auth login" if status in (401, 403) else ""
        raise UserError(f"the hub refused {name} ({status} {str(error).splitlines()[0]:.200}){hint}") from error
    except _NO_HUB as error:
        raise UserError(f"{name} was not uploaded: {str(error).splitlines()[0]:.200}; the folder is there") from error


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("sprec.report", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,
    )  # fmt: skip
    environment.filters["text"] = lambda value: escape(str(value), quote=False)
    return environment.get_template("card.md.jinja")
