"""Batches that other processes make.

Preparing an image is partly Python, and a process runs Python on one core at a time; many threads
of it also keep the training loop waiting. Worker w of W makes batches w, w + W, ... of every data
set, the same ones that this process would make (data.pipeline).
"""

import io
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pix2seq_jax.data.coco.json import Report

Batch = dict[str, np.ndarray]
Words = list[tuple[int, str, str]]  # number of a report, kind, name


class WorkerProcesses:
    """Processes that make the training batches of some data sets. Close them in the end.

    A process that prepares images is killed by `close`, and ends by itself where this one dies.
    What it finds in the data (images that cannot be read, outlines that are repaired) is counted in
    the reports of this process.
    """

    def __init__(self, datasets: Mapping[str, Mapping[str, Any]], count: int) -> None:
        """Starts them; they need some seconds before the first batch.

        Args:
            datasets: arguments of pipeline.train_dataset, by name. They are sent to the processes.
            count: W.

        Raises:
            ValueError: a source cannot be sent to another process.
        """
        content, self._reports = _packed(datasets)
        context = multiprocessing.get_context("spawn")
        self._processes, self._pipes = [], {name: [] for name in datasets}
        for number in range(count):
            pipes = {name: context.Pipe(duplex=False) for name in datasets}
            senders = {name: sender for name, (_, sender) in pipes.items()}
            arguments = content, len(self._reports), senders, number, count
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self._processes.append(process)
            for name, (receiver, sender) in pipes.items():
                sender.close()  # or its end would not be seen
                self._pipes[name].append(receiver)

    def batches(self, name: str) -> Iterator[Batch]:
        """The batches of a data set, in order.

        Raises:
            ValueError: while iterating: see pipeline.train_dataset; or a process has ended.
        """
        for number, pipe in itertools.cycle(enumerate(self._pipes[name])):
            try:
                batch, words = _receive(pipe)
            except (EOFError, OSError) as error:
                raise self._ended(number) from error
            for report, kind, word in words:
                self._reports[report].add_once(kind, word)
            yield batch

    def _ended(self, number: int) -> ValueError:
        process = self._processes[number]
        process.join(timeout=5)
        return ValueError(
            f"a process that prepares images has ended (exit code {process.exitcode}; -9: it was "
            "killed, as a machine does that has no memory left); lower "
            "config.data.worker_processes, or set it to 1 to see what happens"
        )

    def close(self) -> None:
        """Ends the processes. Iterators of `batches` end with an error."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


class _Packer(pickle.Pickler):
    """Leaves reports behind: the processes have some of their own, see `_Unpacker`."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.reports: list[Report] = []

    def persistent_id(self, thing: Any) -> int | None:
        """The number of a report; None for anything else."""
        if not isinstance(thing, Report):
            return None
        numbers = [number for number, report in enumerate(self.reports) if report is thing]
        if not numbers:
            self.reports.append(thing)
            return len(self.reports) - 1
        return numbers[0]


class _Unpacker(pickle.Unpickler):
    """Puts a new report in the place of each."""

    def __init__(self, content: bytes, reports: Sequence[Report]) -> None:
        super().__init__(io.BytesIO(content))
        self._reports = reports

    def persistent_load(self, number: int) -> Report:
        """The report of that number."""
        return self._reports[number]


def _packed(datasets: Mapping[str, Mapping[str, Any]]) -> tuple[bytes, list[Report]]:
    """(what the processes get, the reports in it by number)."""
    file = io.BytesIO()
    packer = _Packer(file)
    try:
        packer.dump({name: dict(arguments) for name, arguments in datasets.items()})
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ValueError(
            f"a source of images cannot be sent to another process ({error}); make it a class "
            "that pickle takes, or set config.data.worker_processes=1"
        ) from error
    return file.getvalue(), packer.reports


def _work(
    content: bytes, reports: int, pipes: Mapping[str, Connection], number: int, count: int
) -> None:
    """Worker `number` of `count`: a thread for each data set."""
    # The process that started this one says when it ends, also where a whole group is told to.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # accelerators are not for TensorFlow
    own = [Report() for _ in range(reports)]
    datasets = _Unpacker(content, own).load()
    threads = []
    for name, arguments in datasets.items():
        start = arguments.pop("start_step", 0) + number
        arguments |= {"start_step": start, "stride": count}
        target = threading.Thread(target=_serve, args=(arguments, pipes[name], own))
        target.start()
        threads.append(target)
    for thread in threads:
        thread.join()


def _serve(arguments: Mapping[str, Any], pipe: Connection, reports: Sequence[Report]) -> None:
    """Makes batches and sends them until nobody takes them; or an error, as its last word."""
    from pix2seq_jax.data import pipeline  # TensorFlow, where no accelerator can be seen

    told = [0] * len(reports)
    try:
        for batch in pipeline.train_dataset(**arguments):
            words = []
            for number, report in enumerate(reports):
                fresh = report.once(told[number])
                told[number] += len(fresh)
                words += [(number, kind, name) for kind, name in fresh]
            _send(pipe, batch, words)
    except ConnectionError:
        os._exit(0)  # the process that took them is gone
    except ValueError as error:
        pipe.send(str(error))
    except Exception:
        pipe.send(traceback.format_exc())
    pipe.close()


def _send(pipe: Connection, batch: Batch, words: Words) -> None:
    """Shapes and words first, then the bytes of each array."""
    arrays = {name: np.ascontiguousarray(value) for name, value in batch.items()}
    pipe.send(({name: (x.dtype.str, x.shape) for name, x in arrays.items()}, words))
    for array in arrays.values():
        if array.size:
            pipe.send_bytes(memoryview(array).cast("B"))


def _receive(pipe: Connection) -> tuple[Batch, Words]:
    """What `_send` has sent."""
    message = pipe.recv()
    if isinstance(message, str):
        raise ValueError(message)
    layout, words = message
    batch = {name: np.empty(shape, dtype) for name, (dtype, shape) in layout.items()}
    for array in batch.values():
        if array.size:
            pipe.recv_bytes_into(memoryview(array).cast("B"))
    return batch, words
