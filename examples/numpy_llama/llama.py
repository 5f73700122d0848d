"""The forward pass of a Llama in plain numpy: an engine that knows nothing of quantization.

Every matrix product goes through `Llama.product`, which whoever quantizes the model replaces.
"""

import json
from pathlib import Path

import numpy as np


def read_safetensors(path):
    """The tensors of a .safetensors file by name, as float32 arrays of their own."""
    raw = Path(path).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    index, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    tensors = {}
    for name, entry in index.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":  # the upper half of a float32
            bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
            values = bits.view(np.float32)
        elif entry["dtype"] == "F32":
            values = np.frombuffer(data[begin:end], np.float32).copy()
        else:
            raise ValueError(f"{path}: {name} is {entry['dtype']}, expected BF16 or F32")
        tensors[name] = values.reshape(entry["shape"])
    return tensors


class Llama:
    """A Llama of the directory with its config.json and model.safetensors."""

    def __init__(self, directory):
        config = json.loads((Path(directory) / "config.json").read_text())
        self.context = config["max_position_embeddings"]
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_size = config["head_dim"]
        self.epsilon = np.float32(config["rms_norm_eps"])
        self.weights = read_safetensors(Path(directory) / "model.safetensors")
        half = self.head_size // 2
        frequency = config["rope_theta"] ** (-np.arange(half) / half)
        angle = np.arange(self.context)[:, None] * frequency
        self.cos, self.sin = (
            np.cos(angle, dtype=np.float32),
            np.sin(angle, dtype=np.float32),
        )
        self.mask = np.triu(np.full((self.context, self.context), -np.inf, np.float32), 1)

    def linears(self):
        """The weights of the linear layers `[out, in]`, by the layer's name."""
        blocks = ("self_attn.", "mlp.", "lm_head.")
        end = ".weight"
        return {
            name[: -len(end)]: weight
            for name, weight in self.weights.items()
            if any(part in name for part in blocks)
        }

    def product(self, name, x):
        """`x @ weight.T` of the linear layer of that name; `x` is `[tokens, in]`."""
        return x @ self.weights[f"{name}.weight"].T

    def forward(self, tokens):
        """Logits `[batch, context, vocabulary]` of tokens `[batch, context]`."""
        x = self.weights["model.embed_tokens.weight"][tokens.ravel()]
        for i in range(self.layers):
            block = f"model.layers.{i}"
            x = x + self._attention(f"{block}.self_attn", self._norm(f"{block}.input_layernorm", x))
            x = x + self._mlp(f"{block}.mlp", self._norm(f"{block}.post_attention_layernorm", x))
        logits = self.product("lm_head", self._norm("model.norm", x))
        return logits.reshape(*tokens.shape, -1)

    def _norm(self, name, x):
        factor = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return x * factor * self.weights[f"{name}.weight"]

    def _mlp(self, name, x):
        gate = self.product(f"{name}.gate_proj", x)
        up = self.product(f"{name}.up_proj", x)
        return self.product(f"{name}.down_proj", gate / (1 + np.exp(-gate)) * up)

    def _attention(self, name, x):
        q = self._rotated(self._split(self.product(f"{name}.q_proj", x), self.heads))
        k = self._rotated(self._split(self.product(f"{name}.k_proj", x), self.kv_heads))
        v = self._split(self.product(f"{name}.v_proj", x), self.kv_heads)
        shared = self.heads // self.kv_heads  # heads of q that read one head of k and v
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(self.head_size)) + self.mask
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        joined = (weights @ v).swapaxes(1, 2).reshape(len(x), -1)
        return self.product(f"{name}.o_proj", joined)

    def _split(self, x, heads):
        """`[batch * context, heads * size]` as `[batch, heads, context, size]`."""
        return x.reshape(-1, self.context, heads, self.head_size).swapaxes(1, 2)

    def _rotated(self, x):
        low, high = np.split(x, 2, axis=-1)
        turned = (low * self.cos - high * self.sin, high * self.cos + low * self.sin)
        return np.concatenate(turned, axis=-1)


def perplexity(model, sequences, batch=16):
    """The perplexity of the model on sequences of tokens `[count, context]`."""
    nats = 0.0
    for first in range(0, len(sequences), batch):
        tokens = sequences[first : first + batch]
        logits = model.forward(tokens)[:, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        right = np.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        nats += (np.log(np.exp(logits).sum(axis=-1)) - right).sum()
    return float(np.exp(nats / (len(sequences) * (model.context - 1))))
