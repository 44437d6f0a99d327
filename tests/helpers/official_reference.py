"""What a published config computes, in plain TensorFlow and by the names of the official
checkpoints alone.

Written from the facts of github.com/google-research/pix2seq (architectures/, models/ar_model.py),
without anything of the package. It makes up every variable that it is not given, so that names and
shapes of all options are its own too; `tests/test_official_models.py` holds it against the recorded
checkpoints first.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
BOTTLENECKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class Reference:
    """The official model of `config["model"]` with these entries of a checkpoint; missing variables
    are made up."""

    def __init__(self, model: dict[str, Any], entries: dict[str, np.ndarray] | None = None) -> None:
        self.model = model
        self.entries = {} if entries is None else dict(entries)
        self.used: set[str] = set()
        self.random = np.random.default_rng(0)

    def variable(self, name: str, *shape: float) -> tf.Tensor:
        """The variable of this name; sizes are cut to whole numbers, as Keras does with them."""
        key, shape = f"model/{name}{SUFFIX}", tuple(int(size) for size in shape)
        if key not in self.entries:
            self.entries[key] = self._invent(name.rpartition("/")[2], shape)
        assert self.entries[key].shape == shape, (name, self.entries[key].shape, shape)
        self.used.add(key)
        return tf.constant(self.entries[key])

    def _invent(self, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
        if leaf == "kernel":
            scale = math.prod(shape[:-1] if len(shape) in (2, 4) else shape[:1]) ** -0.5
            return self.random.normal(0, scale, shape).astype(np.float32)
        if leaf in ("gamma", "moving_variance"):
            return self.random.uniform(0.5, 1.5, shape).astype(np.float32)
        return self.random.normal(0, 0.3, shape).astype(np.float32)

    def dense(self, x: tf.Tensor, name: str, width: int) -> tf.Tensor:
        return x @ self.variable(f"{name}/kernel", x.shape[-1], width) + self.variable(
            f"{name}/bias", width
        )

    def layer_norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        scale, shift = (self.variable(f"{name}/{leaf}", x.shape[-1]) for leaf in ("gamma", "beta"))
        return (x - mean) / tf.sqrt(variance + 1e-6) * scale + shift

    def mlp(self, x: tf.Tensor, name: str, ratio: int) -> tf.Tensor:
        width = x.shape[-1]
        h = self.dense(
            self.layer_norm(x, f"{name}/layernorms/0"), f"{name}/mlp_layers/0/dense1", width * ratio
        )
        return x + self.dense(
            tf.nn.gelu(h, approximate=False), f"{name}/mlp_layers/0/dense2", width
        )

    def attention(
        self, x: tf.Tensor, memory: tf.Tensor, name: str, heads: int, causal: bool = False
    ) -> tf.Tensor:
        width = x.shape[-1] // heads

        def project(source: tf.Tensor, part: str) -> tf.Tensor:
            kernel = self.variable(f"{name}/_{part}_dense/kernel", source.shape[-1], heads, width)
            bias = self.variable(f"{name}/_{part}_dense/bias", heads, width)
            return tf.einsum("bsd,dhk->bhsk", source, kernel) + bias[None, :, None]

        query, key, value = project(x, "query"), project(memory, "key"), project(memory, "value")
        scores = tf.einsum("bhqk,bhsk->bhqs", query, key) / width**0.5
        if causal:
            scores = tf.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -1e9)
        mixed = tf.einsum("bhqs,bhsk->bqhk", tf.nn.softmax(scores), value)
        kernel = self.variable(f"{name}/_output_dense/kernel", heads, width, x.shape[-1])
        return tf.einsum("bqhk,hkd->bqd", mixed, kernel) + self.variable(
            f"{name}/_output_dense/bias", x.shape[-1]
        )

    def conv(
        self,
        x: tf.Tensor,
        name: str,
        features: float,
        size: int,
        stride: int = 1,
        dilation: int = 1,
    ):
        """Without bias; padded by hand on both sides where it has a stride."""
        kernel = self.variable(f"{name}/conv2d/kernel", size, size, x.shape[-1], features)
        if stride > 1:
            before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
            x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
        return tf.nn.conv2d(
            x, kernel, stride, "SAME" if stride == 1 else "VALID", dilations=dilation
        )

    def batch_norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        leaves = ("gamma", "beta", "moving_mean", "moving_variance")
        scale, shift, mean, variance = (
            self.variable(f"{name}/bn/{leaf}", x.shape[-1]) for leaf in leaves
        )
        return (x - mean) / tf.sqrt(variance + 1e-5) * scale + shift

    def bottleneck(
        self, x: tf.Tensor, name: str, features: float, stride: int, dilation: int, project: bool
    ):
        shortcut, path = x, f"{name}/conv_relu_dropblock_layers"
        if project:
            shortcut = self.conv(x, f"{name}/projection_layers/0", 4 * features, 1, stride)
            shortcut = self.batch_norm(shortcut, f"{name}/projection_layers/1")
        x = tf.nn.relu(self.batch_norm(self.conv(x, f"{path}/0", features, 1), f"{path}/1"))
        x = tf.nn.relu(
            self.batch_norm(self.conv(x, f"{path}/3", features, 3, stride, dilation), f"{path}/4")
        )
        return tf.nn.relu(
            shortcut + self.batch_norm(self.conv(x, f"{path}/6", 4 * features, 1), f"{path}/7")
        )

    def basic(
        self, x: tf.Tensor, name: str, features: float, stride: int, dilation: int, project: bool
    ):
        assert dilation == 1, "the release refuses it"
        shortcut, path = x, f"{name}/conv2d_bn_layers"
        if project:
            shortcut = self.conv(x, f"{name}/shortcut_layers/0", features, 1, stride)
            shortcut = self.batch_norm(shortcut, f"{name}/shortcut_layers/1")
        x = tf.nn.relu(self.batch_norm(self.conv(x, f"{path}/0", features, 3, stride), f"{path}/1"))
        return tf.nn.relu(
            shortcut + self.batch_norm(self.conv(x, f"{path}/2", features, 3), f"{path}/3")
        )

    def resnet(self, x: tf.Tensor) -> tf.Tensor:
        variant, depth = self.model["resnet_variant"], self.model["resnet_depth"]
        base, stem = (
            64 * self.model["resnet_width_multiplier"],
            "encoder/resnet/initial_conv_relu_max_pool",
        )
        if variant == "c3":
            for conv, norm, features in ((0, 1, base // 2), (2, 3, base // 2), (4, 6, base)):
                x = self.batch_norm(self.conv(x, f"{stem}/{conv}", features, 3), f"{stem}/{norm}")
                x = tf.nn.relu(x)
        else:
            x = tf.nn.relu(self.batch_norm(self.conv(x, f"{stem}/0", base, 7, 2), f"{stem}/2"))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        block, counts = (
            (self.basic, BASIC[depth]) if depth in BASIC else (self.bottleneck, BOTTLENECKS[depth])
        )
        for group in range({"c3": 2, "c4": 3}.get(variant, 4)):
            stride = 1 if group == 0 and variant != "c3" else 2
            dilation = 1
            if variant == "dc5" and group == 3:
                stride, dilation = 1, 2
            for i in range(counts[group]):
                name = f"encoder/resnet/block_groups/{group}/layers/{i}"
                first = i == 0
                x = block(
                    x,
                    name,
                    base * 2**group,
                    stride if first else 1,
                    1 if first else dilation,
                    first,
                )
        return x

    def encode(self, images: np.ndarray) -> tf.Tensor:
        """Images [B, H, W, 3] -> what the decoder attends to, [B, S, D]."""
        model, width = self.model, self.model["dim_att"]
        ratio, (height, columns) = model["dim_mlp"] // width, model["image_size"]
        if model["resnet_variant"] == "c1":
            own, patch = "vit", model["patch_size"]
            kernel = self.variable("encoder/stem_conv/kernel", patch, patch, 3, width)
            x = tf.nn.conv2d(images, kernel, patch, "VALID") + self.variable(
                "encoder/stem_conv/bias", width
            )
            grid = (height // patch, columns // patch)
        else:
            own, x = "rest", self.resnet(tf.constant(images))
            step = {"c3": 8, "c4": 16, "dc5": 16}.get(model["resnet_variant"], 32)
            grid = (math.ceil(height / step), math.ceil(columns / step))
        x = tf.reshape(x, (x.shape[0], -1, x.shape[-1]))
        if own == "rest":
            x = self.dense(x, "encoder/stem_projection", width)
        x = self.layer_norm(x, "encoder/stem_ln") + self.grid_positions(
            f"encoder/{own}.S", grid, width
        )
        if model["use_cls_token"]:
            token = self.variable(f"encoder/{own}.Scls_token_embedding", 1, width)
            x = tf.concat([tf.tile(token[None], (x.shape[0], 1, 1)), x], 1)
        for i in range(model["num_encoder_layers"]):
            name = f"encoder/transformer_encoder/enc_layers/{i}"
            h = self.layer_norm(x, f"{name}/mha_ln")
            x = x + self.attention(h, h, f"{name}/mha", model["num_heads"])
            x = self.mlp(x, f"{name}/mlp", ratio)
        x = self.layer_norm(x, "encoder/output_ln")
        x = self.layer_norm(self.dense(x, "proj", model["dim_att_dec"]), "proj_ln")
        if model["dec_proj_mode"] == "linear":
            return x
        positions = self.grid_positions("proj.S", grid, model["dim_att_dec"])
        if model["use_cls_token"]:
            positions = tf.pad(positions, [[1, 0], [0, 0]])
        x = x + positions
        return self.mlp(x, "proj_mlp", ratio) if model["dec_proj_mode"] == "mlp" else x

    def grid_positions(self, place: str, grid: tuple[int, int], width: int) -> tf.Tensor:
        rows, columns = grid
        if self.model["pos_encoding"] == "learned":
            return self.variable(f"{place}vis_pos_embedding", rows * columns, width)
        if 1 in grid:
            return sines(rows * columns, width)
        y, x = sines(rows, width // 2), sines(columns, width // 2)
        return tf.concat([tf.repeat(y, columns, 0), tf.tile(x, (rows, 1))], 1)

    def logits(self, memory: tf.Tensor, tokens: np.ndarray) -> tf.Tensor:
        """Memory [B, S, D], tokens i32[B, T] -> [B, T, V]."""
        model, width, own = self.model, self.model["dim_att_dec"], "decoder/ar_decoder.S"
        ratio, heads, length = (
            model["dim_mlp_dec"] // width,
            model["num_heads_dec"],
            tokens.shape[1],
        )
        shared = model["shared_decoder_embedding"]
        table = self.variable(
            f"{own}{'' if shared else 'inp_'}token_embedding", model["vocab_size"], width
        )
        output = (
            table
            if shared
            else self.variable(f"{own}outp_token_embedding", model["vocab_size"], width)
        )
        if model["pos_encoding_dec"] == "learned":
            positions = self.variable(f"{own}seq_pos_embedding", model["max_seq_len"], width)
        else:
            positions = sines(model["max_seq_len"], width)
        x = tf.gather(table, tokens) + positions[:length]
        for i in range(model["num_decoder_layers"]):
            name = f"decoder/decoder/dec_layers/{i}"
            h = self.layer_norm(x, f"{name}/self_ln")
            x = x + self.attention(h, h, f"{name}/self_mha", heads, causal=True)
            x = x + self.attention(
                self.layer_norm(x, f"{name}/cross_ln"), memory, f"{name}/cross_mha", heads
            )
            x = self.mlp(x, f"{name}/mlp", ratio)
        logits = tf.einsum("btd,vd->btv", self.layer_norm(x, "decoder/output_ln"), output)
        return (
            logits + self.variable(f"{own}outp_bias", model["vocab_size"])
            if model["decoder_output_bias"]
            else logits
        )


def sines(length: int, width: int) -> tf.Tensor:
    """Code f32[length, width] of positions spread over [0, 2π]: the sines of even channels, the
    cosines of odd ones."""
    position = tf.range(length, dtype=tf.float32)[:, None] / (length - 1) * 6.2831852
    angle = position / tf.pow(10000.0, tf.cast(2 * (tf.range(width) // 2), tf.float32) / width)
    return tf.concat([tf.sin(angle[:, 0::2]), tf.cos(angle[:, 1::2])], 1)
