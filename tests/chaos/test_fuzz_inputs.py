"""Arbitrary recipes, lists, histories, datasets, models and manifests: success or one line, nothing written elsewhere.

``SPREC_FUZZ=20000`` tries more; the readers of logs are fuzzed in ``tests/data/test_fuzz.py``.
"""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from chaos.records import Record
from chaos.watch import PATIENCE, one_line_at_most
from sprec.config import Recipe
from sprec.data import Dataset
from sprec.engine.batches import Journal
from sprec.engine.model.backbones import import_gguf
from sprec.runs.recipes import names, resolve, text
from sprec.serve.lists import read_items
from sprec.serve.users import of_file
from sprec.study.lists import score_lists
from sprec.system import storage
from toy_gguf import write_gguf

EXAMPLES = int(os.environ.get("SPREC_FUZZ", "1000")) // 9 + 1  # of each of the nine quick properties
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=PATIENCE * 1000,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD = st.sampled_from(["dpo", "1e-3", "..", "/", "a.b"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | ODD


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)


VALUES = st.recursive(SCALARS, nest, max_leaves=6)


def _keys(model: Any, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for part in getattr(field.annotation, "__args__", [field.annotation]):
            if hasattr(part, "model_fields"):
                yield from _keys(part, f"{prefix}{name}.")


KEYS = sorted(set(_keys(Recipe)))
FUZZ = "arbitrary input to recipes, scores, datasets, manifests"
MANY = "arbitrary histories and lists of items"

Mutation = tuple[float, str, str]
KINDS = st.sampled_from(["flip", "cut", "insert", "repeat"])
MUTATIONS = st.lists(st.tuples(st.floats(0, 1), KINDS, st.text(max_size=4)), max_size=4)


def mutate(content: bytes, mutations: list[Mutation]) -> bytes:
    for place, kind, more in mutations:
        at = int(place * len(content))
        if kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << len(more))]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + more.encode("utf-8", "surrogatepass") + content[at:]
        elif kind == "repeat":
            content = content[:at] + content[max(0, at - 20) :]
    return content


@LIMITS
@given(name=st.sampled_from(names()), mutations=MUTATIONS)
def test_mutated_recipes(name: str, mutations: list[Mutation], tmp_path: Path, record: Record) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(mutate(text(name).encode(), mutations))
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        resolve(str(file))


@LIMITS
@given(content=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_recipes_with_arbitrary_values(content: dict[str, Any], tmp_path: Path, record: Record) -> None:
    nested: dict[str, Any] = {}
    for key, value in content.items():
        *path, last = key.split(".")
        below = nested
        for part in path:
            if not isinstance(below.get(part), dict):
                below[part] = {}
            below = below[part]
        below[last] = value
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nested), "utf-8", errors="surrogatepass")
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        resolve(str(tmp_path / "recipe.yaml"))


SETTING = st.tuples(st.sampled_from(KEYS) | st.text(max_size=8), st.text(max_size=12) | VALUES.map(str))


@LIMITS
@given(changes=st.lists(SETTING, max_size=3))
def test_arbitrary_changes(changes: list[tuple[str, str]], tmp_path: Path, record: Record) -> None:
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        resolve("demo", [f"{key}={value}" for key, value in changes])


CASES = VALUES | st.integers(0, 8)
ITEMS = VALUES | st.lists(st.integers(-1, 13) | st.sampled_from(["Dune", "Dun"]), max_size=12)
ENTRIES = st.builds(lambda case, items: json.dumps({"case": case, "items": items}), CASES, ITEMS)


@LIMITS
@given(lines=st.lists(VALUES.map(json.dumps) | st.text(max_size=30) | ENTRIES, max_size=4))
def test_arbitrary_score_files(lines: list[str], tmp_path: Path, toy_files: Path, record: Record) -> None:
    (tmp_path / "lists.jsonl").write_text("\n".join(lines), "utf-8", errors="surrogatepass")
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        score_lists(tmp_path / "lists.jsonl", Dataset.load(toy_files / "data"))


@LIMITS
@given(name=st.sampled_from(["dataset.json", "items.parquet", "sequences.parquet"]), mutations=MUTATIONS)
def test_mutated_datasets(
    name: str, mutations: list[Mutation], tmp_path: Path, toy_files: Path, record: Record
) -> None:
    for file in (toy_files / "data").iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(mutate(content, mutations) if file.name == name else content)
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        assert Dataset.load(tmp_path).hash == Dataset.load(toy_files / "data").hash


USERS = st.fixed_dictionaries({"user": VALUES, "history": ITEMS}, optional={"block": ITEMS}).map(json.dumps)


@LIMITS
@given(lines=st.lists(VALUES.map(json.dumps) | st.text(max_size=30) | USERS, max_size=4))
def test_arbitrary_histories(lines: list[str], tmp_path: Path, toy_files: Path, record: Record) -> None:
    (tmp_path / "users.jsonl").write_text("\n".join(lines), "utf-8", errors="surrogatepass")
    with record.trying(MANY), one_line_at_most(tmp_path):
        users = of_file(tmp_path / "users.jsonl", Dataset.load(toy_files / "data").catalog, {})
        assert len(users.chunk(0) if users.count else []) == users.count


NAMES = st.sampled_from(["item", "user", "Dune", "Emma", "0", "1", "Dun", ",", ";", '"', "\t"]) | st.text(max_size=6)


@LIMITS
@given(lines=st.lists(st.lists(NAMES, max_size=3).map(",".join), max_size=5), users=st.booleans())
def test_arbitrary_lists_of_items(
    lines: list[str], users: bool, tmp_path: Path, toy_files: Path, record: Record
) -> None:
    (tmp_path / "items").write_text("\n".join(lines), "utf-8", errors="surrogatepass")
    with record.trying(MANY), one_line_at_most(tmp_path):
        dataset = Dataset.load(toy_files / "data")
        found = read_items(tmp_path / "items", dataset.catalog, dataset.meta, users=users)
        assert found.items or found.by_user


@settings(LIMITS, max_examples=EXAMPLES // 10)
@given(mutations=MUTATIONS)
def test_mutated_models(
    mutations: list[Mutation], tmp_path: Path, checkpoint: Callable[[str], Path], record: Record
) -> None:
    """In the first part of the file, where its tables are, more often than among the weights."""
    whole = tmp_path / "whole.gguf"
    content = (whole if whole.exists() else write_gguf(checkpoint("llama"), whole)).read_bytes()
    (tmp_path / "model.gguf").write_bytes(mutate(content[:9000], mutations) + content[9000:])
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    with record.trying("damaged GGUF files"), one_line_at_most(tmp_path):
        import_gguf(tmp_path / "model.gguf", tmp_path / "model")


MANIFESTS = VALUES | st.fixed_dictionaries({"files": VALUES})


@LIMITS
@given(content=st.binary(max_size=40) | MANIFESTS.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_manifests_verify_nothing(content: bytes, tmp_path: Path, record: Record) -> None:
    (tmp_path / storage.MANIFEST).write_bytes(content)
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        assert storage.verify(tmp_path) or json.loads(content)["files"] == {}


@LIMITS
@given(content=st.binary(max_size=60))
def test_arbitrary_journals_remember_nothing(content: bytes, tmp_path: Path, record: Record) -> None:
    (tmp_path / "batches-0.jsonl").write_bytes(content)
    with record.trying(FUZZ), one_line_at_most(tmp_path):
        assert Journal(tmp_path).find([0]) is None


def attempt(call: Callable[..., object], *arguments: Any) -> Callable[[Path], None]:
    """A forbidden call counts even if it fails silently."""

    def stray(_: Path) -> None:
        with contextlib.suppress(Exception):
            call(*arguments)

    return stray


STRAYS: dict[str, Callable[[Path], object]] = {
    "write": lambda place: (place / "file").write_text("stray"),
    "write beside, with a name that begins alike": lambda place: (place / "inside-out").write_text("stray"),
    "make a folder": lambda place: (place / "folder").mkdir(),
    "remove a folder": lambda place: (place / "empty").rmdir(),
    "remove a tree": lambda place: shutil.rmtree(place / "empty"),
    "remove": lambda place: (place / "outside").unlink(),
    "cut": lambda place: os.truncate(place / "outside", 0),
    "change rights": lambda place: (place / "outside").chmod(0o600),
    "move out": lambda place: (place / "inside" / "file").rename(place / "moved"),
    "move in": lambda place: (place / "outside").rename(place / "inside" / "moved"),
    "link out": lambda place: os.link(place / "inside" / "file", place / "linked"),
    "link in": lambda place: os.link(place / "outside", place / "inside" / "linked"),
    "point out": lambda place: (place / "inside" / "pointer").symlink_to("../outside"),
    "place a pointer": lambda place: (place / "pointer").symlink_to("inside/file"),
    "run a shell": lambda _: os.system("true"),
    "start a program": lambda _: subprocess.run(["true"], check=False),
    "spawn a program": attempt(os.posix_spawn, "/nowhere", ["nowhere"], {}),
    "become a program": attempt(os.execv, "/nowhere", ["nowhere"]),
    "hang": lambda _: time.sleep(2),
    "hang and say nothing": attempt(time.sleep, 2),
}


@pytest.mark.parametrize("name", STRAYS)
def test_the_watch_sees(name: str, tmp_path: Path) -> None:
    """A test that cannot fail would prove nothing."""
    for folder in ("inside", "empty"):
        (tmp_path / folder).mkdir()
    for file in ("inside/file", "outside"):
        (tmp_path / file).write_text("here before")
    with pytest.raises(AssertionError), one_line_at_most(tmp_path / "inside", seconds=0.5):
        STRAYS[name](tmp_path)


def test_the_watch_lets_work(tmp_path: Path) -> None:
    with one_line_at_most(tmp_path):
        storage.write_json(tmp_path / "file.json", {})
        with storage.replacing(tmp_path / "folder") as scratch:
            (scratch / "file").write_text("ours")
            (scratch / "pointer").symlink_to("file")
        storage.discard(tmp_path / "folder")


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_dangerous_is_called() -> None:
    """No pickle, no evaluation of text as code, no shell, no archive unpacked by its own paths."""
    files = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
    calls = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load"}
    # titles like one (rapidfuzz), groups of a pattern (polars), one member of a known archive, under a name of ours
    harmless = {"extract", "texts.str.extract", "packed.extract"}
    modules = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = called(node)
                shell = any(word.arg == "shell" for word in node.keywords)
                unpacks = name.endswith(("extractall", "extract")) and name not in harmless
                found += [(file, name)] if name in calls or shell or unpacks else []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found += [(file, name) for name in names if name.split(".")[0] in modules]
    assert len(files) > 50
    assert found == []
