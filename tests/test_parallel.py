"""The same map on local processes and on Dask, and the SLURM job that starts Dask's workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import write_tiff_plate, write_tiny_store

from data.errors import InputError
from data.parallel import ordered_map, slurm_script
from data.store import load_manifest

dask = pytest.importorskip("dask", reason="needs the extra 'cluster'")
distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a real scheduler with two worker processes."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address


def fail_at_three(number: int) -> int:
    if number == 3:
        raise InputError("three")
    return number * number


def test_results_come_in_order_and_errors_are_raised(scheduler: str) -> None:
    with ordered_map(2, scheduler) as mapped:
        assert list(mapped(abs, range(-120, 0))) == list(range(120, 0, -1))
        results = mapped(fail_at_three, range(100))
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        with pytest.raises(InputError, match="three"):
            next(results)


def test_a_store_made_on_dask_is_the_same(scheduler: str, tmp_path: Path) -> None:
    raw = write_tiff_plate(tmp_path / "raw", sites=1, size=64)
    local = write_tiny_store(raw, tmp_path / "local", size=32, measure=False)
    write_tiny_store(raw, tmp_path / "dask", size=32, measure=False, scheduler=scheduler)
    assert load_manifest(tmp_path / "dask") == local


def test_a_scheduler_that_is_not_there_is_named() -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(InputError, match="no Dask scheduler answers"),
        ordered_map(2, "tcp://127.0.0.1:9"),
    ):
        pass


def test_the_slurm_job_is_what_the_configuration_says() -> None:
    pytest.importorskip("dask_jobqueue", reason="needs the extra 'cluster'")
    job = {
        "cores": 16, "processes": 16, "memory": "32GB", "queue": "normal", "walltime": "04:00:00",
        "job-script-prologue": ["export OMP_NUM_THREADS=1"],
    }  # fmt: skip
    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **job}}):
        script = slurm_script().splitlines()
    assert script[0].startswith("#!")
    for line in ("#SBATCH -p normal", "#SBATCH --cpus-per-task=16", "#SBATCH -t 04:00:00"):
        assert line in script
    assert "export OMP_NUM_THREADS=1" in script
    (worker,) = [line for line in script if "tcp://" in line]
    assert "--nworkers 16" in worker and "--nthreads 1" in worker


def test_slurm_without_a_configuration_says_what_to_do() -> None:
    pytest.importorskip("dask_jobqueue", reason="needs the extra 'cluster'")
    empty = {**dask.config.get("jobqueue.slurm"), "cores": None, "memory": None}
    with (
        dask.config.set({"jobqueue.slurm": empty}),
        pytest.raises(InputError, match=r"describe a job under jobqueue\.slurm"),
    ):
        slurm_script()
