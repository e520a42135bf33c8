"""The digits network in NumPy float64, forward and backward written by hand; nothing of JAX or of the package in it.

Each layer is a pair of functions: `forward(x, …) -> (y, cache)` and `backward(dy, cache) -> (dx, parameter gradients)`.
Kernels and layouts are Flax's: images (sample, y, x, neuron), convolutions 3 x 3 with zero padding, (3, 3, in, out).
"""

import numpy as np


def conv(x, kernel, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    windows = np.stack([np.stack([padded[:, i : i + h, j : j + w] for j in range(3)], 3) for i in range(3)], 3)
    return np.einsum("nyxijc,ijco->nyxo", windows, kernel) + bias, (windows, kernel)


def conv_back(dy, cache):
    windows, kernel = cache
    n, h, w, _ = dy.shape
    dpadded = np.zeros((n, h + 2, w + 2, kernel.shape[2]))
    for i in range(3):
        for j in range(3):
            dpadded[:, i : i + h, j : j + w] += dy @ kernel[i, j].T
    return dpadded[:, 1:-1, 1:-1], {"kernel": np.einsum("nyxijc,nyxo->ijco", windows, dy), "bias": dy.sum((0, 1, 2))}


def group_norm(x, scale, bias, groups=4, epsilon=1e-6):
    n, h, w, c = x.shape
    grouped = x.reshape(n, h, w, groups, c // groups)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    spread = np.sqrt(grouped.var((1, 2, 4), keepdims=True) + epsilon)
    unit = (grouped - mean) / spread
    return unit.reshape(x.shape) * scale + bias, (unit, spread, scale)


def group_norm_back(dy, cache):
    unit, spread, scale = cache
    flat, axes = unit.reshape(dy.shape), (1, 2, 4)
    dunit = (dy * scale).reshape(unit.shape)
    centred = dunit - dunit.mean(axes, keepdims=True) - unit * (dunit * unit).mean(axes, keepdims=True)
    return (centred / spread).reshape(dy.shape), {"scale": (dy * flat).sum((0, 1, 2)), "bias": dy.sum((0, 1, 2))}


def relu(x):
    return np.maximum(x, 0), x > 0


def relu_back(dy, positive):
    return dy * positive, {}


def max_pool(x):
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    return blocks.max(-1), (blocks.argmax(-1), x.shape)


def max_pool_back(dy, cache):
    which, (n, h, w, c) = cache
    blocks = np.eye(4)[which] * dy[..., None]
    return blocks.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, h, w, c), {}


def linear(x, kernel, bias):
    return x @ kernel + bias, (x, kernel)


def linear_back(dy, cache):
    x, kernel = cache
    return dy @ kernel.T, {"kernel": x.T @ dy, "bias": dy.sum(0)}


def cross_entropy(logits, labels):
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -logs[np.arange(len(labels)), labels], np.exp(logs) - np.eye(logs.shape[1])[labels]


KINDS = {
    "Conv": (conv, conv_back),
    "GroupNorm": (group_norm, group_norm_back),
    "Relu": (relu, relu_back),
    "MaxPool": (max_pool, max_pool_back),
    "Linear": (linear, linear_back),
}

LAYERS = (
    ("block1/conv", "Conv"),
    ("block1/norm", "GroupNorm"),
    ("block1/relu", "Relu"),
    ("pool1", "MaxPool"),
    ("block2/conv", "Conv"),
    ("block2/norm", "GroupNorm"),
    ("block2/relu", "Relu"),
    ("pool2", "MaxPool"),
    ("head/hidden", "Linear"),
    ("head/relu", "Relu"),
    ("head/logits", "Linear"),
)


def run(params, image, labels):
    """Losses (sample,), activations and gradients by path, parameter gradients by path, and the input's gradient."""
    x, caches, activations = np.asarray(image, np.float64), {}, {}
    for path, kind in LAYERS:
        if kind == "Linear" and x.ndim > 2:
            x = x.reshape(len(x), -1)
        own = params
        for part in path.split("/"):
            own = own.get(part, {})
        x, caches[path] = KINDS[kind][0](x, **{name: np.asarray(value, np.float64) for name, value in own.items()})
        activations[path] = x
    losses, slope = cross_entropy(x, labels)
    gradients, parameters = {}, {}
    for path, kind in reversed(LAYERS):
        gradients[path] = slope.reshape(activations[path].shape)
        slope, of_parameters = KINDS[kind][1](gradients[path], caches[path])
        parameters |= {f"{path}/{name}": value for name, value in of_parameters.items()}
    return losses, activations, gradients, parameters, slope
