"""The model that both sides calibrate: one transformer block of plain modules, and its data."""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

HEADS = 16
TOKENS = 256
SEQUENCES_IN_BATCH = 4
SEED = 20261123


class Attention(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(hidden)
        self.self_attn = Attention(hidden)
        self.post_attention_layernorm = nn.RMSNorm(hidden)
        self.mlp = Mlp(hidden, inner)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Host(nn.Module):
    """A model of one layer, so that the names are those of a real one."""

    def __init__(self, hidden, inner):
        super().__init__()
        self.layers = nn.ModuleList([Block(hidden, inner)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def _channels(count, outliers):
    """Log-normal magnitudes, one channel in a hundred `outliers` times as large."""
    magnitude = torch.exp(0.5 * torch.randn(count))
    magnitude[torch.randperm(count)[: max(1, count // 100)]] *= outliers
    return magnitude


def make(hidden, inner, sequences) -> tuple[Host, torch.Tensor]:
    """The model, and `[sequences, TOKENS, hidden]`; the same for every call with these sizes."""
    torch.manual_seed(SEED)
    model = Host(hidden, inner).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            parameter.copy_(_channels(hidden, outliers=8))
        else:
            rows, columns = parameter.shape
            parameter.normal_().mul_(columns**-0.5)
            parameter.mul_(_channels(columns, outliers=4) * _channels(rows, outliers=2)[:, None])
    data = torch.randn(sequences, TOKENS, hidden) * _channels(hidden, outliers=20)
    return model, data


def clone(model: Host) -> Host:
    """A copy with weights of its own: a calibration may change them."""
    return copy.deepcopy(model)


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers, also when the reference has replaced them by its own."""
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            yield name, module


def run(model: nn.Module, data: torch.Tensor) -> None:
    """One forward pass over the calibration set."""
    with torch.no_grad():
        for start in range(0, len(data), SEQUENCES_IN_BATCH):
            model(data[start : start + SEQUENCES_IN_BATCH])
