# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a small decoder does with Python's own documentation
#
# A decoder of four blocks was trained to guess the next byte of the reference manual that ships with Python, while its
# activations and gradients were recorded at 56 sites and ten training steps. Here we ask what it learned, in which
# order, which neurons stand for what, and where its heads look.
#
# The one knob: `QUICK = True` trains a much smaller one for a few steps, which knows nothing yet: the cells run, but
# what the text says of them holds for the whole run.

# %%
QUICK = False

# %%
from pathlib import Path

import holoviews as hv
import numpy as np

import actigrad
from actigrad import views
from actigrad.zoo import decoder

hv.extension("bokeh", inline=True)

# Where scripts/run leaves it: a run that was made there is not made again.
root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "configs").is_dir())
store_path = root / ("runs/decoder_quick.zarr" if QUICK else "runs/decoder/decoder.zarr")
if not store_path.exists():
    from actigrad.config.files import load_config
    from actigrad.runs.job import load
    from actigrad.runs.run import run

    small = [
        "model.options.layers=2", "model.options.width=32", "data.options.samples=512", "data.samples=32",
        "data.batch_size=32", "train.steps=30", "train.record_every=10",
        'capture.0.sites=[embed, "blocks/*", "**/pattern", "**/gelu", norm, head]',
    ]  # fmt: skip
    run(load(load_config(root / "configs/decoder.yaml", [f"store.path={store_path}", *(small if QUICK else [])])))

store = actigrad.open_store(store_path)
blocks = len({site.split("/")[1] for site in store.attrs["sites"] if site.startswith("blocks/")})
store["samples"]

# %% [markdown]
# The bytes that go in, the bytes to guess, and the whole arrays of a site at the last step. Some characters are written
# as signs, so that they are seen.


# %%
def full(site, quantity="activation"):
    return store[f"sites/{site}/full"][quantity].isel(step=-1).values


def characters(sample):
    return [{" ": "␣", "\n": "⏎"}.get(chr(byte), chr(byte)) for byte in tokens[sample].tolist()]


tokens, following = (store[f"inputs/{name}/full"]["value"].isel(step=-1).values for name in ("tokens", "next"))
samples, length = tokens.shape
print(*("".join(characters(sample)) for sample in range(1, 5)), sep="\n")

# %% [markdown]
# ## What it learned, and when
#
# Loss in nats a byte. Two baselines need no network: how often each byte occurs (3.27), and how often each byte follows
# each other one (2.46). The second is passed between steps 60 and 120; from there on the model must use more than the
# last byte. It ends at 1.38 on text that it was not trained on, hardly above that on its own.

# %%
data = decoder.load(**store.attrs["config"]["data"]["options"])
train = data["split"] == 0
pairs = np.full((256, 256), 0.01)
np.add.at(pairs, (data["tokens"][train].ravel(), data["next"][train].ravel()), 1)
guess = {
    "how often a byte occurs": np.broadcast_to(pairs.sum(0) / pairs.sum(), pairs.shape),
    "how often it follows another": pairs / pairs.sum(1, keepdims=True),
}
baselines = {
    name: -np.log(chance[data["tokens"][~train], data["next"][~train]]).mean() for name, chance in guess.items()
}
loss, split, steps = (store["samples"][name].values for name in ("loss", "split", "step"))
learned = {name: loss[:, split == number].mean(1) for number, name in enumerate(["trained on", "held out"])}
print({name: round(float(value), 2) for name, value in baselines.items()})
print({name: values.astype(float).round(2).tolist() for name, values in learned.items()})
lines = [hv.Curve((steps, values), "step", "nats a byte", label=name) for name, values in learned.items()]
lines += [hv.Curve(([steps[0], steps[-1]], [y, y]), "step", "nats a byte", label=name) for name, y in baselines.items()]
hv.Overlay(lines).opts(
    hv.opts.Curve(width=900, height=320, line_width=2, show_grid=True, tools=["hover"]),
    hv.opts.Overlay(legend_position="right", title="loss over training"),
)

# %% [markdown]
# Where in a word is it hard? The loss by the place of the next byte in its word. The first letter costs 2.9 nats, the
# second half of that, and from the fifth on 0.8: by then the word is as good as known.

# %%
logits = full("head").astype(np.float64)
chances = (
    logits
    - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    - logits.max(-1, keepdims=True)
)
cost = -np.take_along_axis(chances, following[..., None], -1)[..., 0]
is_letter = lambda bytes_: (bytes_ | 32 >= ord("a")) & (bytes_ | 32 <= ord("z"))
place = np.zeros_like(following)  # 0: no letter, else the number of the letter in its word
for at in range(1, length):
    place[:, at] = np.where(is_letter(following[:, at]), np.where(is_letter(tokens[:, at]), place[:, at - 1], 0) + 1, 0)
begun = np.maximum.accumulate(~is_letter(tokens), axis=1)  # the first word of a piece may have begun before it
names = ["no letter", *(f"letter {number}" for number in range(1, 8))]
bars = [(name, float(cost[begun & (place == number)].mean())) for number, name in enumerate(names)]
print({name: round(value, 2) for name, value in bars})
hv.Bars(bars, "next byte", "nats").opts(width=900, height=260, title="loss by the place in a word", tools=["hover"])

# %% [markdown]
# ## Where and when
#
# The size of activations and of gradients at each site, as training goes on; then the structure with values at the last
# step, and the gradient from the embedding on the left to the loss on the right. On its way back it hardly changes
# through the blocks. It is larger at the embedding, whose values are small, so that the first norm magnifies them. And
# it is tiny at the head for the median neuron, with a wide ribbon: a neuron is one of 256 bytes there, and most of
# these never occur.

# %%
views.overview(store)

# %%
views.overview(store, quantity="gradient")

# %%
views.structure(store)

# %%
views.flow(store, sites=["embed", "blocks/*", "norm", "head"])

# %% [markdown]
# ## Neurons by position
#
# One piece of text through the perceptron of the first block: a column a byte, a row a neuron, like neurons together.
# Bands are classes of bytes: look at the spaces.

# %%
example = min(7, samples - 1)
text = hv.opts.Image(xticks=list(enumerate(characters(example))), xlabel="byte")
views.heatmap(store, "blocks/0/perceptron/gelu", x="position", sample=example, order="similarity").opts(text)

# %% [markdown]
# The stream behind the last block is where the next byte is decided.

# %%
views.heatmap(store, f"blocks/{blocks - 1}", x="position", sample=example, order="similarity").opts(text)

# %% [markdown]
# ## What does a neuron stand for?
#
# For each kind of byte the neuron whose activation goes along with it best, by block. Spaces, ends of lines and
# underscores have neurons of their own, with correlations of 0.8, and so have letters as against all else. Capitals and
# digits, which are rare, have none.

# %%
kinds = {
    "space": tokens == 32, "end of a line": tokens == 10, "underscore": tokens == 95, "full stop": tokens == 46,
    "quote": np.isin(tokens, [34, 39]), "digit": (tokens >= 48) & (tokens <= 57),
    "capital": (tokens >= 65) & (tokens <= 90), "vowel": np.isin(tokens, list(b"aeiou")), "letter": is_letter(tokens),
}  # fmt: skip
standard = lambda x: (x - x.mean(0)) / (x.std(0) + 1e-9)
found = {}
for block in range(blocks):
    answers = standard(full(f"blocks/{block}/perceptron/gelu").reshape(tokens.size, -1))
    for kind, here in kinds.items():
        along = answers.T @ standard(here.reshape(-1).astype(np.float32)) / tokens.size
        found[kind, block] = int(np.abs(along).argmax()), float(along[np.abs(along).argmax()])
for kind in kinds:
    print(
        f"{kind:14}",
        "; ".join(f"block {b}: neuron {found[kind, b][0]} ({found[kind, b][1]:+.2f})" for b in range(blocks)),
    )

# %% [markdown]
# The card of the neuron for spaces: how it came to be, its values, and its gradient.

# %%
views.neuron(store, "blocks/0/perceptron/gelu", found["space", 0][0])

# %% [markdown]
# ## Where heads look
#
# The heads of the first and of the last block on that piece of text: rows are the bytes that look, columns those that
# are looked at, none of them in the future. The first look back by a byte or two, evenly; of the last some look far, at
# single bytes.

# %%
views.feature_maps(store, "blocks/0/attention/pattern", sample=example, along="y")

# %%
views.feature_maps(store, f"blocks/{blocks - 1}/attention/pattern", sample=example, along="y")

# %% [markdown]
# Over all text: how far back a head looks on average, the share of its weight on the byte itself and on the one before,
# and on spaces, of which a sixth of the text is made. Heads of the first block look one or two bytes back, one of the
# last more than ten. Some heads of the second block have learned to find spaces: there is the beginning of the word.

# %%
patterns = np.stack(
    [full(f"blocks/{block}/attention/pattern") for block in range(blocks)]
)  # (block, sample, head, q, k)
back = np.arange(length)[:, None] - np.arange(length)
everywhere = np.broadcast_to(back, (samples, length, length))
weigh = lambda what: np.einsum("bshqk,sqk->bh", patterns, what.astype(np.float32)) / tokens.size
measures = {
    "bytes back": weigh(np.maximum(everywhere, 0)), "share on itself": weigh(everywhere == 0),
    "share on the byte before": weigh(everywhere == 1),
    "share on spaces": weigh(np.broadcast_to((tokens == 32)[:, None], everywhere.shape)),
}  # fmt: skip
panels = []
for name, values in measures.items():
    print(f"{name}: {values.astype(float).round(2).tolist()}")
    image = hv.Image((range(values.shape[1]), range(blocks), values), ["head", "block"], name)
    panels.append(image.opts(
        width=455, height=230, cmap="Blues", clim=(0, float(values.max())), colorbar=True, invert_yaxis=True,
        xticks=values.shape[1], yticks=blocks, tools=["hover"], title=name,
    ))  # fmt: skip
hv.Layout(panels).cols(2)

# %% [markdown]
# ## Which bytes matter
#
# The pieces of the largest loss, each byte coloured by the gradient of the loss times the activation at the embedding,
# added over its neurons: red raises the loss. The encoder's notebook tells how far such a map may be trusted; here it
# is a place to begin.

# %%
views.saliency(store, name="tokens", site="embed")

# %% [markdown]
# ## What training changed
#
# Each neuron of the first block's perceptron, less what it was at the first recorded step, the strongest on top: nearly
# all become smaller, after step 180. And all neurons of the last block's as lines: the few loud ones become quiet, the
# many quiet ones louder, until they are much of one size.

# %%
views.compare(store, "blocks/0/perceptron/gelu", order="score")

# %%
views.traces(store, f"blocks/{blocks - 1}/perceptron/gelu")

# %% [markdown]
# ## Findings
#
# What the rules of the report say of this run. It warns of a gradient that explodes between the head and the embedding.
# A rule compares medians over neurons; here are those of the head, for bytes that occur and for those that do not. Two
# thirds of the bytes never occur, and their gradient is next to nothing. So the numbers are right and the alarm is not:
# a warning is a place to look at, and one look at `flow` settles it.

# %%
from actigrad.findings import judge, measure
from actigrad.metrics import METRICS

rms = store["sites/head/summary"]["gradient"].isel(step=-1).values[METRICS.index("rms")]
occurs = np.isin(np.arange(256), following)
print(f"{occurs.sum()} of 256 bytes occur, with a median gradient of {np.median(rms[occurs]):.1e}")
print(f"of those that do not it is {np.median(rms[~occurs]):.1e}")
[f"{one.severity}: {one.text}" for one in judge(measure(store))]
