import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from pix2seq_jax.files.whole import open_whole, save_arrays, write_whole


@pytest.mark.parametrize("kind", [str, Path, epath.Path])
def test_texts_and_bytes_are_written_under_any_kind_of_path(tmp_path, kind):
    path = kind(tmp_path / "new" / "folder" / "a.json")
    write_whole(path, "Straße")
    assert Path(path).read_bytes() == "Straße".encode()
    write_whole(path, b"\x00\xff")
    assert Path(path).read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path / "new" / "folder") == ["a.json"]


def test_a_failed_write_leaves_the_file_of_before(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "before")

    def fail(self, target):
        assert self.read_text() == "after"
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "after")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


def test_arrays_are_written_beside_what_was_there(tmp_path):
    path = tmp_path / "new" / "a.npz"
    save_arrays(path, {"a": np.arange(3)})
    with pytest.raises(RuntimeError, match="stopped"), open_whole(path) as stream:
        stream.write(b"half")
        raise RuntimeError("stopped")
    with np.load(path) as content:
        np.testing.assert_array_equal(content["a"], [0, 1, 2])
    assert os.listdir(path.parent) == ["a.npz"]
