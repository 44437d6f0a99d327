"""Predictions for the frames of a video."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pix2seq_jax.evaluation.predictions import video
from pix2seq_jax.evaluation.predictions.output import Output, fitted
from pix2seq_jax.files.locations import readable
from pix2seq_jax.files.whole import named_at_the_end


def predict(path: str, output: Output, *, batch_size: int, limit: int = 0) -> Iterator:
    """First how many frames there are (0: the file does not say), then their rows of
    predictions.json, which have `frame` (from 0) and `seconds` as well.

    The annotated video is OUT/NAME.mp4, without sound. Frames are read, predicted for and written
    `batch_size` at a time.

    Raises:
        ValueError: PyAV is not installed, the video cannot be read, or the annotated one would
            overwrite it.
    """
    target, size, words = output.folder / f"{Path(path).stem}.mp4", None, Counter()
    if target.resolve() == Path(path).resolve():
        raise ValueError(f"--out={output.folder} would overwrite {path}; choose another folder")
    with video.opened(path) as film:
        yield min(limit or film.count, film.count)
        frames = itertools.islice(film.frames, limit or None)
        with named_at_the_end(target) as partial, video.written(partial, film.rate) as append:
            for several in _grouped(frames, batch_size):
                for frame, pixels, objects in _looked_at(output, several, batch_size):
                    more = {"frame": frame.number, "seconds": round(frame.seconds, 4)}
                    number = frame.number + 1
                    prediction = output.row(path, number, pixels, objects, **more)
                    plain = {name: own for name, own in objects.items() if name != "captions"}
                    picture = output.picture(pixels, plain)
                    drawn = fitted(picture, objects.get("captions", ()), size)
                    size = size or (drawn.shape[1], drawn.shape[0])
                    append(drawn)
                    words.update(set(prediction.names))
                    yield {"file": readable(path)} | more | prediction.to_dict()
            if size is None:
                raise ValueError(f"video {path} has no frames; give another file")
    output.card(path, target.name, "", words, "These are the frames that show a class.")


def _grouped(frames: Iterator[video.Frame], size: int) -> Iterator[list[video.Frame]]:
    while several := list(itertools.islice(frames, size)):
        yield several


def _looked_at(output: Output, several: Sequence[video.Frame], batch_size: int) -> Iterator[tuple]:
    """(frame, pixels, objects) of some frames."""
    # A smaller batch at the end would be compiled anew: the last frame fills it.
    pixels = [frame.pixels for frame in several]
    pixels += pixels[-1:] * (batch_size - len(several))
    options = {"threshold": output.threshold, "broken": _cannot_be, "first": several[0].number}
    for number, image, objects in output.model.stream(pixels, **options):
        if number < len(several):
            yield several[number], image, objects


def _cannot_be(file: str, size: tuple[int, int], error: ValueError) -> None:
    """Frames are decoded already."""
    raise error
