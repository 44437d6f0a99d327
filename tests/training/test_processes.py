"""Joining a job: what is refused before anything waits. Several processes are in
tests/test_processes.py."""

import pytest

from pix2seq_jax.training import processes


@pytest.mark.parametrize(
    "arguments",
    [("host:1234", 0, -1), ("host:1234", 2, -1), ("", 2, 0), ("", 0, 0)],
)
def test_a_part_of_what_is_needed_is_refused(arguments):
    with pytest.raises(ValueError, match="give all three"):
        processes.join(*arguments)


@pytest.mark.parametrize("number", [2, 7])
def test_a_number_beyond_the_job_is_refused(number):
    with pytest.raises(ValueError, match=rf"--process_id={number} is not one of .* 0 to 1"):
        processes.join("host:1234", 2, number)


def test_one_process_waits_for_nobody(tmp_path):
    processes.meet("anywhere", seconds=0)
    processes.check_shared(tmp_path / "none")
    assert not list(tmp_path.iterdir())
