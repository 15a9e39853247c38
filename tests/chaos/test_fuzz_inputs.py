"""Arbitrary recipes, score files, datasets and manifests: success or one line for the user, nothing written elsewhere.

``SPREC_FUZZ=20000`` tries more; the readers of logs are fuzzed in ``tests/data/test_fuzz.py``.
"""

import ast
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from chaos.conftest import Record
from sprec import storage
from sprec.config import Recipe
from sprec.data import Dataset
from sprec.engine.batches import Journal
from sprec.errors import UserError
from sprec.runs.compare import score_lists
from sprec.runs.recipes import names, resolve, text

EXAMPLES = int(os.environ.get("SPREC_FUZZ", "1000")) // 7 + 1  # of each of the seven properties
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=10_000,  # no hang
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
_allowed: list[str] = []
_strays: list[str] = []


ACTIONS = ("os.mkdir", "os.rename", "os.remove", "os.link", "os.system", "subprocess.Popen")


def _hook(event: str, details: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    path = os.path.abspath(str(details[0])) if details else ""  # noqa: PTH100
    if (writes or event in ACTIONS) and not path.startswith(_allowed[0]) and "__pycache__" not in path:
        _strays.append(f"{event} {path}")


@pytest.fixture(scope="module", autouse=True)
def watched() -> None:
    sys.addaudithook(_hook)


@contextmanager
def one_line_at_most(folder: Path) -> Iterator[None]:
    """The block may only raise a UserError of one line, and write below the folder."""
    _allowed[:] = [str(folder)]
    _strays.clear()
    refusal = ""
    try:
        yield
    except UserError as error:
        refusal = str(error)
    finally:
        _allowed.clear()
    assert "\n" not in refusal
    assert _strays == []


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
def test_mutated_recipes(name: str, mutations: list[Mutation], tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(mutate(text(name).encode(), mutations))
    with one_line_at_most(tmp_path):
        resolve(str(file))


@LIMITS
@given(content=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_recipes_with_arbitrary_values(content: dict[str, Any], tmp_path: Path) -> None:
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
    with one_line_at_most(tmp_path):
        resolve(str(tmp_path / "recipe.yaml"))


SETTING = st.tuples(st.sampled_from(KEYS) | st.text(max_size=8), st.text(max_size=12) | VALUES.map(str))


@LIMITS
@given(changes=st.lists(SETTING, max_size=3))
def test_arbitrary_changes(changes: list[tuple[str, str]], tmp_path: Path) -> None:
    with one_line_at_most(tmp_path):
        resolve("demo", [f"{key}={value}" for key, value in changes])


CASES = VALUES | st.integers(0, 8)
ITEMS = VALUES | st.lists(st.integers(-1, 13) | st.sampled_from(["Dune", "Dun"]), max_size=4)
ENTRIES = st.builds(lambda case, items: json.dumps({"case": case, "items": items}), CASES, ITEMS)


@LIMITS
@given(lines=st.lists(VALUES.map(json.dumps) | st.text(max_size=30) | ENTRIES, max_size=4))
def test_arbitrary_score_files(lines: list[str], tmp_path: Path, toy_files: Path) -> None:
    (tmp_path / "lists.jsonl").write_text("\n".join(lines), "utf-8", errors="surrogatepass")
    with one_line_at_most(tmp_path):
        score_lists(tmp_path / "lists.jsonl", Dataset.load(toy_files / "data"))


@LIMITS
@given(name=st.sampled_from(["dataset.json", "items.parquet", "sequences.parquet"]), mutations=MUTATIONS)
def test_mutated_datasets(name: str, mutations: list[Mutation], tmp_path: Path, toy_files: Path) -> None:
    for file in (toy_files / "data").iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(mutate(content, mutations) if file.name == name else content)
    with one_line_at_most(tmp_path):
        assert Dataset.load(tmp_path).hash == Dataset.load(toy_files / "data").hash


MANIFESTS = VALUES | st.fixed_dictionaries({"files": VALUES})


@LIMITS
@given(content=st.binary(max_size=40) | MANIFESTS.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_manifests_verify_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / storage.MANIFEST).write_bytes(content)
    with one_line_at_most(tmp_path):
        assert storage.verify(tmp_path) or json.loads(content)["files"] == {}


@LIMITS
@given(content=st.binary(max_size=60))
def test_arbitrary_journals_remember_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "batches-0.jsonl").write_bytes(content)
    with one_line_at_most(tmp_path):
        assert Journal(tmp_path).find([0]) is None


def test_how_much_was_tried(record: Record) -> None:
    record("arbitrary input to recipes, scores, datasets, manifests", 7 * EXAMPLES, 7 * EXAMPLES)


def test_the_watch_sees_strays(tmp_path: Path) -> None:
    """A test that cannot fail would prove nothing."""

    def stray() -> None:
        with one_line_at_most(tmp_path / "inside"):
            (tmp_path / "outside").write_text("stray")

    with pytest.raises(AssertionError):
        stray()


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_dangerous_is_called() -> None:
    """No pickle, no evaluation of text as code, no shell, no archive unpacked by its own paths."""
    files = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
    calls = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load"}
    modules = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = called(node)
                shell = any(word.arg == "shell" for word in node.keywords)
                found += [(file, name)] if name in calls or shell or name.endswith(("extractall", "extract")) else []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found += [(file, name) for name in names if name.split(".")[0] in modules]
    assert len(files) > 50
    assert found == []
