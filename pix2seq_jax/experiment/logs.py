"""What a run reports: log lines, progress with ETA, TensorBoard, metrics.jsonl.

This is the only user of clu. Its writers need TensorFlow, so they are imported when a writer is
made.
"""

import contextlib
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pix2seq_jax.files.lines import Lines
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.files.whole import write_whole

# Floating point operations per second of one device in dense bfloat16 products, as its vendor says,
# by the start of `device_kind`; the first that fits.
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}

log = logging.getLogger("pix2seq_jax")


def setup_logging() -> None:
    """Sends the library's log lines to stderr with the time; safe to call twice."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
        )
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.INFO)


@contextlib.contextmanager
def phase(name: str, *, every: float = 10.0) -> Iterator[None]:
    """Logs begin and end of a slow phase, and a heartbeat line every `every` seconds in between."""
    start, done = time.monotonic(), threading.Event()

    def beat() -> None:
        while not done.wait(every):
            log.info("%s: still at it after %.0f s", name, time.monotonic() - start)

    thread = threading.Thread(target=beat, daemon=True, name=f"heartbeat {name}")
    log.info("%s ...", name)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    log.info("%s: done in %.1f s", name, time.monotonic() - start)


def duration(seconds: float) -> str:
    """Seconds as `1h02m`, `3m05s` or `12s`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{s:02d}s" if minutes else f"{s}s"


def _is_later(row: bytes, step: float) -> bool:
    """Whether a line of metrics.jsonl is of a later step; a line of another form is not."""
    try:
        content = json.loads(row)
    except (ValueError, RecursionError):
        return False
    saved = content.get("step") if isinstance(content, dict) else None
    return isinstance(saved, int | float) and saved > step


class MetricWriter:
    """Scalars and pictures of a run, to TensorBoard (clu), to `metrics.jsonl` and to trackers;
    silent on processes other than 0."""

    def __init__(
        self,
        workdir: str | Path,
        *,
        active: bool = True,
        after: int | None = None,
        trackers: Sequence[Any] = (),
    ) -> None:
        """Opens the files for appending.

        Args:
            workdir: folder of the run.
            active: whether this process writes.
            after: drop the rows of later steps first; an interrupted run does them again.
            trackers: `trackers.Tracker`s; closed with the files.
        """
        self._writer, self._workdir, self._trackers = None, path_of(workdir), trackers
        if active:
            from clu import metric_writers

            self._workdir.mkdir(parents=True, exist_ok=True)
            self._writer = metric_writers.SummaryWriter(str(workdir))
            step = math.inf if after is None else after
            path = self._workdir / "metrics.jsonl"
            self._lines = Lines(path, keep=lambda row: not _is_later(row, step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line `{"step": …, name: value, …}`; values that are not finite are written as
        null."""
        if self._writer is None:
            return
        plain = {name: float(value) for name, value in values.items() if value is not None}
        self._writer.write_scalars(step, plain)
        row = {"step": step} | {k: v if math.isfinite(v) else None for k, v in plain.items()}
        self._lines.append(json.dumps(row))
        for tracker in self._trackers:
            tracker.scalars(step, {k: v for k, v in plain.items() if math.isfinite(v)})

    def flush(self) -> None:
        """Returns when all rows are in metrics.jsonl, also where that is in an object store."""
        if self._writer is not None:
            self._lines.flush()

    def text(self, name: str, content: str) -> None:
        """A text file in the workdir."""
        if self._writer is not None:
            write_whole(self._workdir / name, content)

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures u8[H,W,3] by name."""
        if self._writer is not None:
            self._writer.write_images(
                step, {name: picture[None] for name, picture in pictures.items()}
            )
            for tracker in self._trackers:
                tracker.images(step, pictures)

    def close(self) -> None:
        """Writes what is buffered."""
        if self._writer is not None:
            self._writer.close()
            self._lines.close()
            for tracker in self._trackers:
                tracker.close()


def _speed(rates: Mapping[str, float]) -> str:
    """The rates for a log line; empty where there are none yet."""
    if math.isnan(rates["steps_per_s"]):
        return ""
    images, tokens, wait = rates["images_per_s"], rates["tokens_per_s"], 100 * rates["data_wait"]
    return (
        f"  |  {images:.1f} images/s  {tokens:.0f} tokens/s  data wait {wait:.0f} %  ETA "
        f"{duration(rates['eta_s'])}{_use(rates)}"
    )


def _use(rates: Mapping[str, float]) -> str:
    """What the device does and holds, for a log line."""
    words = f"  {rates['tflops_per_s']:.3g} TFLOP/s"
    if "mfu" in rates:
        words += f" (MFU {100 * rates['mfu']:.0f} %)"
    if "device_gib" in rates:
        words += f"  device memory {rates['device_gib']:.1f} GiB"
    return words


def device_use(flops_per_s: float) -> dict[str, float]:
    """What one device does and holds.

    Args:
        flops_per_s: of all devices.

    Returns:
        `tflops_per_s`; `mfu`, its share of what the device can do in bfloat16, where that is known
        (model FLOPs utilisation, Chowdhery et al. 2022, PaLM, appendix B); `device_gib`, the most
        memory that was in use so far, where the device tells.
    """
    import jax  # here, so that the help of a command needs none of it

    device, rate = jax.local_devices()[0], flops_per_s / jax.device_count()
    use = {"tflops_per_s": rate / 1e12}
    for name, peak in PEAKS.items():
        if device.device_kind.startswith(name):
            use["mfu"] = rate / peak
            break
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        use["device_gib"] = stats["peak_bytes_in_use"] / 2**30
    return use


class Progress:
    """A bar on a terminal; in a log one line every `log_steps` steps, each with rates and the time
    left.

    Use as a context manager around the loop, so that log lines do not break the bar.
    """

    def __init__(
        self, *, first: int, total: int, log_steps: int, images_per_step: int, tokens_per_step: int
    ) -> None:
        self._first, self._total, self._log_steps = first, total, log_steps
        self._images, self._tokens = images_per_step, tokens_per_step
        self._mark, self._mark_step, self._waited = time.monotonic(), first, 0.0
        self._bar = tqdm(
            total=total,
            initial=first,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Progress":
        self._stack.enter_context(logging_redirect_tqdm([log]))
        return self

    def __exit__(self, *exc) -> None:
        self._bar.close()
        self._stack.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside (evaluation) does not count in the rates."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._mark += time.monotonic() - start

    def due(self, step: int) -> bool:
        """Moves the bar to `step` (finished steps); whether a line is due: after the first step and
        every log_steps."""
        self._bar.update(step - self._bar.n)
        return step % self._log_steps == 0 or step in (self._first + 1, self._total)

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        waited: float,
        flops: float = 0.0,
    ) -> dict[str, float]:
        """Logs the line of `step` and returns the rates: steps/s, images/s, tokens/s, seconds left,
        share of waiting, and what the device does and holds (see `device_use`).

        Args:
            step: that is done.
            metrics: for the line.
            waited: seconds that the whole loop has waited for data so far.
            flops: of a step, on all devices.
        """
        now = time.monotonic()
        seconds, steps = max(now - self._mark, 1e-9), step - self._mark_step
        self._mark, self._mark_step = now, step
        rate = math.nan  # the first step was compilation
        if step > self._first + 1:
            rate = steps / seconds
        left = (self._total - step) / rate
        rates = {
            "steps_per_s": rate,
            "images_per_s": rate * self._images,
            "tokens_per_s": rate * self._tokens,
            "eta_s": left,
            "data_wait": (waited - self._waited) / seconds if rate == rate else math.nan,
        }
        rates |= device_use(flops * rate)
        self._waited = waited
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info(
            "step %d/%d (%.0f %%)  %s%s",
            step,
            self._total,
            100 * step / self._total,
            shown,
            _speed(rates),
        )
        return rates


def followed(
    items: Iterable[Any],
    total: int,
    *,
    name: str,
    size: Callable[[Any], int],
    unit: str = "image",
    every: float = 5.0,
) -> Iterator[Any]:
    """Passes items on; a bar on a terminal, in a log a line every `every` seconds and at the end,
    each with the rate and the time left.

    Args:
        items: which become ready one after the other.
        total: units in all of them.
        name: of what is done.
        size: units in an item.
        unit: what is counted.
        every: seconds.
    """
    start = said = time.monotonic()
    terminal = sys.stderr.isatty()
    bar = tqdm(total=total, unit=unit, desc=name, disable=not terminal, dynamic_ncols=True)
    done = 0
    with logging_redirect_tqdm([log]), bar:
        for item in items:
            yield item
            done += size(item)
            bar.update(size(item))
            now = time.monotonic()
            if done == total or (not terminal and now - said > every):
                said, rate = now, done / max(now - start, 1e-9)
                left, speed = duration((total - done) / rate), f"{rate:.{0 if rate > 10 else 1}f}"
                text = "%s: %d/%d %ss (%.0f %%), %s %ss/s, ETA %s"
                log.info(text, name, done, total, unit, 100 * done / total, speed, unit, left)


def parameter_table(params) -> str:
    """Names, shapes and sizes of a parameter tree, with the total."""
    from clu import parameter_overview

    return parameter_overview.get_parameter_overview(params, include_stats=False)


def profiler(workdir: str | Path, *, first_profile: int):
    """clu's hook that records a trace of a few steps from `first_profile` on; call it with each
    step."""
    from clu import periodic_actions

    return periodic_actions.Profile(
        logdir=str(workdir),
        num_profile_steps=5,
        first_profile=first_profile,
        profile_duration_ms=None,
    )
