"""The processes of a job: how they find each other, and where they wait for each other.

One process alone needs none of this, and every function is then done at once.
"""

import os
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

JOIN_SECONDS = 300  # that a process waits for the others of the job
# Without a sign of life for so long a process counts as dead, and the others end.
HEARTBEAT_SECONDS = 60
# At a barrier: a process may compile, read or restore for that much longer than the fastest one.
MEET_SECONDS = 1800
SHARED_SECONDS = 30  # until a file of one process has to be seen by all; network folders are slow


def join(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Connects this process with the others of its job.

    Args:
        coordinator: host:port of process 0, the same for all; "" where TPU pod, SLURM, Kubernetes
            or MPI tell it, with the other two.
        num_processes: of the job; 0 where it is told.
        process_id: of this one, from 0; -1 where it is told.

    Raises:
        ValueError: some of the arguments are missing, there is no job to be recognised, or the
            others did not come.
    """
    given = {
        "coordinator_address": coordinator or None,
        "num_processes": num_processes or None,
        "process_id": process_id if process_id >= 0 else None,
    }
    if None in given.values() and any(value is not None for value in given.values()):
        raise ValueError(
            f"--coordinator={coordinator} --num_processes={num_processes} --process_id="
            f"{process_id}: give all three, the first two the same in all processes, or none of "
            "them under SLURM, Kubernetes, MPI or on a TPU pod"
        )
    if coordinator and not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} is not one of the --num_processes={num_processes}: 0 to "
            f"{num_processes - 1}"
        )
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes of the job did not find each other: {error}; start one process per "
            "host under SLURM, Kubernetes, MPI or on a TPU pod, or give each process "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def meet(where: str, *, seconds: int = MEET_SECONDS) -> None:
    """Waits until all processes of the job are there.

    Collectives wait for less than a minute, which is less than one compilation may take longer
    than another.

    Args:
        where: what has been reached, for the message; the same words in all processes.
        seconds: to wait.

    Raises:
        ValueError: some did not come. JAX does not tell which.
    """
    if jax.process_count() == 1:
        return
    try:
        ocp.multihost.get_barrier_sync_fn()(key=where, timeout_ms=1000 * seconds)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"{where}: process {jax.process_index()} waited {seconds} s for the others of the "
            f"{jax.process_count()} processes, and not all came that far; look which log ends "
            f"before this, then start all of them again ({error})"
        ) from error


def check_shared(folder: str | Path) -> None:
    """Refuses a folder that is not the same one for all processes.

    Raises:
        ValueError: a file of some process is not seen by this one.
    """
    if jax.process_count() == 1:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.frombuffer(os.urandom(4), np.uint32)
    run = int(multihost_utils.broadcast_one_to_all(random)[0])
    marks = [folder / f".process-{index}-of-{run:08x}" for index in range(jax.process_count())]
    own = marks[jax.process_index()]
    own.touch()
    try:
        meet("the workdir is opened")
        missing = _unseen(marks)
        meet("the workdir is looked at")
    finally:
        own.unlink(missing_ok=True)
    if missing:
        raise ValueError(
            f"--workdir={folder} is another folder for process {missing} than for process "
            f"{jax.process_index()}; give one that all hosts share (NFS, Filestore, Lustre)"
        )


def _unseen(marks: list[Path]) -> list[int]:
    """Numbers of the files that do not appear in time."""
    end = time.monotonic() + SHARED_SECONDS
    while True:
        missing = [index for index, mark in enumerate(marks) if not mark.exists()]
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.2)
