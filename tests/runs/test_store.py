"""The run directory: whole stages or none, verified, redone when stale, one process at a time."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sprec.runs.store import BusyError, Stage, Store
from sprec.system import storage
from sprec.system.errors import UserError

Make = Callable[[Path], str]


def writes(text: str, made: list[str] | None = None) -> Make:
    def make(folder: Path) -> str:
        (folder / "deep").mkdir()
        (folder / "deep" / "file.txt").write_text(text)
        if made is not None:
            made.append(text)
        return "done"

    return make


def three_stages(store: Store, made: list[str], **settings: float) -> Stage:
    """A chain of three stages; the second one depends on the settings."""
    first = store.stage("first", {"data": "d"}, writes("first", made))
    second = store.stage("second", {"start": first.key, "rates": settings}, writes(f"second {settings}", made))
    return store.stage("third", {"start": second.key}, writes(f"third {settings}", made))


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []
    for _ in range(2):
        three_stages(Store(tmp_path), made, lr=0.1)
    assert made == ["first", "second {'lr': 0.1}", "third {'lr': 0.1}"]
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["00-first", "01-second", "02-third"]


def test_the_manifest_lists_files_keys_and_versions(tmp_path: Path) -> None:
    three_stages(Store(tmp_path), [], lr=0.1)
    manifest = storage.read_manifest(tmp_path / "stages/01-second")
    content = (tmp_path / "stages/01-second/deep/file.txt").read_bytes()
    assert manifest["files"] == {
        "deep/file.txt": {"sha256": storage.hash_of(tmp_path / "stages/01-second/deep/file.txt"), "bytes": len(content)}
    }
    assert manifest["depends"]["rates"] == {"lr": 0.1}
    assert manifest["versions"]["torch"]
    assert manifest["stage"] == "01-second"


def test_a_change_redoes_what_depends_on_it_and_says_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    three_stages(Store(tmp_path), made, lr=0.1)
    three_stages(Store(tmp_path), made, lr=0.2)
    assert made[3:] == ["second {'lr': 0.2}", "third {'lr': 0.2}"]
    told = capsys.readouterr().err
    assert "01-second was made with other settings or data (rates.lr was 0.1, is 0.2); making it again" in told
    assert "02-third was made with other settings or data (another start); making it again" in told


def test_the_old_stage_survives_until_the_new_one_is_complete(tmp_path: Path) -> None:
    Store(tmp_path).stage("one", {"lr": 1}, writes("old"))

    def fails(folder: Path) -> str:
        (folder / "half").write_text("new")
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        Store(tmp_path).stage("one", {"lr": 2}, fails)
    made: list[str] = []
    Store(tmp_path).stage("one", {"lr": 1}, writes("old", made))
    assert made == []
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["00-one"]


def test_stages_keep_their_work_when_others_come_or_go_before_them(tmp_path: Path) -> None:
    made: list[str] = []
    store = Store(tmp_path)
    for name in ("first", "evaluate", "second"):
        store.stage(name, {}, writes(name, made))
    store = Store(tmp_path)
    for name in ("first", "second"):
        store.stage(name, {}, writes(name, made))
    store.prune()
    assert made == ["first", "evaluate", "second"]
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["00-first", "01-second"]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink], ids=["flipped", "cut", "removed"])
@pytest.mark.parametrize("name", ["deep/file.txt", storage.MANIFEST])
def test_damage_is_named_and_repaired_or_refused(
    harm: Callable[[Path], None], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    three_stages(Store(tmp_path), made, lr=0.1)
    file = tmp_path / "stages/01-second" / name
    harm(file)
    with pytest.raises(UserError, match=f"{file} is .*; without --strict the stage is made again"):
        three_stages(Store(tmp_path, strict=True), made, lr=0.1)
    assert len(made) == 3
    three_stages(Store(tmp_path), made, lr=0.1)
    assert made[3:] == ["second {'lr': 0.1}"], "the next stage is still what it was"
    assert f"! {file} is " in capsys.readouterr().err
    assert storage.verify(tmp_path / "stages/01-second") == ""


def test_an_added_file_is_named_and_the_stage_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []
    three_stages(Store(tmp_path), made, lr=0.1)
    folder = tmp_path / "stages/01-second"
    (folder / "deep/.DS_Store").write_text("of a file manager")
    three_stages(Store(tmp_path), made, lr=0.1)
    assert len(made) == 3
    (folder / "deep/adapter_config.json").write_text("{}")
    three_stages(Store(tmp_path), made, lr=0.1)
    assert made[3:] == ["second {'lr': 0.1}"]
    assert f"{folder / 'deep/adapter_config.json'} is not in the manifest: somebody added it" in capsys.readouterr().err
    assert not (folder / "deep/adapter_config.json").exists()


def test_beside_some_sealed_files_others_may_lie_but_not_in_their_folders(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("metrics.json", "model/weights"):
        (tmp_path / name).write_text(name)
    storage.seal(tmp_path, {}, ["metrics.json", "model/weights"])
    (tmp_path / "notes.txt").write_text("mine")
    assert storage.verify(tmp_path) == ""
    (tmp_path / "model/more").write_text("more")
    assert storage.verify(tmp_path) == f"{tmp_path / 'model/more'} is not in the manifest: somebody added it"


def test_stages_that_the_recipe_no_longer_has_go_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    three_stages(store, [], lr=0.1)
    store.prune()
    assert "removed" not in capsys.readouterr().err
    fewer = Store(tmp_path)
    fewer.stage("first", {"data": "d"}, writes("first"))
    fewer.prune()
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in told] == [["-", "01-second"], ["-", "02-third"]]
    assert all(line.endswith("removed: the recipe has no such stage any more") for line in told)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "deep/../../outside.txt"])
def test_a_manifest_that_points_outside_is_refused(name: str, tmp_path: Path) -> None:
    Store(tmp_path).stage("one", {}, writes("text"))
    folder = tmp_path / "stages/00-one"
    manifest = storage.read_manifest(folder)
    manifest["files"][name] = manifest["files"].pop("deep/file.txt")
    storage.write_json(folder / storage.MANIFEST, manifest | {"sha256": storage.digest(manifest)})
    assert storage.verify(folder) == f"{folder / storage.MANIFEST} names a file outside of its folder: {name}"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    made: list[str] = []
    Store(tmp_path).stage("one", {}, writes("text", made))

    def full(folder: Path) -> str:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    store.stage("one", {}, writes("text", made))
    with pytest.raises(UserError, match=r"cannot write .*01-two: No space left on device; earlier"):
        store.stage("two", {}, full)
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["00-one"]
    assert made == ["text"]


def test_a_folder_that_cannot_be_moved_away_is_one_line(tmp_path: Path) -> None:
    """Root may write into read-only folders; but nobody can give a file a name of more than 255 letters."""
    name = "x" * 245  # the hidden sibling that a folder is moved to has 14 more, and the number of a stage 3
    there, elsewhere = tmp_path / f"stages/00-{name}", tmp_path / f"stages/01-{name}"
    for folder in (there, elsewhere):
        folder.mkdir(parents=True)
    storage.seal(elsewhere, {"key": storage.digest({"stage": name, "format": storage.FORMAT})[:24]})
    store, refused = Store(tmp_path), f"cannot write {there}: File name too long; earlier stages are intact"
    with pytest.raises(UserError, match=refused):
        store.stage(name, {}, writes("text"))
    with pytest.raises(UserError, match=refused):
        Store(tmp_path).prune()


def test_bugs_keep_their_traceback(tmp_path: Path) -> None:
    def broken(folder: Path) -> str:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        Store(tmp_path).stage("one", {}, broken)


def test_leftovers_of_killed_processes_are_swept_and_living_ones_left(tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    Store(tmp_path).stage("zero", {}, writes("what makes this a run"))
    (stages / ".00-one.01234567.tmp").mkdir(parents=True)
    (stages / ".00-one.01234567.tmp/half").write_text("half")
    (stages / ".01-two.89abcdef.old").mkdir()
    (stages / ".01-two.89abcdef.old/whole").write_text("whole")
    (tmp_path / ".metrics.json.01234567.tmp").write_text("half")
    with storage.replacing(stages / "02-three") as alive:
        with Store(tmp_path).lock():
            assert alive.is_dir()
        assert sorted(path.name for path in stages.iterdir()) == sorted([alive.name, "00-zero", "01-two"])
        assert (stages / "01-two/whole").read_text() == "whole", "its successor never came"
    assert (stages / "02-three").is_dir()
    assert not (tmp_path / ".metrics.json.01234567.tmp").exists()


def test_runs_share_stages_and_repair_the_shared_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []
    shared = tmp_path / "shared"
    first = Store(tmp_path / "a", shared).stage("one", {}, writes("text", made))
    second = Store(tmp_path / "b", shared).stage("one", {}, writes("text", made))
    assert made == ["text"]
    assert (first.folder / "deep/file.txt").samefile(second.folder / "deep/file.txt")
    flip(shared / first.key / "deep/file.txt")  # one inode: all copies are hit
    Store(tmp_path / "c", shared).stage("one", {}, writes("text", made))
    assert made == ["text", "text"]
    assert "deep/file.txt is damaged or was edited; not used" in capsys.readouterr().err
    assert storage.verify(shared / first.key) == ""
    Store(tmp_path / "a", shared).stage("one", {}, writes("text", made))
    assert made == ["text", "text"], "repaired from the shared folder"


def test_a_damaged_stage_of_the_shared_folder_is_refused_by_a_strict_run(tmp_path: Path) -> None:
    made: list[str] = []
    shared = tmp_path / "shared"
    key = Store(tmp_path / "a", shared).stage("one", {}, writes("text", made)).key
    file = shared / key / "deep/file.txt"
    flip(file)
    with pytest.raises(UserError, match=f"{file} is damaged or was edited; without --strict the stage is made again"):
        Store(tmp_path / "b", shared, strict=True).stage("one", {}, writes("text", made))
    assert file.exists()
    assert made == ["text"]


def test_a_stage_that_another_run_is_making_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, made, begun, go_on = tmp_path / "shared", list[str](), threading.Event(), threading.Event()

    def slow(folder: Path) -> str:
        begun.set()
        assert go_on.wait(30)
        return writes("text", made)(folder)

    with ThreadPoolExecutor() as pool:
        maker = pool.submit(lambda: Store(tmp_path / "a", shared).stage("one", {}, slow))
        assert begun.wait(30)
        busy = pytest.raises(BusyError, match=rf"another process \(pid {os.getpid()} on .*\) is making 00-one")
        with busy:
            Store(tmp_path / "b", shared, patient=False).stage("one", {}, writes("text", made))
        assert Store(tmp_path / "b", shared, patient=False).stage("other", {}, writes("other", made)).key
        waiter = pool.submit(lambda: Store(tmp_path / "b", shared).stage("one", {}, writes("text", made)))
        while "00-one" not in (told := capsys.readouterr().err):
            time.sleep(0.01)
        go_on.set()
        stage = waiter.result(30)
        maker.result(30)
    assert "is being made by another process" in told
    assert made == ["other", "text"], "once"
    assert (stage.folder / "deep/file.txt").samefile(tmp_path / "a/stages/00-one/deep/file.txt")
    assert not list(shared.glob("*.lock"))


def test_the_lock_of_a_killed_run_is_removed_from_the_shared_folder(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    stage = Store(tmp_path / "a", shared).stage("one", {}, writes("text"))
    lock = shared / f".{stage.key}.lock"
    with ExitStack() as held:
        assert storage.lock(lock, held) == ""
        Store(tmp_path / "b", shared).stage("one", {}, writes("text"))
        assert lock.exists(), "somebody is at it"
    assert lock.exists(), "as if killed"
    Store(tmp_path / "b", shared).stage("one", {}, writes("text"))
    assert not lock.exists()


def test_a_stage_of_a_failed_run_is_made_by_who_waited(tmp_path: Path) -> None:
    shared, begun, go_on = tmp_path / "shared", threading.Event(), threading.Event()

    def fails(_: Path) -> str:
        begun.set()
        assert go_on.wait(30)
        raise UserError("no luck")

    with ThreadPoolExecutor() as pool:
        maker = pool.submit(lambda: Store(tmp_path / "a", shared).stage("one", {}, fails))
        assert begun.wait(30)
        waiter = pool.submit(lambda: Store(tmp_path / "b", shared).stage("one", {}, writes("text")))
        go_on.set()
        assert (waiter.result(30).folder / "deep/file.txt").read_text() == "text"
        assert isinstance(maker.exception(30), UserError)
    assert not list(shared.glob("*.lock"))


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    taken = pytest.raises(UserError, match=rf"another process \(pid {os.getpid()} on .*\) is working in")
    with Store(tmp_path).lock(), taken, Store(tmp_path).lock():
        pass
    with Store(tmp_path).lock():
        pass


def test_a_lock_on_a_file_that_was_just_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder removes the file between our opening and our locking it: a third process would make a new one."""
    file, flock = tmp_path / "lock", fcntl.flock
    calls: list[int] = []

    def slow(handle: int, how: int) -> None:
        if not calls:
            file.unlink()
        calls.append(how)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with ExitStack() as held:
        assert storage.lock(file, held) == ""
        assert len(calls) == 2
        with ExitStack() as other:
            assert f"pid {os.getpid()}" in storage.lock(file, other)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from sprec.runs.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert "pid" in (tmp_path / ".lock").read_text()
    with Store(tmp_path).lock():
        assert (tmp_path / ".lock").read_text().startswith(f"pid {os.getpid()} ")


def test_what_a_stage_keeps_to_resume_goes_when_it_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def make(folder: Path) -> str:
        store.unfinished.mkdir(parents=True)
        (store.unfinished / "state").write_text("half way")
        (folder / "result").write_text("whole")
        return ""

    stage = store.stage("one", {}, make)
    assert not (tmp_path / "unfinished" / stage.key).exists()
    assert [path.name for path in stage.folder.iterdir()] == ["result", storage.MANIFEST]


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"title": "Émile"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"title": "Émile"}
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "a.json", {"title": object()})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"title": "Émile"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("failure", "linked"), [(errno.ENOSPC, False), (errno.EXDEV, True)])
def test_a_folder_is_linked_whole_or_not_at_all(
    failure: int, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is reported as such; a file system without links gets copies."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(failure, os.strerror(failure))

    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "deep" / "file").write_text("content")
    monkeypatch.setattr(os, "link", refuse)
    if linked:
        storage.link_tree(tmp_path / "one", tmp_path / "two")
        assert (tmp_path / "two" / "deep" / "file").read_text() == "content"
    else:
        told = pytest.raises(UserError, match=r"cannot write .*two: No space left on device; make room")
        with told, storage.writing(tmp_path / "two", "make room"):
            storage.link_tree(tmp_path / "one", tmp_path / "two")
        assert [path.name for path in tmp_path.iterdir()] == ["one"]
