"""The zoo's networks in NumPy float64, forward and backward written by hand; nothing of JAX or of the package in it.

Each kind of layer is a pair of functions: `forward(x, **parameters) -> (y, cache)` and `backward(dy, cache) -> (dx,
parameter gradients)`. Layouts are Flax's: images (sample, y, x, neuron), convolutions 3 x 3 with zero padding, kernels
(3, 3, in, out). `Pass` runs them by path and keeps what passed; `run_digits` and `run_decoder` are the two networks.

    answer = run_digits(flat_params, image, label)
    answer.losses, answer.activations[path], answer.gradients[path], answer.parameters[path], answer.input

`nudges` adds an array to the value at a path, so that a central difference can be taken at any place inside.
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


def standardise(x, axes, epsilon=1e-6):
    spread = np.sqrt(x.var(axes, keepdims=True) + epsilon)
    return (x - x.mean(axes, keepdims=True)) / spread, spread


def standardise_back(dunit, unit, spread, axes):
    return (dunit - dunit.mean(axes, keepdims=True) - unit * (dunit * unit).mean(axes, keepdims=True)) / spread


def group_norm(x, scale, bias, groups=4):
    n, h, w, c = x.shape
    unit, spread = standardise(x.reshape(n, h, w, groups, c // groups), (1, 2, 4))
    return unit.reshape(x.shape) * scale + bias, (unit, spread, scale)


def group_norm_back(dy, cache):
    unit, spread, scale = cache
    dx = standardise_back((dy * scale).reshape(unit.shape), unit, spread, (1, 2, 4)).reshape(dy.shape)
    return dx, {"scale": (dy * unit.reshape(dy.shape)).sum((0, 1, 2)), "bias": dy.sum((0, 1, 2))}


def layer_norm(x, scale, bias):
    unit, spread = standardise(x, -1)
    return unit * scale + bias, (unit, spread, scale)


def layer_norm_back(dy, cache):
    unit, spread, scale = cache
    parameters = {"scale": (dy * unit).sum((0, 1)), "bias": dy.sum((0, 1))}
    return standardise_back(dy * scale, unit, spread, -1), parameters


def relu(x):
    return np.maximum(x, 0), x > 0


def relu_back(dy, positive):
    return dy * positive, {}


def gelu(x):
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return x / 2 * (1 + t), (x, t)


def gelu_back(dy, cache):
    x, t = cache
    return dy * ((1 + t) / 2 + x / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)), {}


def max_pool(x):
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    return blocks.max(-1), (blocks.argmax(-1), x.shape)


def max_pool_back(dy, cache):
    which, (n, h, w, c) = cache
    blocks = np.eye(4)[which] * dy[..., None]
    return blocks.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, h, w, c), {}


def linear(x, kernel, bias=None):
    return x @ kernel + (0 if bias is None else bias), (x, kernel, bias is not None)


def linear_back(dy, cache):
    x, kernel, biased = cache
    rows, slopes = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dy @ kernel.T, {"kernel": rows.T @ slopes} | ({"bias": slopes.sum(0)} if biased else {})


def embed(tokens, embedding):
    return embedding[tokens], (tokens, embedding)


def embed_back(dy, cache):
    tokens, embedding = cache
    slope = np.zeros_like(embedding)
    np.add.at(slope, tokens, dy)
    return None, {"embedding": slope}


def causal_softmax(scores):
    length = scores.shape[-1]
    weights = np.where(np.arange(length)[:, None] >= np.arange(length), np.exp(scores - scores.max()), 0)
    pattern = weights / weights.sum(-1, keepdims=True)
    return pattern, pattern


def causal_softmax_back(dy, pattern):
    return pattern * (dy - (dy * pattern).sum(-1, keepdims=True)), {}


def cross_entropy(logits, labels):
    """The losses of all entries, and the slope of each with respect to its logits."""
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(logs, labels[..., None], -1)[..., 0], np.exp(logs) - np.eye(logs.shape[-1])[labels]


KINDS = {
    "Conv": (conv, conv_back),
    "GroupNorm": (group_norm, group_norm_back),
    "LayerNorm": (layer_norm, layer_norm_back),
    "Relu": (relu, relu_back),
    "Gelu": (gelu, gelu_back),
    "MaxPool": (max_pool, max_pool_back),
    "Linear": (linear, linear_back),
    "Embed": (embed, embed_back),
    "CausalSoftmax": (causal_softmax, causal_softmax_back),
}


class Pass:
    """One forward and one backward pass: layers by path, and everything that passed."""

    def __init__(self, params, nudges=None):
        self.params, self.nudges, self.caches = params, nudges or {}, {}
        self.kinds, self.activations, self.gradients, self.parameters = {}, {}, {}, {}
        self.losses = self.input = np.zeros(0)

    def note(self, path, kind, value):
        self.kinds[path] = kind
        self.activations[path] = value + self.nudges.get(path, 0)
        return self.activations[path]

    def forward(self, path, kind, x):
        own = {name.rpartition("/")[2]: p for name, p in self.params.items() if name.rpartition("/")[0] == path}
        y, cache = KINDS[kind][0](x, **own)
        self.caches[path] = KINDS[kind][1], cache
        return self.note(path, kind, y)

    def backward(self, path, dy):
        self.gradients[path] = dy
        back, cache = self.caches[path]
        dx, parameters = back(dy, cache)
        self.parameters |= {f"{path}/{name}": value for name, value in parameters.items()}
        return dx


DIGITS = (
    ("block1/conv", "Conv"),
    ("block1/norm", "GroupNorm"),
    ("block1/relu", "Relu"),
    ("block1", "ConvBlock"),
    ("pool1", "MaxPool"),
    ("block2/conv", "Conv"),
    ("block2/norm", "GroupNorm"),
    ("block2/relu", "Relu"),
    ("block2", "ConvBlock"),
    ("pool2", "MaxPool"),
    ("head/hidden", "Linear"),
    ("head/relu", "Relu"),
    ("head/logits", "Linear"),
    ("head", "Head"),
)


def run_digits(params, image, label, nudges=None):
    """The digits network; `params` are flat, by path, in float64."""
    run, x = Pass(params, nudges), image
    for path, kind in DIGITS:
        if kind not in KINDS:
            x = run.note(path, kind, x)
            continue
        x = run.forward(path, kind, x.reshape(len(x), -1) if kind == "Linear" else x)
    run.losses, slope = cross_entropy(x, label)
    for path, kind in reversed(DIGITS):
        slope = slope.reshape(run.activations[path].shape)
        run.gradients[path] = slope
        if kind in KINDS:
            slope = run.backward(path, slope)
    run.input = slope
    return run


def run_decoder(params, tokens, following, *, layers, heads, nudges=None):
    """The decoder, its blocks one after another: `blocks/0`, `blocks/1`, …; the loss of a sample is a mean."""
    run, length = Pass(params, nudges), tokens.shape[1]
    x = run.forward("embed/tokens", "Embed", tokens) + params["embed/positions"][:length]
    x = run.note("embed", "Embedding", x)
    for i in range(layers):
        x = _block(run, f"blocks/{i}", x, heads)
    losses, slope = cross_entropy(run.forward("head", "Linear", run.forward("norm", "LayerNorm", x)), following)
    run.losses = losses.mean(1)
    dx = run.backward("norm", run.backward("head", slope / length))
    for i in reversed(range(layers)):
        dx = _block_back(run, f"blocks/{i}", dx, heads)
    run.gradients["embed"] = dx
    run.parameters["embed/positions"] = np.zeros_like(params["embed/positions"])
    run.parameters["embed/positions"][:length] = dx.sum(0)
    run.backward("embed/tokens", dx)
    return run


def _block(run, path, x, heads):
    normed = run.forward(f"{path}/norm1", "LayerNorm", x)
    n, s, width = x.shape
    attention, perceptron = f"{path}/attention", f"{path}/perceptron"
    q, k, v = (
        run.forward(f"{attention}/{name}", "Linear", normed).reshape(n, s, heads, -1).swapaxes(1, 2)
        for name in ("query", "key", "value")
    )
    pattern = run.forward(f"{attention}/pattern", "CausalSoftmax", q @ k.swapaxes(2, 3) / np.sqrt(width // heads))
    run.caches[attention] = q, k, v, pattern
    read = (pattern @ v).swapaxes(1, 2).reshape(x.shape)
    x = x + run.note(attention, "Attention", run.forward(f"{attention}/out", "Linear", read))
    hidden = run.forward(f"{perceptron}/hidden", "Linear", run.forward(f"{path}/norm2", "LayerNorm", x))
    out = run.forward(f"{perceptron}/out", "Linear", run.forward(f"{perceptron}/gelu", "Gelu", hidden))
    return run.note(path, "Block", x + run.note(perceptron, "Perceptron", out))


def _block_back(run, path, dy, heads):
    attention, perceptron = f"{path}/attention", f"{path}/perceptron"
    run.gradients[path] = run.gradients[perceptron] = dy
    dhidden = run.backward(f"{perceptron}/gelu", run.backward(f"{perceptron}/out", dy))
    dy = dy + run.backward(f"{path}/norm2", run.backward(f"{perceptron}/hidden", dhidden))
    run.gradients[attention] = dy
    q, k, v, pattern = run.caches[attention]
    n, s, width = dy.shape
    dread = run.backward(f"{attention}/out", dy).reshape(n, s, heads, -1).swapaxes(1, 2)
    dscores = run.backward(f"{attention}/pattern", dread @ v.swapaxes(2, 3)) / np.sqrt(width // heads)
    slopes = {"query": dscores @ k, "key": dscores.swapaxes(2, 3) @ q, "value": pattern.swapaxes(2, 3) @ dread}
    dnormed = sum(
        run.backward(f"{attention}/{name}", slope.swapaxes(1, 2).reshape(dy.shape)) for name, slope in slopes.items()
    )
    return dy + run.backward(f"{path}/norm1", dnormed)
