"""Requests that arrive one by one, answered in batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pix2seq_jax.experiment.logs import log


class _Waiting(NamedTuple):
    item: Any
    answer: asyncio.Future


class Batcher:
    """Collects items until there are `size`, or `delay` seconds have passed since the first one
    was seen.

    While all threads are at work, items collect, so under load batches are full without a wait.
    """

    def __init__(
        self,
        work: Callable[[list], Sequence],
        *,
        size: int,
        delay: float,
        threads: int = 1,
        seen: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Starts nothing yet.

        Args:
            work: answers for a list of 1 to `size` items, in order; called in `threads` threads.
            size: most items in a batch.
            delay: seconds.
            threads: batches at a time.
            seen: called with the size of every batch.
        """
        self._work, self._size, self._delay, self._seen = work, size, delay, seen
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._free = asyncio.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="predict")

    def __len__(self) -> int:
        """Items that are not taken yet."""
        return len(self._waiting)

    async def ask(self, item: Any) -> Any:
        """The answer for an item; raises what `work` raises for it. A caller that is cancelled
        takes its item back, unless it is being worked on."""
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def in_thread(self, function: Callable, *args) -> Any:
        """Calls a function in a thread that works."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def run(self) -> None:
        """Answers until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._free.acquire()
                await self._arrived.wait()
                await self._collect()
                count = min(self._size, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
                if not self._waiting:
                    self._arrived.clear()
                group.create_task(self._answer([one for one in batch if not one.answer.done()]))

    async def _answer(self, batch: list[_Waiting]) -> None:
        """Answers a batch, then frees its thread."""
        try:
            if not batch:
                return
            self._seen(len(batch))
            answers = await self.in_thread(self._answers, [one.item for one in batch])
            for one, answer in zip(batch, answers, strict=True):
                if one.answer.done():  # nobody waits any more
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
        finally:
            self._free.release()

    def close(self) -> None:
        """Ends the threads; what they are at is finished."""
        self._threads.shutdown()

    async def _collect(self) -> None:
        """Waits for a full batch, at most the delay."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._delay
        while len(self._waiting) < self._size and loop.time() < end:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), end - loop.time())
            except TimeoutError:
                return

    def _answers(self, items: list) -> list:
        """An answer or an exception for each item. Where a batch fails, each item is tried alone,
        so that one does not spoil the others."""
        try:
            return list(self._work(items))
        except Exception as error:  # whatever it is, the server goes on
            if len(items) == 1:
                log.exception("a request failed", exc_info=error)
                return [error]
        return [self._answers([item])[0] for item in items]
