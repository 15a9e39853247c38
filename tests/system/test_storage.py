import json
import math
from pathlib import Path
from typing import Any

import pytest

from sprec.system import storage
from sprec.system.storage import defined


def test_what_is_undefined_is_null_at_any_depth() -> None:
    value = {"HR@1": 0.5, "MGU@1": math.nan, "genres": {"Drama": math.nan, "rows": 3}, "name": "x", "none": None}
    text = json.dumps(defined(value), allow_nan=False)
    assert json.loads(text) == {
        "HR@1": 0.5,
        "MGU@1": None,
        "genres": {"Drama": None, "rows": 3},
        "name": "x",
        "none": None,
    }


def sealed(folder: Path, **changes: Any) -> Path:
    """A folder with one empty file and a manifest that is whole, be it what it may."""
    (folder / "file").write_bytes(b"")
    storage.seal(folder, {})
    manifest = storage.read_manifest(folder) | changes
    storage.write_json(folder / storage.MANIFEST, manifest | {"sha256": storage.digest(manifest)})
    return folder


def test_a_file_that_the_disk_cannot_read_is_named(tmp_path: Path) -> None:
    folder = sealed(tmp_path)
    assert storage.verify(folder) == ""
    (folder / "file").unlink()
    (folder / "file").symlink_to("/proc/self/mem")  # of 0 bytes, and reading its beginning is EIO
    assert storage.verify(folder) == f"{folder / 'file'} cannot be read (Input/output error)"


def test_another_format_is_another_version_s(tmp_path: Path) -> None:
    assert storage.verify(sealed(tmp_path, format=7)) == (
        f"{tmp_path / storage.MANIFEST} has format 7, this version reads {storage.FORMAT}"
    )


@pytest.mark.parametrize("files", [None, [], 3, {"file": None}, {"file": {"sha256": "00"}}, {"file": {"bytes": "0"}}])
def test_a_manifest_of_another_shape_is_damaged(files: Any, tmp_path: Path) -> None:
    assert storage.verify(sealed(tmp_path, files=files)) == f"{tmp_path / storage.MANIFEST} is missing or damaged"


def test_deep_json_is_no_json(tmp_path: Path) -> None:
    (tmp_path / storage.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        storage.read_json(tmp_path / storage.MANIFEST)
    assert storage.verify(tmp_path) == f"{tmp_path / storage.MANIFEST} is missing or damaged"


def test_deep_json_that_can_be_read_but_not_hashed_is_damaged(tmp_path: Path) -> None:
    for depth in (500, 900, 990, 1500, 3000):
        (tmp_path / storage.MANIFEST).write_text('{"files": ' + "[" * depth + "]" * depth + "}")
        assert storage.verify(tmp_path) == f"{tmp_path / storage.MANIFEST} is missing or damaged"


def test_leftovers_that_are_links_are_removed_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "deep").mkdir(parents=True)
    place = tmp_path / "place"
    place.mkdir()
    (place / ".one.01234567.tmp").symlink_to(kept)
    storage.sweep(place)
    assert list(place.iterdir()) == []
    assert (kept / "deep").is_dir()
