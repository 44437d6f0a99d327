"""What a server costs: requests/s and latency of 1, 4 and 16 clients beside prediction one at a
time in a process, and whether any of 1,000 requests is lost or answered wrongly, 50 broken ones
among them.

    python benchmarks/serve.py --workdir=runs/shapes

The server is a process of its own on the same machine, so on a CPU clients, server and model share
the cores. Images are the embedded data's, 64 pixels, or those of a folder (--images=photos).
--requests=0 leaves the timing out. Ends with 1 if a request was lost or answered wrongly.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

import pix2seq_jax
from pix2seq_jax.data.shapes import dataset

CLIENTS = (1, 4, 16)
TOLERANCE = 0.02  # pixels and scores: other batch sizes add up in another order


def percentiles(seconds: list[float]) -> str:
    """The latency in milliseconds."""
    marks = np.percentile(np.array(seconds) * 1000, [50, 90, 99])
    return "  ".join(
        f"p{mark} {value:7.1f} ms" for mark, value in zip((50, 90, 99), marks, strict=True)
    )


def one_at_a_time(workdir: str, files: list[Path], count: int, threshold: float) -> list[dict]:
    """Predicts in this process, image by image, `count` of them for the time; the answers for the
    files."""
    predictor = pix2seq_jax.load(workdir, batch_size=1)
    answers = [predictor(file, threshold=threshold)[0].to_dict() for file in files]  # compiles, too
    if not count:
        return answers
    seconds = []
    for file in itertools.islice(itertools.cycle(files), count):
        start = time.perf_counter()
        predictor(file, threshold=threshold)
        seconds.append(time.perf_counter() - start)
    print(f"predict, one at a time  {count / sum(seconds):7.1f} images/s    {percentiles(seconds)}")
    return answers


@contextlib.contextmanager
def server(workdir: str, flags: list[str]) -> Iterator[str]:
    """The address of a server that is ready; ended by SIGTERM."""
    command = [sys.executable, "-m", "pix2seq_jax.serve", f"--workdir={workdir}", "--port=0"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    address, start = "", time.perf_counter()
    try:
        for line in process.stderr:
            if match := re.search(r"at (http://\S+)", line):
                address = match[1]
            if line.rstrip().endswith(" ready"):
                break
        print(f"server ready after {time.perf_counter() - start:.1f} s")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        print(f"server ended with code {process.wait(60)}")


def load(address: str, bodies: list[bytes], clients: int) -> tuple[list, list[float], float]:
    """(answers in order, seconds of each, seconds in all) of so many clients at a time."""
    answers, seconds = [None] * len(bodies), [0.0] * len(bodies)
    numbers, lock = iter(range(len(bodies))), threading.Lock()

    def client() -> None:
        with httpx.Client(base_url=address, timeout=120) as session:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                start = time.perf_counter()
                with contextlib.suppress(httpx.HTTPError):  # it stays without an answer
                    answers[number] = session.post("/predict", content=bodies[number])
                seconds[number] = time.perf_counter() - start

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(client) for _ in range(clients)]:
            one.result()
    return answers, seconds, time.perf_counter() - start


def is_same(row: dict, wanted: dict) -> bool:
    """Whether an answer is that of the library."""
    one, other = row["objects"], wanted["objects"]
    if len(one) != len(other) or row.get("caption") != wanted.get("caption"):
        return False
    return all(
        a["category"] == b["category"]
        and np.allclose(a["box"], b["box"], atol=TOLERANCE)
        and abs(a["score"] - b["score"]) < TOLERANCE
        and a.get("mask") == b.get("mask")
        and np.shape(a.get("keypoints")) == np.shape(b.get("keypoints"))
        and np.allclose(a.get("keypoints", 0), b.get("keypoints", 0), atol=TOLERANCE)
        for a, b in zip(one, other, strict=True)
    )


def broken_body(body: bytes, number: int) -> bytes:
    """One of five kinds of requests that hold no whole image."""
    kinds = (b"", body[: 1 + number % 400], body[: len(body) // 2], b"no image", b"<!doctype html>")
    return kinds[number % len(kinds)]


def mixed(address: str, files: list[Path], wanted: list[dict], count: int, broken: int) -> int:
    """Sends requests with broken ones among them; how many were lost or answered wrongly."""
    rng = np.random.default_rng(0)
    odd = set(rng.choice(count, broken, replace=False).tolist())
    bodies = [files[number % len(files)].read_bytes() for number in range(count)]
    for number in odd:
        bodies[number] = broken_body(bodies[number], number)
    answers, _, whole = load(address, bodies, max(CLIENTS))
    lost = sum(answer is None for answer in answers)
    statuses = Counter(answer.status_code for answer in answers if answer is not None)
    wrong = 0
    for number, answer in enumerate(answers):
        if answer is None:
            continue
        if number in odd:
            wrong += answer.status_code != 400 or not answer.json()["error"]
        elif answer.status_code != 200 or not is_same(answer.json(), wanted[number % len(files)]):
            wrong += 1
    print(f"{count} requests, {broken} broken: {lost} lost, {wrong} wrong, {whole:.1f} s, ", end="")
    print("answers by status:", dict(sorted(statuses.items())))
    return lost + wrong


def timed(address: str, files: list[Path], count: int) -> None:
    """Prints requests/s and latency of each number of clients."""
    bodies = [files[number % len(files)].read_bytes() for number in range(count)]
    for clients in CLIENTS:
        answers, seconds, whole = load(address, bodies, clients)
        refused = sum(one is None or one.status_code != 200 for one in answers)
        rate = f"{count / whole:7.1f} requests/s  {percentiles(seconds)}"
        print(f"{clients:2d} clients              {rate}  {refused} refused", flush=True)


def main() -> None:
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="of a trained run")
    parser.add_argument("--requests", type=int, default=200, help="of each number of clients")
    parser.add_argument("--mixed", type=int, default=1000, help="requests with broken ones")
    parser.add_argument("--broken", type=int, default=50, help="of them")
    parser.add_argument("--flags", default="", help="of the server, separated by blanks")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score")
    parser.add_argument("--images", default="", help="folder of JPEG files to send")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dataset.generate(Path(temporary), dataset.Spec(train=1, val=20, size=64), 1)
        files = sorted(Path(given.images or Path(temporary) / "val").glob("*.jpg"))[:20]
        wanted = one_at_a_time(given.workdir, files, given.requests, given.threshold)
        every = [one for row in wanted for one in row["objects"]]
        parts = [f"{sum(kind in one for one in every)} {kind}" for kind in ("mask", "keypoints")]
        print(f"{len(every)} objects ({', '.join(parts)}) on {len(files)} images")
        flags = [*given.flags.split(), f"--threshold={given.threshold}"]
        with server(given.workdir, flags) as address:
            if given.requests:
                timed(address, files, given.requests)
            bad = mixed(address, files, wanted, given.mixed, given.broken)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
