"""Encoders of the original libraries with random weights: saves a file of weights, and features.

    python -m tests.trials.original_encoders timm/vit_base_patch16_224 FOLDER

Names that end in "tiny" are the recorded ones of tests/golden/pretrained (`python -m
tests.trials.encoders --record`). It runs in a process of its own, where torch, torchvision, timm
and transformers are (`pip install -e .[pretrained_check]`); nothing of pix2seq_jax is imported.
Every weight is random, biases and norms too, so that one that went astray would show.
"""

import sys
import types
from pathlib import Path

import numpy as np

SIDE, TINY_VIT, TINY_RESNET = 224, 12, 32  # pixels
PREPROCESSING = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "half": (0.5, 0.5)}


def main(name: str, folder: Path) -> None:
    """Writes the weights and io.npz with `images` u8[B,H,W,3] and `features`, [B,S,D] of
    a ViT after its last norm or [B,h,w,C] of a ResNet's last map."""
    library, _, model = name.partition("/")
    side = SIDE
    if model.endswith("tiny"):
        side = TINY_RESNET if "resnet" in model else TINY_VIT
    images = np.random.default_rng(7).integers(0, 256, (2, side, side, 3), np.uint8)
    make = {"keras": keras_resnet, "augreg": augreg}.get(library, torch_model)
    features = make(library, model, (images / 255).astype(np.float32), folder)
    np.savez(folder / "io.npz", images=images[:1], features=features[:1])


def torch_model(library: str, name: str, images: np.ndarray, folder: Path) -> np.ndarray:
    """Any model of a library of torch."""
    # The wheels of torchvision on PyPI are built for CUDA: beside a CPU torch their operators for
    # detection are missing, which nothing here needs.
    stub = "torchvision._meta_registrations"
    sys.modules[stub] = types.ModuleType(stub)
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net, features, pixels = {"timm": timm, "torchvision": torchvision, "transformers": hugging}[
        library
    ](name, images.shape[1])
    randomise(net)
    x = torch.from_numpy(normalised(images, pixels)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        record_statistics(net, x)
        out = features(net.eval(), x[:1])
    if library == "transformers":
        net.save_pretrained(folder)
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
    else:
        weights = {key: value.contiguous() for key, value in net.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
    out = out.permute(0, 2, 3, 1) if out.ndim == 4 else out  # [B,C,h,w] -> [B,h,w,C]
    return out.numpy()


def timm(name: str, side: int, layer_scale: float | None = 0.5):
    """(model, function of model and images, normalisation)."""
    import timm as library
    from timm.models.vision_transformer import VisionTransformer

    if name == "vit_tiny":
        sizes = {
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "init_values": layer_scale,
        }
        net = VisionTransformer(img_size=side, patch_size=4, num_classes=0, **sizes)
        return net, lambda model, x: model.forward_features(x), "half"
    net = library.create_model(name, pretrained=False, num_classes=0)
    mean = net.pretrained_cfg["mean"]
    pixels = "half" if tuple(mean) == (0.5, 0.5, 0.5) else "imagenet"
    return net, lambda model, x: model.forward_features(x), pixels


def torchvision(name: str, side: int):
    """As `timm`."""
    import torch
    from torchvision import models
    from torchvision.models.resnet import Bottleneck

    if name == "resnet_tiny":  # three groups, as the variant c4 has
        net = models.ResNet(Bottleneck, [1, 1, 1, 1])
        net.conv1, net.bn1 = torch.nn.Conv2d(3, 2, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(2)
        net.inplanes = 2
        net.layer1 = net._make_layer(Bottleneck, 2, 3)
        net.layer2 = net._make_layer(Bottleneck, 4, 4, stride=2)
        net.layer3 = net._make_layer(Bottleneck, 8, 6, stride=2)
        net.layer4 = net.fc = torch.nn.Identity()
    elif name == "vit_tiny":
        net = models.VisionTransformer(side, 4, 2, 2, 16, 32, num_classes=2)
    else:
        net = models.get_model(name, weights=None)
    return (
        net,
        vit_of_torchvision if "conv_proj" in dict(net.named_children()) else maps,
        "imagenet",
    )


def vit_of_torchvision(net, x):
    import torch

    tokens = net._process_input(x)
    cls = net.class_token.expand(len(x), -1, -1)
    return net.encoder(torch.cat([cls, tokens], dim=1))


def maps(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def hugging(name: str, side: int):
    """As `timm`."""
    import transformers as library

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    sizes = {
        "base": {},
        "large": large | {"intermediate_size": 4096},
        "tiny": {
            **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"intermediate_size": 32, "image_size": side, "patch_size": 4},
        },
    }
    kind, _, size = name.partition("-")

    def last(model, x):
        return model(x).last_hidden_state

    if kind == "vit":
        config = library.ViTConfig(**sizes[size])
        return library.ViTModel(config, add_pooling_layer=False), last, "half"
    if kind == "mae":
        net = library.ViTMAEModel(library.ViTMAEConfig(mask_ratio=0.0, **sizes[size]))
        return net, unshuffled, "imagenet"
    if kind == "dinov2":
        config = library.Dinov2Config(patch_size=14, image_size=side, mlp_ratio=4, **sizes[size])
        return library.Dinov2Model(config), last, "imagenet"
    networks = {
        "50": {"depths": [3, 4, 6, 3]},
        "101": {"depths": [3, 4, 23, 3]},
        "tiny": {  # the first three groups of a ResNet-18
            **{"depths": [2, 2, 2], "hidden_sizes": [2, 4, 8], "embedding_size": 2},
            "layer_type": "basic",
        },
    }
    return library.ResNetModel(library.ResNetConfig(**networks[size])), last, "imagenet"


def unshuffled(model, x):
    """MAE shuffles the patches even where it masks none."""
    import torch

    noise = torch.arange(model.config.image_size**2 // model.config.patch_size**2).float()[None]
    return model(x, noise=noise).last_hidden_state


def normalised(images: np.ndarray, pixels: str) -> np.ndarray:
    mean, std = PREPROCESSING[pixels]
    return ((images - np.float32(mean)) / np.float32(std)).astype(np.float32)


def randomise(net) -> None:
    """Random numbers for every parameter, of sizes as after training."""
    import torch

    for name, value in net.named_parameters():
        with torch.no_grad():
            if value.ndim > 1 and "pos" not in name and "token" not in name:
                fan_in = value[0].numel()
                value.normal_(std=(1 / fan_in) ** 0.5)
            elif name.endswith(("gamma", "lambda1")):
                value.uniform_(0.3, 0.9)
            elif name.endswith("weight"):
                low, high = (0.2, 0.4) if is_last(name) else (0.5, 1.5)
                value.uniform_(low, high)
            else:
                value.normal_(std=0.3)


def is_last(name: str) -> bool:
    """Whether it is the scale that ends the branch of a bottleneck."""
    return "bn3" in name or ".layer.2.normalization" in name


def record_statistics(net, x) -> None:
    """One pass that records the statistics of the batch, where there are batch norms."""
    import torch

    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        net.train()
        net(x)


def augreg(library: str, name: str, images: np.ndarray, folder: Path) -> np.ndarray:
    """An npz in the names of google-research/vision_transformer, which timm reads by itself."""
    stub = "torchvision._meta_registrations"
    sys.modules[stub] = types.ModuleType(stub)
    import torch

    net, features, _ = timm(name, images.shape[1], layer_scale=None)
    dim, heads = net.embed_dim, net.blocks[0].attn.num_heads
    layers, mlp = len(net.blocks), net.blocks[0].mlp.fc1.out_features
    rng = np.random.default_rng(0)

    def kernel(*shape: int, fan_in: int) -> np.ndarray:
        return rng.normal(scale=fan_in**-0.5, size=shape).astype(np.float32)

    def vector(*shape: int, mean: float = 0.0) -> np.ndarray:
        return rng.normal(mean, 0.3, size=shape).astype(np.float32)

    side = net.patch_embed.patch_size[0]
    arrays = {
        "embedding/kernel": kernel(side, side, 3, dim, fan_in=3 * side * side),
        "embedding/bias": vector(dim),
        "cls": vector(1, 1, dim),
        "Transformer/posembed_input/pos_embedding": vector(*net.pos_embed.shape),
        "Transformer/encoder_norm/scale": vector(dim, mean=1.0),
        "Transformer/encoder_norm/bias": vector(dim),
        "head/kernel": np.zeros((dim, 10), np.float32),
        "head/bias": np.zeros(10, np.float32),
    }
    for layer in range(layers):
        block = f"Transformer/encoderblock_{layer}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays[f"{block}/{norm}/scale"] = vector(dim, mean=1.0)
            arrays[f"{block}/{norm}/bias"] = vector(dim)
        for part in ("query", "key", "value"):
            arrays[f"{attention}/{part}/kernel"] = kernel(dim, heads, dim // heads, fan_in=dim)
            arrays[f"{attention}/{part}/bias"] = vector(heads, dim // heads)
        arrays[f"{attention}/out/kernel"] = kernel(heads, dim // heads, dim, fan_in=dim)
        arrays[f"{attention}/out/bias"] = vector(dim)
        for index, (inputs, outputs) in enumerate(((dim, mlp), (mlp, dim))):
            dense = f"{block}/MlpBlock_3/Dense_{index}"
            arrays[f"{dense}/kernel"] = kernel(inputs, outputs, fan_in=inputs)
            arrays[f"{dense}/bias"] = vector(outputs)
    np.savez_compressed(folder / "weights.npz", **arrays)
    net.load_pretrained(str(folder / "weights.npz"))
    x = torch.from_numpy(normalised(images, "half")).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return features(net.eval(), x).numpy()


def keras_resnet(library: str, name: str, images: np.ndarray, folder: Path) -> np.ndarray:
    """A ResNet of Keras, saved as it saves models."""
    import keras
    from keras.src.applications import resnet

    keras.utils.set_random_seed(0)
    if name == "resnet_tiny":  # as ResNet50, but narrow and without its last group
        net = narrow_keras(images.shape[1], resnet)
    else:
        make = {"resnet50": keras.applications.ResNet50, "resnet101": keras.applications.ResNet101}
        net = make[name](include_top=False, weights=None, input_shape=images.shape[1:])
    rng = np.random.default_rng(0)
    for layer in net.layers:
        for weight in layer.weights:
            field = weight.path.rpartition("/")[2]
            if field == "gamma":
                low, high = (0.2, 0.4) if "_3_bn" in layer.name else (0.5, 1.5)
                weight.assign(rng.uniform(low, high, weight.shape))
            elif field == "kernel":
                fan_in = int(np.prod(weight.shape[:-1]))
                weight.assign(rng.normal(scale=fan_in**-0.5, size=weight.shape))
            elif field in ("beta", "bias"):
                weight.assign(rng.normal(scale=0.3, size=weight.shape))
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    x = resnet.preprocess_input(images * 255.0)
    net(x, training=True)
    if name == "resnet_tiny":  # small: h5 takes a kilobyte for each array
        weights = {w.path: np.asarray(w).astype(np.float16) for w in net.weights}
        np.savez_compressed(folder / "weights.npz", **weights)
        for weight in net.weights:
            weight.assign(weights[weight.path])
    else:
        net.save(folder / "weights.h5")
    return np.asarray(net(x[:1], training=False))


def narrow_keras(side: int, resnet):
    """ResNet50's stem with two channels, then the library's own blocks."""
    from keras import Input, Model, layers

    inputs = Input((side, side, 3))
    x = layers.ZeroPadding2D(((3, 3), (3, 3)), name="conv1_pad")(inputs)
    x = layers.Conv2D(2, 7, strides=2, name="conv1_conv")(x)
    x = layers.BatchNormalization(epsilon=1.001e-5, name="conv1_bn")(x)
    x = layers.ZeroPadding2D(((1, 1), (1, 1)), name="pool1_pad")(layers.Activation("relu")(x))
    x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    x = resnet.stack_residual_blocks_v1(x, 2, 3, stride1=1, name="conv2")
    x = resnet.stack_residual_blocks_v1(x, 4, 4, name="conv3")
    return Model(inputs, resnet.stack_residual_blocks_v1(x, 8, 6, name="conv4"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
