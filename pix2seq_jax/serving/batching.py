"""Requests that arrive one by one, answered in batches by one thread."""

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

    While the thread is at work, items collect, so under load batches are full without a wait.
    """

    def __init__(
        self,
        work: Callable[[list], Sequence],
        *,
        size: int,
        delay: float,
        seen: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Starts nothing yet.

        Args:
            work: answers for a list of 1 to `size` items, in order; called in one thread.
            size: most items in a batch.
            delay: seconds.
            seen: called with the size of every batch.
        """
        self._work, self._size, self._delay, self._seen = work, size, delay, seen
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

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
        """Calls a function in the thread that works."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            await self._arrived.wait()
            await self._collect()
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            batch = [one for one in batch if not one.answer.done()]
            if batch:
                self._seen(len(batch))
                answers = await self.in_thread(self._answers, [one.item for one in batch])
                for one, answer in zip(batch, answers, strict=True):
                    if one.answer.done():  # nobody waits any more
                        continue
                    if isinstance(answer, Exception):
                        one.answer.set_exception(answer)
                    else:
                        one.answer.set_result(answer)

    def close(self) -> None:
        """Ends the thread; what it is at is finished."""
        self._thread.shutdown()

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
