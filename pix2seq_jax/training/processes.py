"""The processes of a job: how they find each other, and where they wait for each other.

One process alone needs none of this, and every function is then done at once.
"""

import importlib.util
import os
import socket
import time
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# The store of the job, in which Orbax and JAX itself keep what processes tell each other, has no
# public name.
from jax._src import distributed
from jax.experimental import multihost_utils

from pix2seq_jax.files.locations import path_of

JOIN_SECONDS = 300  # that a process waits for the others of the job
# Without a sign of life for so long a process counts as dead, and the others end.
HEARTBEAT_SECONDS = 60
# That a process which ends by an error waits for the others; then all are ended. Those that end
# well meet before (`experiment.command`).
SHUTDOWN_SECONDS = 60
# At a barrier: a process may compile, read or restore for that much longer than the fastest one.
MEET_SECONDS = 1800
# In a collective of GPUs.
COLLECTIVE_FLAG, COLLECTIVE_SECONDS = "xla_gpu_nccl_termination_timeout_seconds", 600
# Keys in the store of the job: HOSTS/PROCESS and ARRIVED/WHERE/PROCESS hold a name of a host.
HOSTS, ARRIVED = "pix2seq_jax/hosts", "pix2seq_jax/arrived"
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
    set_time_limit()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes of the job did not find each other: {error}; start one process per "
            "host under SLURM, Kubernetes, MPI or on a TPU pod, or give each process "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error
    if jax.process_count() > 1:
        own = f"{HOSTS}/{jax.process_index()}"
        distributed.global_state.client.key_value_set(own, socket.gethostname())


def set_time_limit() -> None:
    """Ends a collective of GPUs that waits for longer; XLA waits for ever without it. To be called
    before JAX looks for devices. TPUs have limits of their own."""
    flags = os.environ.get("XLA_FLAGS", "")
    if COLLECTIVE_FLAG not in flags and importlib.util.find_spec("libtpu") is None:
        os.environ["XLA_FLAGS"] = f"--{COLLECTIVE_FLAG}={COLLECTIVE_SECONDS} {flags}".strip()


def meet(where: str, *, seconds: int = MEET_SECONDS) -> None:
    """Waits until all processes of the job are there.

    Collectives wait for less than a minute, which is less than one compilation may take longer
    than another.

    Args:
        where: what has been reached, for the message; the same words in all processes.
        seconds: to wait.

    Raises:
        ValueError: some did not come; with their numbers and hosts.
    """
    if jax.process_count() == 1:
        return
    client, own = distributed.global_state.client, f"{ARRIVED}/{where}/{jax.process_index()}"
    client.key_value_set(own, socket.gethostname(), allow_overwrite=True)
    try:
        ocp.multihost.get_barrier_sync_fn()(key=where, timeout_ms=1000 * seconds)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"{where}: process {jax.process_index()} waited up to {seconds} s, and "
            f"{_absent(client, where)} did not come; look into the log there, then start all "
            f"{jax.process_count()} processes again ({error})"
        ) from error
    client.key_value_delete(own)  # the next meeting may be in the same words


def _absent(client: Any, where: str) -> str:
    """The processes that did not arrive at a meeting, with their hosts."""
    try:
        arrived = _by_process(client, f"{ARRIVED}/{where}")
        hosts = _by_process(client, HOSTS)
    except jax.errors.JaxRuntimeError:
        return "process 0, which keeps the list of all,"
    absent = [index for index in range(jax.process_count()) if index not in arrived]
    names = [f"process {index} on {hosts.get(index, 'an unknown host')}" for index in absent]
    return ", ".join(names) or "some process in time"


def _by_process(client: Any, folder: str) -> dict[int, str]:
    """The values of FOLDER/PROCESS in the store of the job."""
    entries = client.key_value_dir_get(f"{folder}/")
    return {int(key.rpartition("/")[2]): value for key, value in entries}


def check_shared(folder: str | Path) -> None:
    """Refuses a folder that is not the same one for all processes.

    Raises:
        ValueError: a file of some process is not seen by this one.
    """
    if jax.process_count() == 1:
        return
    meet("the workdir is looked for")  # one may have read for much longer than another
    folder = path_of(folder)
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
            f"{jax.process_index()}; give one that all hosts share (gs://BUCKET/RUN, NFS, "
            "Filestore, Lustre)"
        )


def _unseen(marks: list[PurePath]) -> list[int]:
    """Numbers of the files that do not appear in time."""
    end = time.monotonic() + SHARED_SECONDS
    while True:
        missing = [index for index, mark in enumerate(marks) if not mark.exists()]
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.2)
