"""Real processes that run scripts, and die where a test wants them to.

Importing torch and transformers takes seconds: a server process does it once, and every process
is forked from it (it has run nothing yet, so that forking is safe).
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from conftest import ROOT

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["contrastive.trainer", "vlm.instruct", "vlm.adapters", "vlm.wells", "captions.facts"]
)


def run_script(
    name: str,
    *arguments: object,
    cwd: Path,
    stop: tuple[str, int] | None = None,
    with_signal: int = signal.SIGKILL,
) -> tuple[int, str]:
    """Run a script in a process of its own; return its exit code and what it printed.

    Parameters
    ----------
    name : str
        Of the script, without its folder and ending.
    *arguments
        Its command line.
    cwd : Path
        Gets a file with what was printed, too.
    stop : (str, int), optional
        A function, as `module:name`, at whose n-th call the process gets a signal.
    with_signal : int
        Which; minus this is then the exit code (unless the script handles it).
    """
    log = cwd / "printed.txt"
    words = [str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    options = {"stop": stop, "with_signal": with_signal}
    process = FORK.Process(target=run, args=(words, cwd, log), kwargs=options)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, log.read_text()


def run_ranks(
    name: str,
    *arguments: object,
    cwd: Path,
    size: int = 2,
    stop: tuple[str, int] | None = None,
    environment: dict[str, str] | None = None,
) -> list[int]:
    """Run a script as `size` processes that train together; return their exit codes.

    Parameters
    ----------
    name, *arguments, cwd
        As in `run_script`; rank r prints to `printed<r>.txt`.
    size : int
    stop : (str, int), optional
        As in `run_script`, in the last process only.
    environment : dict, optional
        What `accelerate launch` would set, beside ranks and ports.
    """
    words = [str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(size):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        options: dict[str, Any] = {
            "environment": {k: str(v) for k, v in names.items()} | (environment or {}),
            "stop": stop if rank == size - 1 else None,
        }
        log = cwd / f"printed{rank}.txt"
        ranks.append(FORK.Process(target=run, args=(words, cwd, log), kwargs=options))
        ranks[-1].start()
    for process in ranks:
        process.join()
    return [process.exitcode or 0 for process in ranks]


def run(
    words: list[str],
    cwd: Path,
    log: Path,
    stop: tuple[str, int] | None = None,
    with_signal: int = signal.SIGKILL,
    environment: dict[str, str] | None = None,
) -> None:
    """Be the process that runs a script: see `run_script` and `run_ranks`."""
    os.chdir(cwd)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment or {})
    if "ACCELERATE_USE_FSDP" in os.environ:
        allow_fsdp()
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        allow_deepspeed()
    sys.path.insert(0, str(ROOT / "scripts"))
    sys.argv = words
    # A shell starts its background jobs deaf to Ctrl-C, and so would this be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if stop is not None:
        stop_at(*stop, with_signal)
    runpy.run_path(words[0], run_name="__main__")


def allow_fsdp() -> None:
    """Let accelerate spread a model over CPU processes, as it does over GPUs.

    `AcceleratorState` (accelerate 1.15) looks at ACCELERATE_USE_FSDP only where the processes are
    said to be on GPUs (or alike): on CPUs it goes on as plain DDP, without a word.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    start = PartialState.__init__

    def started(self: PartialState, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:  # device and backend stay
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = started  # type: ignore[method-assign]


def allow_deepspeed() -> None:
    """Let accelerate hand a model to DeepSpeed on CPU processes, as it does on GPUs.

    `PartialState` (accelerate 1.15) leaves DeepSpeed out where it is told to use CPUs, and takes
    processes without a GPU, where it is not, for one process each.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def prepared(self: PartialState, *args: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_CPU

    PartialState._prepare_backend = prepared  # type: ignore[method-assign]


def stop_at(function: str, call: int, with_signal: int) -> None:
    """Let the n-th call of a function send this process a signal instead."""
    module, _, path = function.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), with_signal)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


if __name__ == "__main__":  # one of the processes of a launcher, of which the second dies
    if os.environ["RANK"] == "1":
        stop_at("contrastive.align_model:AlignModel.forward", 6, signal.SIGKILL)
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
