import gc
import platform
import subprocess
import sys
import weakref

import pytest

from sprec.system.memory import settled

_STEP = """
import ctypes, sys, torch
from sprec.system.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
class Info(ctypes.Structure):  # mallinfo(3): the ninth is `fordblks`, freed and still the process's own
    _fields_ = [(f"field{i}", ctypes.c_int) for i in range(10)]
allocator = ctypes.CDLL(None).mallinfo
allocator.restype = Info
before = allocator().field8
blocks = [torch.ones(4 << 20) for _ in range(8)]
del blocks
print(allocator().field8 - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    """Eight blocks of 16 MiB, freed: the allocator has them still, or it gave them back to the system."""
    free = {}
    for how in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", _STEP, how], capture_output=True, text=True, check=True)
        free[how] = int(done.stdout) / 2**20
    assert 120 < free["keep"] < 136
    assert free["leave"] < 40


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
