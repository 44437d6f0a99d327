"""Runs the server until SIGTERM or Ctrl-C."""

import contextlib
import signal
import socket

import uvicorn

from pix2seq_jax.evaluation import predictor
from pix2seq_jax.experiment.logs import log, phase, setup_logging
from pix2seq_jax.serving.app import Limits, Service


def serve(
    workdir: str,
    *,
    host: str,
    port: int,
    limits: Limits,
    threshold: float,
    tasks: str = "",
    step: int = 0,
    text_model: str = "",
    kernel_dtype: str = "",
    cache_dtype: str = "",
) -> None:
    """Loads the model of a workdir and answers until SIGTERM or Ctrl-C; what is in flight then is
    answered.

    Raises:
        ValueError: no trained run, or the port cannot be had.
    """
    setup_logging()
    with _listen(host, port) as listening:
        with phase("restore"):
            model = predictor.load(
                workdir,
                tasks=tasks or None,
                step=step,
                batch_size=limits.batch_size,
                text_model_path=text_model,
                kernel_dtype=kernel_dtype,
                cache_dtype=cache_dtype,
            )
        app = Service(model, limits, threshold=threshold).app()
        config = uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False)
        at, number = listening.getsockname()[:2]
        address = f"http://[{at}]:{number}" if ":" in at else f"http://{at}:{number}"
        log.info("step %d of %s at %s", model.step, workdir, address)
        _Server(config).run(sockets=[listening])
    log.info("stopped")


class _Server(uvicorn.Server):
    """Ends with code 0 after a signal; uvicorn's own would raise it again at the end."""

    @contextlib.contextmanager
    def capture_signals(self):
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            # All is answered and the process ends: one more SIGTERM would only spoil its code.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; clients that come before the model is loaded wait."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--host={host} --port={port} cannot be listened at ({error}); give another host or "
            "port"
        ) from error
