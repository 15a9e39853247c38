"""A run in a few lines: its recipe, its data, its origin, its metrics."""

from pathlib import Path
from typing import Any

from sprec.recommend.protocols import words_of
from sprec.runs.finished import read_run
from sprec.runs.items import counted
from sprec.runs.lineage import has_other_items, lineage
from sprec.runs.pipeline import METRICS, load_results, record
from sprec.runs.store import RECIPE
from sprec.system import storage

_SHOWN = ("NDCG@5", "HR@5", "DivRatio@1", "ORRatio@1")
_STEPS = {"add": "added", "remove": "removed", "rename": "renamed"}


def about_run(root: Path) -> dict[str, Any]:
    """Describe a run in plain JSON types: recipe, data, versions, lineage, and metrics if it has any.

    Args:
        root: the run directory.

    Raises:
        UserError: there is no run, or it is damaged.
    """
    recipe, dataset = read_run(root)
    content = storage.read_json(root / RECIPE)
    finished = (root / METRICS).is_file()
    return {
        "method": recipe.method,
        "recommends": words_of(recipe.recommend),
        "protocol": recipe.recommend.protocol,
        "seed": recipe.seed,
        "data": {
            "name": dataset.name,
            "items": len(dataset.catalog),
            **{name: len(split) for name, split in dataset.splits.items()},
        },
        "versions": content["versions"],
        "lineage": lineage(root),
        "other_items": has_other_items(root),
        "metrics": [record(result) for result in load_results(root)] if finished else [],
    }


def lines_of(about: dict[str, Any]) -> list[str]:
    """The result of :func:`about_run` in lines of text.

    Args:
        about: of :func:`about_run`.
    """
    data = ", ".join(f"{name} {count:,}" for name, count in about["data"].items() if name != "name")
    lines = [
        f"method     {about['method']}, seed {about['seed']}",
        f"lists      {about['protocol']} ({about['recommends']})",
        f"data       {about['data']['name']}: {data}",
        f"versions   {', '.join(f'{name} {number}' for name, number in about['versions'].items())}",
    ]
    for number, one in enumerate(about["lineage"]):
        what = f"{counted(one['items'])} {_STEPS[one['change']]}" if one["change"] in _STEPS else "trained further"
        lines.append(f"{'' if number else 'made of':<10} {one['run']}: {what} ({one['date']})")
    if about["metrics"]:
        last = about["metrics"][-1]["metrics"]
        known = [name for name in _SHOWN if last.get(name) is not None]
        lines.append(f"metrics    {', '.join(f'{name} {last[name]:.4f}' for name in known)}")
    elif about["other_items"]:
        lines.append("metrics    none since its items changed; sprec evaluate measures it")
    else:
        lines.append("metrics    none: the run is not finished")
    return lines
