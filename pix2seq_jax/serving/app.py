"""The server as an ASGI application: an image in, JSON out."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pix2seq_jax.evaluation.pictures.marks import color
from pix2seq_jax.evaluation.predictor import Predictor
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.serving.batching import Batcher
from pix2seq_jax.serving.uploads import Refused, pixels_of_upload, read_upload

PAGE = Path(__file__).with_name("page.html")
# Batches at a time: masks of one are made while the model works on the other, and a CPU has more
# than one core. Several devices take one: each might begin with another batch, and they would wait
# for each other.
THREADS = 2
SIZES = tuple(2**power for power in range(11))
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        batch_size: most images that are predicted for together.
        delay: seconds that the first image of a batch waits for others.
        queue: most requests at a time, uploads counted; more are answered 503.
        timeout: seconds that a request may take, its upload counted; then it is answered 504.
        max_bytes: of an upload; more is answered 413.
        max_pixels: of an image; more is answered 413.
    """

    batch_size: int = 8
    delay: float = 0.005
    queue: int = 32
    timeout: float = 30.0
    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "timeout", "max_bytes", "max_pixels"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} of the server must be above 0")
        if not self.delay >= 0:
            raise ValueError(f"delay={self.delay} of the server must be 0 or more")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that are compiled: powers of two, and the largest one."""
        return (*(size for size in SIZES if size < self.batch_size), self.batch_size)


class _Metrics:
    """What /metrics says."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options = {"registry": self.registry, "namespace": "pix2seq"}
        self.requests = Counter("requests", "Answered requests.", ["status"], **options)
        seconds = "Time from a request to its answer."
        self.seconds = Histogram("request_seconds", seconds, buckets=SECONDS, **options)
        images = "Images that were predicted for together."
        self.batches = Histogram("batch_images", images, buckets=SIZES, **options)
        self.open = Gauge("open_requests", "Requests without an answer yet.", **options)
        self.ready = Gauge("ready", "Whether all batch sizes are compiled.", **options)


class Service:
    """A model behind HTTP; its handlers, and what they share."""

    def __init__(self, predictor: Predictor, limits: Limits, *, threshold: float = 0.3) -> None:
        """Starts nothing yet.

        Args:
            predictor: whose `config.eval.batch_size` is at least that of the limits.
            limits: of requests.
            threshold: objects that score less are left out.
        """
        self._predictor, self._limits, self._threshold = predictor, limits, threshold
        self._metrics = _Metrics()
        self._open = 0
        self._state = "compiling"
        self._batcher: Batcher | None = None

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/info", self.info),
            Route("/healthz", self.healthz),
            Route("/metrics", self.metrics),
            Route("/predict", self.predict, methods=["POST"]),
        ]
        handlers = {HTTPException: _no_such_page}
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette):
        """Compiles and answers as long as the server runs."""
        del app
        limits = self._limits
        self._batcher = Batcher(
            self._predict,
            size=limits.batch_size,
            delay=limits.delay,
            threads=THREADS if jax.device_count() == 1 else 1,
            seen=self._metrics.batches.observe,
        )
        running = asyncio.create_task(self._run(self._batcher))
        try:
            yield
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            self._batcher.close()

    async def _run(self, batcher: Batcher) -> None:
        """Compiles, then answers."""
        try:
            for size in self._limits.sizes:
                start = time.monotonic()
                await batcher.in_thread(self._predictor.compile, size)
                log.info("compiled for %d images, %.1f s", size, time.monotonic() - start)
            self._state = "ready"
            self._metrics.ready.set(1)
            log.info("ready")
            await batcher.run()
        except Exception:
            self._state = "failed"
            self._metrics.ready.set(0)
            log.exception("the model failed; /healthz says so")
            raise

    def _predict(self, pixels: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predicts for 1 to `batch_size` images; blank ones fill up to a size that is compiled."""
        size = next(size for size in self._limits.sizes if size >= len(pixels))
        blank = [np.zeros((1, 1, 3), np.uint8)] * (size - len(pixels))
        found = self._predictor([*pixels, *blank], threshold=self._threshold, alone=True)
        return [one.to_dict() for one in found[: len(pixels)]]

    async def predict(self, request: Request) -> Response:
        """POST /predict: an image, as the body or as a form's file -> what predictions.json has."""
        start, self._open = time.monotonic(), self._open + 1
        self._metrics.open.inc()
        try:
            response = await self._answer(request)
        finally:
            self._open -= 1
            self._metrics.open.dec()
        self._metrics.seconds.observe(time.monotonic() - start)
        self._metrics.requests.labels(response.status_code).inc()
        return response

    async def _answer(self, request: Request) -> Response:
        """The answer, whatever happens."""
        try:
            self._admit()
            async with asyncio.timeout(self._limits.timeout):
                upload = await read_upload(request, self._limits.max_bytes)
                most = self._limits.max_pixels
                pixels = await run_in_threadpool(pixels_of_upload, upload, most)
                row = await self._batcher.ask(pixels)
            return JSONResponse({"file": upload.name} | row)
        except Refused as error:
            return _refusal(error.status, error.message)
        except TimeoutError:
            return _refusal(504, f"no answer within {self._limits.timeout:g} s; try again later")
        except ClientDisconnect:
            return _refusal(400, "the upload was broken off")
        except Exception as error:
            log.exception("a request failed")
            return _refusal(500, f"the model failed on this image ({type(error).__name__})")

    def _admit(self) -> None:
        """Refuses with 503 before the server is ready, and where too many requests are open."""
        if self._state != "ready":
            raise Refused(503, f"the server is not ready ({self._state}); try again later")
        if self._open > self._limits.queue:
            raise Refused(503, f"{self._limits.queue} requests are waiting; try again later")

    async def page(self, request: Request) -> Response:
        """GET /: a page to drop an image on."""
        del request
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    async def info(self, request: Request) -> Response:
        """GET /info: what the model knows, and the colours that pictures have (#rrggbb)."""
        del request
        config, limits = self._predictor.config, self._limits
        return JSONResponse(
            {
                "step": self._predictor.step,
                "tasks": list(config.tasks),
                "classes": list(config.data.category_names),
                "colours": [_hexadecimal(i + 1) for i in range(len(config.data.category_names))],
                "skeleton": [list(pair) for pair in config.data.skeleton],
                "limb_colours": [_hexadecimal(i + 1) for i in range(len(config.data.skeleton))],
                "threshold": self._threshold,
                "max_bytes": limits.max_bytes,
                "max_pixels": limits.max_pixels,
            }
        )

    async def healthz(self, request: Request) -> Response:
        """GET /healthz: 200 once all batch sizes are compiled, else 503."""
        del request
        status = 200 if self._state == "ready" else 503
        return JSONResponse({"status": self._state}, status)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics: Prometheus' text."""
        del request
        text = generate_latest(self._metrics.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def _hexadecimal(label: int) -> str:
    """The colour of a label, see `marks.color`, as CSS has it."""
    return "#{:02x}{:02x}{:02x}".format(*color(label))


async def _no_such_page(request: Request, error: HTTPException) -> Response:
    """What is asked for an address or by a method that the server does not have."""
    what = f"{request.method} {request.url.path}"
    answer = _refusal(
        error.status_code,
        f"{what}: {error.detail}; POST an image to /predict, or GET /, /info, /healthz or /metrics",
    )
    answer.headers.update(error.headers or {})
    return answer


def _refusal(status: int, message: str) -> Response:
    """An error as JSON, with the header that says when to come back."""
    headers = {"retry-after": "1"} if status == 503 else None
    return JSONResponse({"error": " ".join(message.split())}, status, headers)
