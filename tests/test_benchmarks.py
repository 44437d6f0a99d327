"""What benchmarks/gpu.py reads off a program."""

from benchmarks import gpu

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
