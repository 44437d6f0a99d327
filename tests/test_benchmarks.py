"""How benchmarks end, and what benchmarks/gpu.py reads off a program."""

import argparse
import os
import shutil
import signal
import subprocess
import sys

import pytest

from benchmarks import gpu, measure
from pix2seq_jax import bench
from tests.helpers import small

# A loop of three turns: a fusion takes a layer of a stack, a product follows, and another fusion
# writes its result into a stack. Then a choice of two branches, of which one is a loop of an
# unknown number of turns with a table of five rows.
PROGRAM = """
%take (p: f32[3,8,4], i: s32[]) -> bf16[8,4] {
  %p = f32[3,8,4]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %cut = f32[1,8,4]{2,1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,8,4}
  %flat = f32[8,4]{1,0} bitcast(%cut)
  ROOT %half = bf16[8,4]{1,0} convert(%flat)
}

%put (q: f32[3,8,8], r: f32[8,8], j: s32[]) -> f32[3,8,8] {
  %q = f32[3,8,8]{2,1,0} parameter(0)
  %r = f32[8,8]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %one = f32[1,8,8]{2,1,0} bitcast(%r)
  ROOT %written = f32[3,8,8]{2,1,0} dynamic-update-slice(%q, %one, %j)
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%sum (s: f32[3,8,8]) -> f32[8] {
  %s = f32[3,8,8]{2,1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %added = f32[8]{0} reduce(%s, %zero), dimensions={0,1}, to_apply=%add
}

%turn (t: (s32[], f32[3,8,4], f32[3,8,8])) -> (s32[], f32[3,8,4], f32[3,8,8]) {
  %t = (s32[], f32[3,8,4]{2,1,0}, f32[3,8,8]{2,1,0}) parameter(0)
  %k = s32[] get-tuple-element(%t), index=0
  %layers = f32[3,8,4]{2,1,0} get-tuple-element(%t), index=1
  %stack = f32[3,8,8]{2,1,0} get-tuple-element(%t), index=2
  %layer = bf16[8,4]{1,0} fusion(%layers, %k), kind=kLoop, calls=%take
  %lent = (f32[8,8]{1,0}, s8[4194304]{0}) custom-call(%layer, %layer), custom_call_target="__cublas$lt$matmul"
  %product = f32[8,8]{1,0} get-tuple-element(%lent), index=0
  %filled = f32[3,8,8]{2,1,0} fusion(%stack, %product, %k), kind=kLoop, calls=%put
  ROOT %next = (s32[], f32[3,8,4]{2,1,0}, f32[3,8,8]{2,1,0}) tuple(%k, %layers, %filled)
}

%chunk (u: (s32[5,2], f32[3,8,8], f32[8])) -> (s32[5,2], f32[3,8,8], f32[8]) {
  %u = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) parameter(0)
  %table = s32[5,2]{1,0} get-tuple-element(%u), index=0
  %v = f32[3,8,8]{2,1,0} get-tuple-element(%u), index=1
  %result = f32[8]{0} fusion(%v), kind=kInput, calls=%sum
  ROOT %again = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) tuple(%table, %v, %result)
}

%loss (w: (s32[5,2], f32[3,8,8], f32[8])) -> (s32[5,2], f32[3,8,8], f32[8]) {
  %w = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) parameter(0)
  ROOT %chunks = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) while(%w), condition=%more, body=%chunk
}

%none (y: (s32[5,2], f32[3,8,8], f32[8])) -> (s32[5,2], f32[3,8,8], f32[8]) {
  ROOT %y = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) parameter(0)
}

ENTRY %main (x: (s32[], f32[3,8,4], f32[3,8,8])) -> f32[8] {
  %x = (s32[], f32[3,8,4]{2,1,0}, f32[3,8,8]{2,1,0}) parameter(0)
  %loop = (s32[], f32[3,8,4]{2,1,0}, f32[3,8,8]{2,1,0}) while(%x), condition=%some, body=%turn, backend_config={"known_trip_count":{"n":"3"}}
  %all = f32[3,8,8]{2,1,0} get-tuple-element(%loop), index=2
  %positions = s32[5,2]{1,0} iota(), iota_dimension=0
  %start = f32[8]{0} constant({...})
  %both = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) tuple(%positions, %all, %start)
  %which = s32[] constant(1)
  ROOT %end = (s32[5,2]{1,0}, f32[3,8,8]{2,1,0}, f32[8]{0}) conditional(%which, %both, %both), branch_computations={%none, %loss}
}
"""  # noqa: E501


def test_kernels_are_counted_with_the_parts_that_they_move():
    assert list(gpu.kernels(PROGRAM)) == [
        ("elementwise", 128 + 4 + 64, 3.0),
        ("product", 64 + 64 + 256, 3.0),
        ("writing into a stack", 256 + 256 + 4, 3.0),
        ("sums", 3 * 256 + 32, 5 / 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("decode", "--batches=x"), "argument --batches: 'x': give whole numbers of at least 1"),
        (("encode", "--sizes=0"), "argument --sizes: '0': give a whole number of at least 1"),
        (("serve", "--workdir=/nope"), "error: /nope/config.json does not exist"),
    ],
)
def test_wrong_flags_end_with_2(arguments, words, capfd):
    code, printed = ended(arguments, capfd)
    assert code == 2 and words in printed and "Traceback" not in printed, printed


def test_numbers_of_flags():
    assert measure.wholes("1,8") == [1, 8] and measure.whole("5") == 5
    for text in ("", "x", "0", "1,0", "0,x", "-1", "1.5", "1,"):
        with pytest.raises(argparse.ArgumentTypeError, match="give whole numbers of at least 1"):
            measure.wholes(text)
    with pytest.raises(argparse.ArgumentTypeError, match="'1,8': give a whole number of at least"):
        measure.whole("1,8")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("import sys; print(sys.argv[1:])", 0, "['--a=1', 'b']"),
        ("import sys; sys.exit(1)", 1, ""),
        ("raise ValueError('no\\nsuch size')", 2, "error: no such size"),
        ("open('/nowhere')", 2, "error: [Errno 2] No such file or directory: '/nowhere'"),
        ("raise KeyboardInterrupt", 130, "stopped by Ctrl-C"),
    ],
)
def test_a_benchmark_ends_in_one_line(body, code, words, folder, capfd):
    (folder / "mine.py").write_text(body)
    assert bench.names() == ["mine"]
    found, said = ended(("mine", "--a=1", "b"), capfd)
    where = f" (python {folder / 'mine.py'} shows where it was raised)" if code == 2 else ""
    assert (found, said) == (code, words + where)


def test_ctrl_c_is_one_line(folder):
    """It reaches the command and the benchmark."""
    (folder / "mine.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    code = (
        "from pathlib import Path; from pix2seq_jax import bench; "
        f"bench.FOLDER = Path({str(folder)!r}); bench.main(['mine'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=small.ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "stopped by Ctrl-C\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of benchmarks, without one."""
    shutil.copy(bench.FOLDER / f"{bench.ENDING}.py", tmp_path)
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    return tmp_path


def ended(arguments, capfd) -> tuple[int, str]:
    """The exit code of a benchmark and what it printed."""
    with pytest.raises(SystemExit) as end:
        bench.main(arguments)
    return end.value.code, "".join(capfd.readouterr()).strip()
