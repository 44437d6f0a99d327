"""Progress, heartbeat and the metric files."""

import json
import logging
import math
import time

import numpy as np
import pytest

from pix2seq_jax.experiment import logs


@pytest.fixture
def lines(caplog, monkeypatch):
    """The library's log lines; its logger does not propagate once a command has set it up."""
    caplog.set_level("INFO", logger="pix2seq_jax")
    monkeypatch.setattr(logs.log, "propagate", False)
    logs.log.addHandler(caplog.handler)
    yield caplog
    logs.log.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "seconds,text", [(12.4, "12s"), (59.6, "1m00s"), (3725, "1h02m"), (math.inf, "?")]
)
def test_durations(seconds, text):
    assert logs.duration(seconds) == text


def test_a_slow_phase_has_a_heartbeat(lines):
    with logs.phase("restore", every=0.05):
        time.sleep(0.3)
    texts = [record.getMessage() for record in lines.records]
    assert texts[0] == "restore ..." and "done in 0.3 s" in texts[-1]
    assert sum("still at it" in text for text in texts) >= 2


def test_a_phase_that_fails_is_not_called_done(lines):
    with pytest.raises(KeyError), logs.phase("restore"):
        raise KeyError
    assert "done" not in lines.text


def test_progress_is_due_at_the_first_step_then_every_interval_and_at_the_end(lines):
    settings = {"log_steps": 10, "images_per_step": 4, "tokens_per_step": 40}
    with logs.Progress(first=0, total=25, **settings) as progress:
        due = []
        for step in range(1, 26):
            if progress.due(step):
                due.append(step)
                rates = progress.report(step, {"loss": 1.0}, waited=0.0)
    assert due == [1, 10, 20, 25]
    assert rates["eta_s"] == 0 and rates["images_per_s"] == pytest.approx(4 * rates["steps_per_s"])
    assert lines.text.count("ETA") == 3 and "step 25/25 (100 %)  loss 1" in lines.text


def test_paused_time_and_waiting_time_are_told_apart():
    with logs.Progress(
        first=4, total=10, log_steps=1, images_per_step=1, tokens_per_step=1
    ) as progress:
        progress.report(5, {}, waited=1.0)
        time.sleep(0.1)
        with progress.paused():
            time.sleep(0.5)
        rates = progress.report(6, {}, waited=1.05)
    assert 5 < rates["steps_per_s"] < 11 and 0.2 < rates["data_wait"] < 0.6
    assert rates["eta_s"] == pytest.approx(4 / rates["steps_per_s"])


def test_metric_writer_writes_json_lines_and_tensorboard(tmp_path):
    writer = logs.MetricWriter(tmp_path)
    writer.scalars(3, {"loss": np.float32(0.5), "AP": math.nan, "APs": None})
    writer.images(3, {"picture": np.zeros((4, 4, 3), np.uint8)})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 3, "loss": 0.5, "AP": None}]
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert events.stat().st_size > 100


def test_rows_of_steps_that_are_done_again_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n{"step": 2')
    writer = logs.MetricWriter(tmp_path, after=10)
    writer.scalars(20, {"loss": 1.0})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n{"step": 20, "loss": 1.0}\n'


def test_lines_that_somebody_else_wrote_are_kept(tmp_path):
    foreign = b'hello\n[1, 2]\n{"epoch": 3}\n{"step": "last"}\n\xff\xfe\n\n'
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 10}\n' + foreign + b'{"step": 20}\n')
    logs.MetricWriter(tmp_path, after=10).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 10}\n' + foreign


def test_an_inactive_writer_writes_nothing(tmp_path):
    writer = logs.MetricWriter(tmp_path / "none", active=False)
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    assert not (tmp_path / "none").exists()


def test_logging_is_set_up_once():
    logs.setup_logging()
    logs.setup_logging()
    assert len([h for h in logs.log.handlers if type(h) is logging.StreamHandler]) == 1


def test_the_line_says_what_the_device_does(lines):
    settings = {"log_steps": 1, "images_per_step": 4, "tokens_per_step": 40}
    with logs.Progress(first=0, total=9, **settings) as progress:
        for step in (1, 2):
            rates = progress.report(step, {"loss": 1.0}, waited=0.0, flops=8e12)
    # Of one of the eight devices; no peak is known of a core, which tells no memory either.
    assert rates["tflops_per_s"] == pytest.approx(rates["steps_per_s"])
    assert "TFLOP/s" in lines.text and "MFU" not in lines.text and "mfu" not in rates
