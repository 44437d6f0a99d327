"""From NumPy batches to global arrays on the devices, ahead of the step that needs them. No
TensorFlow here."""

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Iterable

import jax
import numpy as np

Batch = dict[str, np.ndarray]


class Feed:
    """Iterator of (device batch, host batch) pairs, prepared by a background thread.

    The device batch is a dict of global jax.Arrays; 64-bit integers (image ids) stay behind, since
    devices have none. The host batch holds the NumPy arrays of this process' rows, all but the
    image. An exception of the source or the transfer is raised by `next()` in the caller; after it,
    or at the end, the feed is exhausted. Use it as a context manager, or call `close()`.

    Attributes:
        wait_seconds: time that `next()` has waited for data, in all; its growth over a stretch of
            steps divided by the time of the stretch is the input-bound fraction.
    """

    def __init__(
        self, batches: Iterable[Batch], sharding: jax.sharding.Sharding, depth: int = 2
    ) -> None:
        """Starts to read.

        Args:
            batches: this process' rows of the global batches (data.pipeline, `row_block`).
            sharding: of the first axis of every array, e.g. over the mesh's data axis.
            depth: device batches kept ready.
        """
        self.wait_seconds = 0.0
        self._ready: queue.Queue = queue.Queue(maxsize=depth)
        stop = threading.Event()
        arguments = (batches, sharding, self._ready, stop)
        thread = threading.Thread(target=_run, args=arguments, name="feed", daemon=True)
        # Runs when Python exits, too.
        self._finish = weakref.finalize(self, _end, thread, self._ready, stop)
        thread.start()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> tuple[dict[str, jax.Array], Batch]:
        if not self._finish.alive:
            raise StopIteration
        start = time.perf_counter()
        item = self._ready.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """Ends the thread; what was prefetched is dropped."""
        self._finish()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _run(
    batches: Iterable[Batch],
    sharding: jax.sharding.Sharding,
    ready: queue.Queue,
    stop: threading.Event,
) -> None:
    """The thread. It has no reference to the Feed, so that one that is dropped can be collected."""
    try:
        for batch in batches:
            _put(_transfer(batch, sharding), ready, stop)
            if stop.is_set():
                return
        _put(StopIteration(), ready, stop)
    except BaseException as error:  # whatever it is, the caller must hear of it
        _put(error, ready, stop)


def _transfer(batch: Batch, sharding: jax.sharding.Sharding) -> tuple[dict[str, jax.Array], Batch]:
    arrays = {
        name: to_global(value, sharding)
        for name, value in batch.items()
        if value.dtype not in (np.int64, np.uint64)
    }
    return arrays, {name: value for name, value in batch.items() if name != "image"}


def to_global(rows: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """The rows of a batch that this process reads (`row_block`) -> the global array."""
    count = row_block(sharding)[1]
    return jax.make_array_from_process_local_data(
        sharding, rows, (rows.shape[0] * count, *rows.shape[1:])
    )


def row_block(sharding: jax.sharding.Sharding) -> tuple[int, int]:
    """Which rows of a batch this process reads: block `index` of `count` equal ones, as (index,
    count).

    It follows from where the devices of the process lie on the axes that the rows are cut over.
    Processes whose devices hold the same rows, where a `model` axis crosses them, read the same
    block.

    Raises:
        ValueError: the rows of this process' devices are no such block.
    """
    every = sharding.devices_indices_map((sharding.num_devices,))
    starts = sorted({rows.start or 0 for (rows,) in every.values()})
    own = [
        starts.index(start)
        for start in sorted({every[d][0].start or 0 for d in sharding.addressable_devices})
    ]
    index, count = own[0] // len(own), len(starts) // len(own)
    if own != list(range(index * len(own), (index + 1) * len(own))) or len(starts) % len(own):
        raise ValueError(
            f"the devices of process {jax.process_index()} hold the parts {own} of {len(starts)} "
            "of a batch, which is no block of rows; change config.mesh so that the data axes go "
            "through the processes one after the other"
        )
    return index, count


def _put(item, ready: queue.Queue, stop: threading.Event) -> None:
    """Waits until the queue has room; gives up once `stop` is set."""
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            return ready.put(item, timeout=0.1)


def _end(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    """Stops the thread and drops what it has prepared."""
    stop.set()
    thread.join()
    while not ready.empty():
        ready.get_nowait()
