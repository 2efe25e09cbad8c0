"""An ordered map over a few processes that keeps only a few results in memory."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""As the built-in `map`: (function, items) to the results, in order."""


@contextmanager
def ordered_map(processes: int) -> Iterator[OrderedMap]:
    """Yield a map over `processes` processes; with one it is the built-in `map`.

    Functions and items must be picklable. An exception of the function is raised in the caller,
    and what has not started is then dropped.
    """
    if processes <= 1:
        yield map
        return
    # A plain fork would copy locks that Arrow's and BLAS's threads hold; a spawned process would
    # import everything again. A fork server does so once, before there are threads.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)

    def mapped(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        waiting: deque[Future] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 8 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise MemoryError(
                "a worker process was killed (out of memory?): use fewer processes"
            ) from error

    try:
        yield mapped
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread a worker; Ctrl-C is the parent's to handle; no worker outlives its parent."""
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
