"""What a token costs in decoding, beside the time to read what it has to read.

    python benchmarks/decode.py
    python benchmarks/decode.py --batches=64 --dtype=bfloat16 --json=decode.json

A row is the time of a decoding of LONG tokens less that of a decoding of SHORT ones, for each token
between. The floor is the bytes that a token reads (the parameters once, the image's keys and
values, and the cache as far as it is filled on the average) over the bandwidth measured in the same
run; or, where that is more, its multiplications over the matrix rate of the same run.
"""

import measure  # isort: skip
import jax
import jax.numpy as jnp
from flax import linen as nn

from pix2seq_jax.decoding.generate import BLOCK, generate
from pix2seq_jax.decoding.sampling import from_string
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq


def main() -> None:
    """Times the decoder of ViT-B on memories of random images."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--batches", default="1,8", help="images at a time")
    parser.add_argument("--objects", default="1", help="sequences of an image")
    parser.add_argument("--samples", default="1", help="samples of a sequence")
    parser.add_argument("--sizes", default="640", help="sides of the images in pixels")
    parser.add_argument("--vocabs", default="3000", help="sizes of the vocabulary")
    parser.add_argument("--lengths", default="16,112", help="SHORT,LONG[,LONG...] tokens")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--sampler", default="greedy")
    args = parser.parse_args()
    bandwidth, rate = measure.bandwidth(), measure.matrix_rate(args.dtype)
    rows = [
        row
        for batch in _numbers(args.batches)
        for objects in _numbers(args.objects)
        for samples in _numbers(args.samples)
        for size in _numbers(args.sizes)
        for vocab in _numbers(args.vocabs)
        for row in _rows(args, (batch, objects, samples, size, vocab), bandwidth, rate)
    ]
    facts = {"dtype": args.dtype, "GB/s": bandwidth / 1e9, "GFLOP/s": rate / 1e9}
    measure.report(rows, args.json, **facts)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _rows(args, shape: tuple[int, ...], bandwidth: float, rate: float) -> list[dict]:
    """The rows of one shape, a row for each pair of lengths that follow each other."""
    batch, objects, samples, size, vocab = shape
    model = Pix2Seq((size, size), vocab, VitBackbone(16), dtype=args.dtype)
    tokens = model.backbone.grid(model.image_size)
    variables = _variables(model)
    memory = jax.random.normal(jax.random.key(1), (batch, tokens[0] * tokens[1], model.dec_dim))
    prompt = jnp.full((batch, objects, 1), 10, jnp.int32)
    rng, sampler = jax.random.key(0), from_string(args.sampler)
    works, compiling, temporary = {}, {}, {}
    for length in _numbers(args.lengths):

        def decode(variables, memory, prompt, rng, length=length):
            options = {"max_len": length + 1, "num_samples": samples, "rng": rng}
            return generate(model, variables, memory, prompt, sampler=sampler, **options).tokens

        made, compiling[length] = measure.compiled(decode, variables, memory, prompt, rng)
        temporary[length] = made.memory_analysis().temp_size_in_bytes
        works[length] = lambda made=made: made(variables, memory, prompt, rng)
    times = measure.timed_in_turns(works, runs=args.runs)
    rows = []
    for short, long in zip(list(works)[:-1], list(works)[1:], strict=True):
        seconds, cpu = (
            (getattr(times[long], kind) - getattr(times[short], kind)) / (long - short)
            for kind in ("median", "cpu")
        )
        cached = (short + long) / 2
        read = _bytes(model, variables, batch, batch * objects * samples, cached)
        work = 2 * _products(model, batch * objects * samples, len(memory[0]), cached)
        floor = max(read / bandwidth, work / rate)
        rows.append(
            {
                "batch": batch,
                "objects": objects,
                "samples": samples,
                "size": size,
                "vocab": vocab,
                "tokens": f"{short}-{long}",
                "ms/token": seconds * 1e3,
                "CPU ms": cpu * 1e3,
                "MB/token": read / 1e6,
                "floor ms": floor * 1e3,
                "of": "bytes" if read / bandwidth >= work / rate else "FLOPs",
                "ratio": seconds / floor,
                "compile s": compiling[long],
                "temporary MB": temporary[long] / 1e6,
            }
        )
    return rows


def _variables(model: Pix2Seq):
    """The decoder's variables; the encoder's are not needed, so those of a tiny one are made."""
    small = model.clone(image_size=(16, 16), enc_layers=1)
    images, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 1), jnp.int32)
    return nn.meta.unbox(jax.jit(small.init)(jax.random.key(0), images, tokens))


def _bytes(model: Pix2Seq, variables, batch: int, sequences: int, cached: float) -> float:
    """Bytes that one token of each sequence reads."""
    size = jnp.dtype(model.dtype).itemsize
    decoder = dict(variables["params"]["decoder"])
    decoder.pop("cross")  # read once for an image
    parameters = sum(leaf.size for leaf in jax.tree.leaves(decoder))
    rows, columns = model.backbone.grid(model.image_size)
    image = 2 * model.dec_layers * batch * rows * columns * model.dec_dim
    return size * (parameters + image + 2 * model.dec_layers * sequences * cached * model.dec_dim)


def _products(model: Pix2Seq, sequences: int, image_tokens: int, cached: float) -> float:
    """Multiplications of one token of each sequence."""
    dim = model.dec_dim
    layer = 6 * dim**2 + 2 * dim * model.dec_mlp + 2 * dim * (image_tokens + cached)
    return sequences * (model.dec_layers * layer + dim * model.vocab_size)


if __name__ == "__main__":
    print(f"A block of the cache holds {BLOCK} tokens.")
    main()
