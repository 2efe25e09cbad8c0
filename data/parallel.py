"""An ordered map over processes, here or on a Dask cluster, that keeps few results in memory."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data.errors import InputError

OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""As the built-in `map`: (function, items) to the results, in order."""


@contextmanager
def ordered_map(processes: int, scheduler: str = "", jobs: int = 1) -> Iterator[OrderedMap]:
    """Yield a map over processes; with one local process it is the built-in `map`.

    Functions and items must be picklable. An exception of the function is raised in the caller,
    and what has not started is then dropped.

    Parameters
    ----------
    processes : int
        Local worker processes; not used with a scheduler.
    scheduler : str
        Empty: local processes. "slurm": Dask workers in SLURM jobs, described in Dask's own
        configuration (`jobqueue.slurm`). Else the address of a running Dask scheduler
        (tcp://host:8786).
    jobs : int
        How many SLURM jobs to start.

    Raises
    ------
    InputError
        When the scheduler does not answer, or Dask is not installed.
    """
    if scheduler:
        with _dask_client(scheduler, jobs) as client:
            executor = client.get_executor(pure=False)
            yield _in_order(executor, lambda: 2 * max(8, sum(client.nthreads().values())))
        return
    if processes <= 1:
        yield map
        return
    # A plain fork would copy locks that Arrow's and BLAS's threads hold; a spawned process would
    # import everything again. A fork server does so once, before there are threads. Dask's own
    # local cluster would do as well, but takes seconds to start and is not always installed.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)
    try:
        yield _in_order(pool, lambda: 8 * processes)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def progress(items: Iterable[Any], total: int, name: str) -> Generator[Any, None, None]:
    """Show progress; closing the generator ends the bar's line, so that an error has its own."""
    with tqdm(total=total, desc=name, unit="site", smoothing=0.05) as bar:
        for item in items:
            bar.update()
            yield item


def slurm_script() -> str:
    """Return the job script with which `--scheduler slurm` starts Dask workers."""
    with _slurm_cluster() as cluster:
        return cluster.job_script()


def _in_order(executor: Executor, window: Callable[[], int]) -> OrderedMap:
    """Map through an executor, at most `window()` items ahead of what was taken."""

    def mapped(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        waiting: deque[Future] = deque()
        room = window()
        try:
            for number, item in enumerate(items):
                if number % 100 == 0:  # a cluster grows
                    room = window()
                waiting.append(executor.submit(function, item))
                if len(waiting) > room:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise MemoryError(
                "a worker process was killed (out of memory?): use fewer processes"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    return mapped


@contextmanager
def _dask_client(scheduler: str, jobs: int) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "--scheduler needs Dask: install the extra 'cluster' (morphoclip[cluster])"
        ) from None
    if scheduler == "slurm":
        with _slurm_cluster() as cluster, Client(cluster) as client:
            cluster.scale(jobs=jobs)
            yield client
        return
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {scheduler}: no Dask scheduler answers ({error})") from None
    with client:
        yield client


@contextmanager
def _slurm_cluster() -> Iterator[Any]:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "--scheduler slurm needs dask-jobqueue: install the extra 'cluster'"
        ) from None
    try:
        cluster = SLURMCluster()
    except ValueError as error:
        raise InputError(
            f"--scheduler slurm: {error}; describe a job under jobqueue.slurm in "
            "~/.config/dask/jobqueue.yaml (see docs/gallery.md)"
        ) from None
    with cluster:
        yield cluster


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
