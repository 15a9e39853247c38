"""Lost hosts: a pulled cable closes no connection, and the other hosts would wait for hours.

One process of each host reports to the launcher's store every few seconds. If another host is silent for too long, or
the store does not answer, the process ends. This is not needed when a process dies on a living host: its connections
close, which the others notice at once (:func:`sprec.system.processes.together`).
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Thread

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but its stub does not export it

EVERY = 3.0
"""Seconds between two signs of life."""
SILENCE = 40.0
"""Seconds of silence after which a host counts as lost."""
_DONE = b"done"


class Hearing:
    """When each of the other hosts last reported.

    Args:
        hosts: their number.
        own: the number of this one, from 0.
        clock: returns seconds.
    """

    def __init__(self, hosts: int, own: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._own = clock, own
        self._said = [b""] * hosts
        self._heard = [clock()] * hosts

    def hear(self, said: list[bytes]) -> None:
        """Take the last reports of all hosts; those with a new one are alive.

        Args:
            said: of each host, an increasing counter or ``b"done"``.
        """
        now = self._clock()
        for host, word in enumerate(said):
            if word != self._said[host] or word == _DONE:
                self._said[host], self._heard[host] = word, now

    def lost(self) -> list[int]:
        """The other hosts that have been silent for too long and are not done."""
        return [host for host in range(len(self._heard)) if host != self._own and self._silent(host)]

    def cut_off(self) -> bool:
        """Whether not even this host's own reports come back, because the store cannot be reached."""
        return self._silent(self._own)

    def _silent(self, host: int) -> bool:
        return self._heard[host] < self._clock() - SILENCE and self._said[host] != _DONE


def watch() -> None:
    """Watch the other hosts from now on, if torchrun started processes on several; end when one is lost.

    This takes two threads, as the connection to the store may hang, too.
    """
    environment = os.environ
    hosts, own = int(environment.get("GROUP_WORLD_SIZE", "1")), int(environment.get("GROUP_RANK", "0"))
    if hosts == 1 or environment.get("LOCAL_RANK") != "0":
        return
    address = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    hearing = Hearing(hosts, own)
    for task in (_talk, _judge):
        Thread(target=task, args=(hearing, hosts, own, *address), daemon=True, name=task.__name__).start()


def _talk(hearing: Hearing, hosts: int, own: int, address: str, port: int) -> None:
    keys = [f"sprec/alive/{host}" for host in range(hosts)]
    with suppress(RuntimeError):  # the store cannot be reached: there are no more reports, which _judge notices
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=SILENCE))
        atexit.register(_say_goodbye, store, keys[own])
        for beat in range(sys.maxsize):
            store.set(keys[own], str(beat))
            hearing.hear(store.multi_get(keys))
            time.sleep(EVERY)


def _say_goodbye(store: TCPStore, key: str) -> None:
    with suppress(RuntimeError):
        store.set(key, _DONE.decode())


def _judge(hearing: Hearing, hosts: int, own: int, *_: object) -> None:
    while not (lost := hearing.lost()):
        time.sleep(1)
    names = ", ".join(map(str, lost))
    print(
        f"sprec: host {own} of {hosts} has not heard of host {names} for {SILENCE:.0f} seconds: it, or the network, is "
        "down; the same command resumes, with another number of processes too",
        file=sys.stderr,
        flush=True,
    )
    if hearing.cut_off() and "TORCHELASTIC_RUN_ID" in os.environ:
        os.kill(os.getppid(), signal.SIGKILL)  # torchrun, which would wait minutes for the store
    os._exit(2)  # the main thread waits for the lost host in a library
