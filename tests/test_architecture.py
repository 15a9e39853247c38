"""Imports point one way, light rooms stay light, functions fit a screen, docstrings are complete."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sprec"
ALLOWED = {
    "system": set(),
    "config": set(),
    "engine": {"config", "system"},
    "data": {"system"},
    "evaluation": {"system"},
    "prompts": {"data"},
    "methods": {"system", "config", "data", "engine"},
    "recommend": {"system", "config", "data", "engine", "prompts", "methods"},
    "theory": {"system", "methods", "evaluation"},
    "bench": {"system", "config", "data", "engine", "methods", "prompts", "recommend"},
    "runs": {"system", "config", "data", "engine", "evaluation", "methods", "prompts", "recommend"},
    "report": {"system", "config", "data", "engine", "evaluation", "runs", "study"},
    "serve": {"system", "config", "data", "evaluation", "methods", "recommend", "runs"},
    "study": {"system", "config", "data", "engine", "evaluation", "methods", "recommend", "runs"},
}


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            whole = node.module == "sprec"  # from sprec.system import storage
            found |= {f"sprec.{alias.name}" for alias in node.names} if whole else {node.module or ""}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_point_one_way(room: str) -> None:
    files = [SOURCE / f"{room}.py"] if (SOURCE / f"{room}.py").is_file() else sorted((SOURCE / room).rglob("*.py"))
    assert files
    for file in files:
        rooms = {name.split(".")[1] for name in imports_of(file) if name.startswith("sprec.")} - {room}
        assert rooms <= ALLOWED[room], f"{file.relative_to(SOURCE)} imports {sorted(rooms - ALLOWED[room])}"


def test_every_room_is_listed() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__", "__main__", "cli"} == set(ALLOWED)


@pytest.mark.parametrize("file", ["methods/objectives.py", "evaluation/cases.py", "evaluation/metrics.py"])
def test_formulas_import_only_numpy_and_torch(file: str) -> None:
    packages = {name.split(".")[0] for name in imports_of(SOURCE / file) - {"sprec.evaluation.cases"}}
    assert packages - set(sys.stdlib_module_names) <= {"numpy", "torch"}


@pytest.mark.parametrize("module", ["cli", "system.errors", "data.stats", "evaluation"])
def test_light_rooms_do_not_import_torch(module: str) -> None:
    code = f"import sprec.{module}\nimport sys\nassert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_names_what_it_offers() -> None:
    import sprec

    assert {name: callable(getattr(sprec, name)) for name in sprec.__all__} == dict.fromkeys(sprec.__all__, True)


def owners(tree: ast.Module) -> list[ast.Module | ast.ClassDef]:
    """A module and its public classes."""
    return [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]


def named(node: ast.FunctionDef) -> set[str]:
    """The parameters of a function that callers give."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = {argument.arg for argument in arguments} - {"self", "cls"}
    return {name for name in names if not name.startswith("_")}


def fields(node: ast.ClassDef) -> set[str]:
    """The arguments that make an object of a class: of its __init__, or its fields without a text of their own."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            return named(inner)
    made = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
    if "dataclass" not in made and "NamedTuple" not in made:
        return set()
    pairs = zip(node.body, [*node.body[1:], None], strict=True)
    alone = [one for one, after in pairs if isinstance(one, ast.AnnAssign) and not isinstance(after, ast.Expr)]
    return {name for name in (ast.unparse(one.target) for one in alone) if not name.startswith("_")}


def undescribed(file: Path) -> list[str]:
    """Parameters, and errors raised, of which no docstring of their function, class or module says anything.

    Those that a module's functions share may stand in its docstring, in ``quotes``. Commands have help texts instead.
    """
    lost, tree = [], ast.parse(file.read_text("utf-8"))
    shared = set(re.findall(r"``(\w+)``", ast.get_docstring(tree) or ""))
    for owner in owners(tree):
        outer = (ast.get_docstring(owner) or "") if isinstance(owner, ast.ClassDef) else ""
        for node in owner.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if any(ast.unparse(decorator) in ("overload", "override") for decorator in node.decorator_list):
                continue
            wanted = fields(node) if isinstance(node, ast.ClassDef) else named(node) | raised(node)
            words = set(re.findall(r"\w+", f"{ast.get_docstring(node)} {outer}")) | shared
            lost += [f"{file.relative_to(SOURCE)}:{node.lineno} {node.name}: {name}" for name in sorted(wanted - words)]
    return lost


def raised(node: ast.FunctionDef) -> set[str]:
    """The errors about arguments that a function raises itself."""
    calls = [one.exc.func for one in ast.walk(node) if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call)]
    return {ast.unparse(call) for call in calls} & {"UserError", "ValueError", "KeyError", "TypeError"}


def test_docstrings_describe_every_parameter_and_error() -> None:
    files = [file for file in SOURCE.rglob("*.py") if file.parent != SOURCE / "cli"]
    assert [line for file in sorted(files) for line in undescribed(file)] == []


def test_blocks_of_arguments_are_complete() -> None:
    missing = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            text = ast.get_docstring(node) or "" if isinstance(node, ast.FunctionDef) else ""
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and "\nArgs:\n" in text:
                block = text.partition("\nArgs:\n")[2]
                lost = {name for name in named(node) if f"\n    {name}: " not in f"\n{block}"}
                missing += [f"{file.relative_to(SOURCE)}:{node.lineno} {node.name}: {name}" for name in sorted(lost)]
    assert missing == []


def test_functions_fit_a_screen_and_files_stay_under_500_lines() -> None:
    long = []
    for file in SOURCE.rglob("*.py"):
        name, text = file.relative_to(SOURCE), file.read_text("utf-8")
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        long += [f"{name}:{one.lineno} {one.name}" for one in functions if (one.end_lineno or 0) - one.lineno >= 60]
        long += [str(name)] if len(text.splitlines()) >= 500 else []
    assert long == []


def test_files_of_tests_have_names_of_their_own() -> None:
    """Test folders are no packages: of two files with one name pytest takes only the first."""
    names = Counter(file.name for file in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
