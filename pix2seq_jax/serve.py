"""Serves a model over HTTP: `python -m pix2seq_jax.serve --workdir=DIR --port=8000`.

POST /predict takes an image, as the body or as the file of a form, and answers what
predictions.json has: `curl --data-binary @photo.jpg http://localhost:8000/predict`. / is a page to
drop an image on, /healthz says whether the server is ready, /metrics is for Prometheus. Needs `pip
install pix2seq_jax[serve]`. See docs/serve.md.
"""

from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a trained or imported model."),
    Flag("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for all."),
    Flag("port", 8000, "To listen at; 0: a free one, which is logged.", least=0, most=65535),
    Flag("batch_size", 8, "Most images that are predicted for together.", least=1),
    Flag("delay_ms", 5.0, "Milliseconds that an image waits for others.", least=0, most=60_000),
    Flag("queue", 32, "Most requests at a time; more are answered 503.", least=1),
    Flag(
        "timeout", 30.0, "Seconds of a request; then it is answered 504.", least=0.001, most=86_400
    ),
    Flag("max_megabytes", 20.0, "Of an upload; more is answered 413.", least=0.001, most=10_000),
    Flag("max_megapixels", 25.0, "Of an image; more is answered 413.", least=0.001, most=10_000),
    Flag("threshold", 0.3, "Lowest score that is answered.", least=0, most=1),
    Flag("tasks", "", "Only these tasks, as in detection+segmentation (+ or commas)."),
    Flag("step", 0, "Of the checkpoint to use (0: the newest).", least=0),
    Flag("text_model", "", "SentencePiece model of an imported model with captions."),
    Flag("kernel_dtype", "", "int8: the decoder's kernels in int8."),
    Flag("cache_dtype", "", "int8: keys and values that tokens look at in int8."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments, trace_in_workdir=False)


def call(
    *,
    batch_size: int,
    delay_ms: float,
    queue: int,
    timeout: float,
    max_megabytes: float,
    max_megapixels: float,
    **options,
) -> None:
    """Serves, see `serving.server.serve`."""
    try:
        from pix2seq_jax.serving.app import Limits
        from pix2seq_jax.serving.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the server needs {error.name}, which is not installed: pip install pix2seq_jax[serve]"
        ) from error
    limits = Limits(
        batch_size=batch_size,
        delay=delay_ms / 1000,
        queue=queue,
        timeout=timeout,
        max_bytes=int(max_megabytes * 1e6),
        max_pixels=int(max_megapixels * 1e6),
    )
    serve(limits=limits, **options)


if __name__ == "__main__":
    main()
