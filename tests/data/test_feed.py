"""The feed: global arrays in order, errors raised in the caller, threads that end."""

import gc
import itertools
import threading
import time

import jax
import numpy as np
import pytest

from pix2seq_jax.data.feed import Feed

P = jax.sharding.PartitionSpec


def sharding() -> jax.sharding.NamedSharding:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.sharding.NamedSharding(mesh, P("data"))


def batch(number: int) -> dict[str, np.ndarray]:
    return {
        "image": np.full((16, 2, 2, 3), number, np.float32),
        "labels": np.full((16, 3), number, np.int32),
        "valid": np.ones(16, bool),
        "image_id": np.full(16, 2**40 + number),
    }


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert not feed_threads()


def test_batches_come_in_order_as_global_arrays():
    with Feed((batch(i) for i in range(5)), sharding()) as feed:
        pairs = list(feed)
    assert len(pairs) == 5
    for i, (device, host) in enumerate(pairs):
        assert set(device) == {"image", "labels", "valid"}
        assert device["image"].sharding == sharding()
        assert {shard.data.shape[0] for shard in device["labels"].addressable_shards} == {2}
        np.testing.assert_array_equal(device["image"], batch(i)["image"])
        assert set(host) == {"labels", "valid", "image_id"}
        assert (host["image_id"] == 2**40 + i).all()


def test_an_ended_feed_stays_ended():
    feed = Feed(iter([batch(0)]), sharding())
    next(feed)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(feed)


def test_an_error_reaches_the_caller_after_the_good_batches():
    def source():
        yield batch(0)
        raise ValueError("image 7.jpg cannot be decoded")

    feed = Feed(source(), sharding())
    next(feed)
    with pytest.raises(ValueError, match=r"image 7\.jpg"):
        next(feed)
    with pytest.raises(StopIteration):
        next(feed)


def test_an_error_of_the_transfer_reaches_the_caller():
    with (
        Feed(iter([{"image": np.zeros((7, 2), np.float32)}]), sharding()) as feed,
        pytest.raises(ValueError, match="7"),
    ):
        next(feed)


def test_closing_ends_the_thread_while_it_waits():
    made = []

    def source():
        for i in itertools.count():
            made.append(i)
            yield batch(i)

    feed = Feed(source(), sharding(), depth=2)
    next(feed)
    time.sleep(0.2)
    assert len(made) <= 5  # it reads ahead, but not without end
    feed.close()
    assert not feed_threads()
    feed.close()
    with pytest.raises(StopIteration):
        next(feed)


def test_a_forgotten_feed_is_collected():
    feed = Feed((batch(i) for i in itertools.count()), sharding())
    next(feed)
    del feed
    gc.collect()
    assert not feed_threads()


def test_waiting_is_measured():
    def slow():
        for i in range(3):
            time.sleep(0.1)
            yield batch(i)

    with Feed(slow(), sharding()) as feed:
        for _ in feed:
            pass
        assert 0.2 < feed.wait_seconds < 5
    with Feed((batch(i) for i in range(2)), sharding()) as feed:
        time.sleep(0.5)
        next(feed)
        assert feed.wait_seconds < 0.1
