"""The PyTorch side of peers.py, in its own environment: reads the name of a step a line, runs it, answers in JSON.

    peers_torch.py SIZES WEIGHTS     # SIZES as JSON; WEIGHTS an .npz of the decoder and its tokens

Every step is one forward and one backward pass of the same GPT-2 by Hugging Face's transformers. What is kept beside:

    hooks             the output of every module and its gradient, by register_forward_hook and Tensor.register_hook
    nnsight           the same, by one trace with a backward pass
    transformer_lens  everything that TransformerBridge.run_with_cache(incl_bwd=True) caches, over the bridge's own step
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from nnsight import NNsight
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

Kept = tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""The loss, activations and gradients."""

# Hugging Face's name of a module for ours; a module of theirs that is no module of ours is kept, and not compared.
SITES = {
    "norm1": "ln_1", "attention/out": "attn.c_proj", "norm2": "ln_2", "perceptron/hidden": "mlp.c_fc",
    "perceptron/gelu": "mlp.act", "perceptron/out": "mlp.c_proj",
}  # fmt: skip


def make_model(sizes: dict[str, int], weights: Any) -> GPT2LMHeadModel:
    """GPT-2 with the weights of our decoder."""
    config = GPT2Config(
        n_layer=sizes["layers"], n_embd=sizes["width"], n_head=sizes["heads"], n_positions=sizes["context"],
        vocab_size=sizes["vocab"], layer_norm_epsilon=1e-6, tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    state = {
        "transformer.wte.weight": weights["embed/tokens/embedding"],
        "transformer.wpe.weight": weights["embed/positions"],
        "lm_head.weight": weights["head/kernel"].T,
        **_norm("transformer.ln_f", weights, "norm"),
    }
    for i in range(sizes["layers"]):
        ours, theirs = f"blocks/{i}", f"transformer.h.{i}"
        state |= _norm(f"{theirs}.ln_1", weights, f"{ours}/norm1") | _norm(f"{theirs}.ln_2", weights, f"{ours}/norm2")
        parts = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
        biases = [weights[f"{part}/bias"] if f"{part}/bias" in weights else np.zeros(sizes["width"]) for part in parts]
        state[f"{theirs}.attn.c_attn.weight"] = np.concatenate([weights[f"{part}/kernel"] for part in parts], axis=1)
        state[f"{theirs}.attn.c_attn.bias"] = np.concatenate(biases)
        for name, layer in (
            ("attention/out", "attn.c_proj"),
            ("perceptron/hidden", "mlp.c_fc"),
            ("perceptron/out", "mlp.c_proj"),
        ):
            state[f"{theirs}.{layer}.weight"] = weights[f"{ours}/{name}/kernel"]
            state[f"{theirs}.{layer}.bias"] = weights[f"{ours}/{name}/bias"]
    model.load_state_dict({name: torch.tensor(np.asarray(value, np.float32)) for name, value in state.items()})
    return model


def _norm(name: str, weights: Any, ours: str) -> dict[str, Any]:
    return {f"{name}.weight": weights[f"{ours}/scale"], f"{name}.bias": weights[f"{ours}/bias"]}


def make_bridge(model: GPT2LMHeadModel) -> TransformerBridge:
    """TransformerLens' view of the same model. It wants a folder and a tokenizer, and uses neither."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(model.config.vocab_size)}, unk_token="0"))
    with tempfile.TemporaryDirectory() as folder:
        model.config.architectures = ["GPT2LMHeadModel"]
        model.config.save_pretrained(folder)
        special = {f"{name}_token": "0" for name in ("bos", "eos", "pad")}
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer)


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of each next token."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def plain(model: GPT2LMHeadModel, tokens: torch.Tensor) -> Kept:
    """Forward and backward, nothing kept."""
    loss = loss_of(model(tokens).logits, tokens)
    loss.backward()
    return loss, {}, {}


def hooks(model: GPT2LMHeadModel, tokens: torch.Tensor) -> Kept:
    """What PyTorch's own documentation shows, on every module."""
    activations: dict[str, torch.Tensor] = {}
    gradients: dict[str, torch.Tensor] = {}

    def keep(name):
        def hook(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            if torch.is_tensor(output):
                activations[name] = output.detach()
                output.register_hook(lambda gradient: gradients.__setitem__(name, gradient))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        loss = loss_of(model(tokens).logits, tokens)
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return loss, activations, gradients


def nnsight(traced: Any, names: list[str], tokens: torch.Tensor) -> Kept:
    """One trace; outputs are asked for in forward order, their gradients in the reverse."""
    modules = [traced.get(name) for name in names]
    outputs, gradients = [], []
    with traced.trace(tokens):
        for module in modules:
            output = module.output
            outputs.append(output[0] if isinstance(output, tuple) else output)
        loss = loss_of(traced.output.logits, tokens).save()
        with loss.backward():
            for output in reversed(outputs):
                gradients.append(output.grad)  # noqa: PERF401 - nnsight reads this loop's source
        gradients = gradients.save()
        outputs = outputs.save()
    return loss, dict(zip(names, outputs, strict=True)), dict(zip(reversed(names), gradients, strict=True))


def bridge_plain(bridge: TransformerBridge, tokens: torch.Tensor) -> Kept:
    """The bridge's own step."""
    loss = bridge(tokens, return_type="loss")
    loss.backward()
    return loss, {}, {}


def bridge_cache(bridge: TransformerBridge, tokens: torch.Tensor) -> Kept:
    """Some names of its cache are of one array."""
    loss, cache = bridge.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    activations = {name: value for name, value in cache.items() if not name.endswith("_grad")}
    return loss, activations, {name: value for name, value in cache.items() if name.endswith("_grad")}


def answer(kept: Kept, seconds: float) -> dict[str, Any]:
    """The time, and how much was kept; an array under several names counts once."""
    loss, activations, gradients = kept
    arrays = {(one.data_ptr(), one.shape): one for one in (*activations.values(), *gradients.values())}
    total = sum(one.numel() * one.element_size() for one in arrays.values())
    return {"seconds": seconds, "loss": loss.item(), "arrays": len(arrays), "bytes": total}


def compare(kept: Kept, path: str, layers: int) -> None:
    """Write what has a name on our side too."""
    _, activations, gradients = kept
    names = {f"blocks/{i}/{ours}": f"transformer.h.{i}.{one}" for i in range(layers) for ours, one in SITES.items()}
    names |= {f"blocks/{i}": f"transformer.h.{i}" for i in range(layers)} | {"norm": "transformer.ln_f"}
    # The last block's output is the last norm's input: one array, and hooks see it twice.
    pairs = {"activations": activations, "gradients": gradients}
    np.savez(
        path, **{f"{what}:{a}": values[b].detach().numpy() for what, values in pairs.items() for a, b in names.items()}
    )


def main() -> None:
    """Serve steps until the input ends."""
    sizes, weights = json.loads(sys.argv[1]), np.load(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    tokens = torch.tensor(weights["tokens"].astype(np.int64))
    model = make_model(sizes, weights)
    _, seen, _ = hooks(model, tokens)
    names = list(seen)
    # The bridge replaces parts of the model that it is given.
    bridge, traced = make_bridge(make_model(sizes, weights)), NNsight(model)
    steps = {
        "torch plain": lambda: plain(model, tokens),
        "hooks": lambda: hooks(model, tokens),
        "nnsight": lambda: nnsight(traced, names, tokens),
        "transformer_lens plain": lambda: bridge_plain(bridge, tokens),
        "transformer_lens": lambda: bridge_cache(bridge, tokens),
    }
    for line in sys.stdin:
        name, _, path = line.strip().partition(" > ")
        for one in (model, bridge):
            one.zero_grad(set_to_none=True)
        began = time.perf_counter()
        kept = steps[name]()
        seconds = time.perf_counter() - began
        if path:
            compare(kept, path, sizes["layers"])
        print(json.dumps(answer(kept, seconds)), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
