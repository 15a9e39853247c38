import gc
import platform
import subprocess
import sys
import weakref

import pytest

from sprec.engine.memory import settled

_TWICE = """
import resource, sys, torch
from sprec.engine.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(4 << 20) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    """Eight blocks of 16 MiB, again and again: 4 KiB a page are 32,768 first touches, or those of a block or two."""
    faults = {}
    for how in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", _TWICE, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert 4 * faults["keep"] < faults["leave"]


class _Circle:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_of_the_block_is_collected_and_all_garbage_behind_it() -> None:
    older, seen = _Circle(), gc.get_freeze_count()
    gone_before, before = weakref.ref(older), settled()
    with before:
        assert gc.get_freeze_count() > seen
        del older
        inside = weakref.ref(_Circle())
        gc.collect()
        assert inside() is None
        assert gone_before() is not None, "older objects are not looked at"
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gone_before() is None


def test_an_error_unfreezes_too() -> None:
    with pytest.raises(ValueError, match="inside"), settled():
        raise ValueError("inside")
    assert gc.get_freeze_count() == 0
