"""From NumPy batches to global arrays on the devices, ahead of the step that needs them. No TensorFlow here."""

import queue
import threading
import time
from collections.abc import Iterable

import jax
import numpy as np

Batch = dict[str, np.ndarray]


class Feed:
    """Iterator of (device batch, host batch) pairs, prepared by a background thread.

    The device batch is a dict of global jax.Arrays; 64-bit integers (image ids) stay behind, since devices have none.
    The host batch holds the NumPy arrays of this process' rows, all but the image. An exception of the source or the
    transfer is raised by `next()` in the caller; after it, or at the end, the feed is exhausted. Use it as a context
    manager, or call `close()`.

    Attributes:
        wait_seconds: time that `next()` has waited for data, in all; its growth over a stretch of steps divided by the
            time of the stretch is the input-bound fraction.
    """

    def __init__(self, batches: Iterable[Batch], sharding: jax.sharding.Sharding, depth: int = 2) -> None:
        """Starts to read.

        Args:
            batches: this process' rows of the global batches (data.pipeline).
            sharding: of the first axis of every array, e.g. over the mesh's data axis.
            depth: device batches kept ready.
        """
        self.wait_seconds = 0.0
        self._sharding = sharding
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches,), name="feed", daemon=True)
        self._thread.start()

    def _transfer(self, batch: Batch) -> tuple[dict[str, jax.Array], Batch]:
        arrays = {
            name: jax.make_array_from_process_local_data(self._sharding, value)
            for name, value in batch.items()
            if value.dtype not in (np.int64, np.uint64)
        }
        return arrays, {name: value for name, value in batch.items() if name != "image"}

    def _put(self, item) -> bool:
        """False once the feed is closed."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _run(self, batches: Iterable[Batch]) -> None:
        try:
            for batch in batches:
                if not self._put(self._transfer(batch)):
                    return
            self._put(StopIteration())
        except BaseException as error:  # whatever it is, the caller must hear of it
            self._put(error)

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> tuple[dict[str, jax.Array], Batch]:
        if self._stop.is_set():
            raise StopIteration
        start = time.perf_counter()
        item = self._queue.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """Ends the thread; what was prefetched is dropped."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.1)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_) -> None:
        self.close()
