"""Frames of videos, and videos of frames, by PyAV: `pip install 'pix2seq_jax[video]'`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

CODECS = ("libx264", "mpeg4")  # the first that PyAV was built with


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 0.
        seconds: from the start.
        pixels: u8[H,W,3], turned as players show it.
    """

    number: int
    seconds: float
    pixels: np.ndarray


class Video(NamedTuple):
    """An opened video.

    Attributes:
        frames: one after the other; ValueError where one cannot be decoded.
        rate: frames per second, a fraction.
        count: of frames as the file says, perhaps from its duration; 0 where it does not.
    """

    frames: Iterator[Frame]
    rate: Any
    count: int


@contextlib.contextmanager
def opened(path: str) -> Iterator[Video]:
    """The frames of a video file; its sound is not read.

    Raises:
        ValueError: PyAV is not installed, or the file is no video.
    """
    av = _av(path)
    try:
        container = av.open(path)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"video {path} cannot be read ({error}); give another file") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"video {path} has no pictures; give a file with a video stream")
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or 25
        count = stream.frames or round((container.duration or 0) / av.time_base * rate)
        yield Video(_frames(av, container, path, float(rate)), rate, count)


def _frames(av, container, path: str, rate: float) -> Iterator[Frame]:
    number = 0
    try:
        for frame in container.decode(video=0):
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            seconds = number / rate if frame.time is None else frame.time
            yield Frame(number, float(seconds), np.ascontiguousarray(pixels))
            number += 1
    except av.FFmpegError as error:
        raise ValueError(
            f"video {path} cannot be decoded after frame {number} ({error}); cut it there, or give "
            "another file"
        ) from error


@contextlib.contextmanager
def written(path: PurePath, rate: Any) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame u8[H,W,3] to an MP4 file without sound. All have the size of
    the first, whose last row and column are left out where they make it odd.

    Raises:
        ValueError: PyAV is not installed.
    """
    av = _av(str(path))
    with av.open(str(path), "w", format="mp4") as container:
        codec = next((name for name in CODECS if name in av.codecs_available), CODECS[-1])
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt = "yuv420p"
        started = False

        def append(pixels: np.ndarray) -> None:
            nonlocal started
            height, width = (max(side // 2 * 2, 2) for side in pixels.shape[:2])
            if not started:
                stream.height, stream.width, started = height, width, True
            even = np.ascontiguousarray(pixels[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield append
        if started:
            container.mux(stream.encode(None))


def _av(path: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"video {path} needs the package av ({error}): pip install 'pix2seq_jax[video]'"
        ) from error
    return av
