"""What a token costs in decoding, beside the time to read what it has to read.

    python benchmarks/decode.py
    python benchmarks/decode.py --batches=64 --dtype=bfloat16 --json=decode.json

A row is the time of a decoding of LONG tokens less that of a decoding of SHORT ones, for each token
between. The floor is the bytes that a token reads (the parameters once, the image's keys and
values, and the cache as far as it is filled on the average) over the bandwidth measured in the same
run; or, where that is more, its multiplications over the matrix rate of the same run.
"""

import functools
import math

import measure  # isort: skip
import jax
import jax.numpy as jnp
from flax import linen as nn

from pix2seq_jax.decoding.generate import BLOCK, generate
from pix2seq_jax.decoding.sampling import from_string
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.fixed_keys import dtype_of_keys
from pix2seq_jax.models.pix2seq import Pix2Seq


def main() -> None:
    """Times the decoder of ViT-B on memories of random images."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--batches", type=measure.wholes, default="1,8", help="images at a time")
    parser.add_argument("--objects", type=measure.wholes, default="1", help="sequences of an image")
    parser.add_argument("--samples", type=measure.wholes, default="1", help="samples of a sequence")
    parser.add_argument(
        "--sizes", type=measure.wholes, default="640", help="sides of the images in pixels"
    )
    parser.add_argument(
        "--vocabs", type=measure.wholes, default="3000", help="sizes of the vocabulary"
    )
    parser.add_argument(
        "--lengths", type=measure.wholes, default="16,112", help="SHORT,LONG[,LONG...] tokens"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--cache_dtype", default="", help="model.cache_dtype")
    parser.add_argument("--kernel_dtype", default="", help="int8, or that of --dtype")
    parser.add_argument("--sampler", default="greedy")
    args = parser.parse_args()
    bandwidth, rate = measure.bandwidth(), measure.matrix_rate(args.dtype)
    rows = [
        row
        for batch in args.batches
        for objects in args.objects
        for samples in args.samples
        for size in args.sizes
        for vocab in args.vocabs
        for row in _rows(args, (batch, objects, samples, size, vocab), bandwidth, rate)
    ]
    facts = {"dtype": args.dtype, "GB/s": bandwidth / 1e9, "GFLOP/s": rate / 1e9}
    measure.report(rows, args.json, **facts)


def _rows(args, shape: tuple[int, ...], bandwidth: float, rate: float) -> list[dict]:
    """The rows of one shape, a row for each pair of lengths that follow each other."""
    batch, objects, samples, size, vocab = shape
    sequences = batch * objects * samples
    model = Pix2Seq((size, size), vocab, VitBackbone(16), dtype=args.dtype)
    model = model.clone(cache_dtype=args.cache_dtype, kernel_dtype=args.kernel_dtype)
    works, compiled = _decoders(args, model, shape)
    times, rows = measure.timed_in_turns(works, runs=args.runs), []
    for short, long in zip(list(works)[:-1], list(works)[1:], strict=True):
        count, cached = long - short, (short + long) / 2
        seconds = (times[long].median - times[short].median) / count
        read = _bytes(model, batch, sequences // batch, cached)
        work = 2 * _products(model, sequences, cached)
        floor = max(read / bandwidth, work / rate)
        names = ("batch", "objects", "samples", "size", "vocab")
        row = dict(zip(names, shape, strict=True)) | {"tokens": f"{short}-{long}"}
        row |= {"ms/token": seconds * 1e3}
        row |= {"CPU ms": (times[long].cpu - times[short].cpu) / count * 1e3}
        row |= {"MB/token": read / 1e6, "floor ms": floor * 1e3}
        row |= {"of": "bytes" if read / bandwidth >= work / rate else "FLOPs"}
        rows.append(row | {"ratio": seconds / floor} | compiled[long])
    return rows


def _decoders(args, model: Pix2Seq, shape: tuple[int, ...]) -> tuple[dict, dict]:
    """By length: a decoding that can be timed, and what its compilation took and needs."""
    batch, objects, samples, *_ = shape
    variables, sampler = _variables(model), from_string(args.sampler)
    memory = jax.random.normal(jax.random.key(1), (batch, _image_tokens(model), model.dec_dim))
    inputs = variables, memory, jnp.full((batch, objects, 1), 10, jnp.int32), jax.random.key(0)
    works, compiled = {}, {}
    for length in args.lengths:

        def decode(variables, memory, prompt, rng, length=length):
            options = {"max_len": length + 1, "num_samples": samples, "rng": rng}
            return generate(model, variables, memory, prompt, sampler=sampler, **options).tokens

        made, seconds = measure.compiled(decode, *inputs)
        megabytes = made.memory_analysis().temp_size_in_bytes / 1e6
        compiled[length] = {"compile s": seconds, "temporary MB": megabytes}
        works[length] = functools.partial(made, *inputs)
    return works, compiled


def _image_tokens(model: Pix2Seq) -> int:
    return math.prod(model.backbone.grid(model.image_size))


def _variables(model: Pix2Seq):
    """The decoder's variables; the encoder's are not needed, so those of a tiny one are made."""
    small = model.clone(image_size=(16, 16), enc_layers=1)
    images, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 1), jnp.int32)
    return nn.meta.unbox(jax.jit(small.init)(jax.random.key(0), images, tokens))


def _bytes(model: Pix2Seq, batch: int, queries: int, cached: float) -> float:
    """Bytes that one token of each sequence reads, `queries` of an image."""
    layer = 6 * model.dec_dim**2 + 2 * model.dec_dim * model.dec_mlp
    parameters = model.dec_layers * layer + model.vocab_size * model.dec_dim
    of_kernels = jnp.dtype(model.kernel_dtype or model.dtype).itemsize
    of_image = jnp.dtype(dtype_of_keys(model.dtype, model.cache_dtype, queries)).itemsize
    cache = model.empty_cache(1, 1)
    of_tokens = cache.last[0].key.dtype.itemsize
    full = cached // BLOCK * BLOCK if cache.rounds_full else 0
    of_cached = full + of_tokens * (cached - full)
    keys = batch * (of_image * _image_tokens(model) + queries * of_cached)
    return of_kernels * parameters + 2 * model.dec_layers * model.dec_dim * keys


def _products(model: Pix2Seq, sequences: int, cached: float) -> float:
    """Multiplications of one token of each sequence."""
    dim = model.dec_dim
    layer = 6 * dim**2 + 2 * dim * model.dec_mlp + 2 * dim * (_image_tokens(model) + cached)
    return sequences * (model.dec_layers * layer + dim * model.vocab_size)


if __name__ == "__main__":
    print(f"A block of the cache holds {BLOCK} tokens.")
    main()
