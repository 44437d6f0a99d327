"""Lines at the end of a file: whole ones, each once."""

import pytest
from etils.epath import register

from pix2seq_jax.files import lines
from tests.helpers.addresses import SCHEME, DiskPath


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path, monkeypatch):
    """A file on the disk, and under an address."""
    monkeypatch.setitem(register._URI_PREFIXES_TO_CLS, SCHEME, DiskPath)
    path = tmp_path / "a.jsonl"
    return path, f"{SCHEME}{path}" if request.param == "store" else path


def test_lines_are_added_and_a_torn_one_goes(place):
    path, address = place
    path.write_text("one\ntwo\nthr")
    file = lines.Lines(address, keep=lambda line: line != b"two\n")
    assert path.read_text() == "one\n"
    file.append("four ü")
    file.flush()
    assert path.read_text() == "one\nfour ü\n"
    file.append("five")
    file.close()
    assert path.read_text() == "one\nfour ü\nfive\n"


def test_a_store_is_sent_lines_now_and_then(place, monkeypatch):
    path, address = place
    seconds = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: seconds[0])
    file = lines.Lines(address)
    file.append("one")
    assert (path.read_text() if path.exists() else "") == ("" if address != path else "one\n")
    seconds[0] = lines.SECONDS
    file.append("two")
    assert path.read_text() == "one\ntwo\n"
    file.close()
