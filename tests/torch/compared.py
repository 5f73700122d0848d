"""What is compared with the reference, and how a tensor is described in a small file."""

import torch

from networks import NETWORKS, VOCABULARY

_EVERYWHERE = [
    "INT8_DEFAULT_CFG",
    "INT8_SMOOTHQUANT_CFG",
    "INT8_WEIGHT_ONLY_CFG",
    "FP8_DEFAULT_CFG",
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "INT4_AWQ_CFG",
    "W4A8_AWQ_BETA_CFG",
]
_LANGUAGE = [
    *_EVERYWHERE,
    "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG",
    "FP8_KV_CFG",
    "MAMBA_MOE_FP8_AGGRESSIVE_CFG",
    "MAMBA_MOE_FP8_CONSERVATIVE_CFG",
]
#: The presets that the reference computes without a GPU, by network.
PRESETS = {
    "llama": _LANGUAGE,
    "bert": _LANGUAGE,
    "vision": ["INT8_DEFAULT_CFG", "INT8_WEIGHT_ONLY_CFG", "FP8_DEFAULT_CFG"],
}
#: Where nothing is multiplied into weights, so that both sides have the same parameters.
GRADIENTS = [
    ("llama", "INT8_DEFAULT_CFG"),
    ("llama", "FP8_DEFAULT_CFG"),
    ("bert", "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"),
    ("vision", "INT8_DEFAULT_CFG"),
]
#: Network, effective bits, formats.
SEARCHES = [
    ("llama", 6.0, ["INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "INT8_DEFAULT_CFG"]),
    ("llama", 9.0, ["INT4_AWQ_CFG", "FP8_DEFAULT_CFG"]),
]


def described(tensor):
    """Shape, and numbers that change when any element does."""
    if tensor is None:
        return None
    values = tensor.detach().double().flatten()
    weights = torch.arange(1, values.numel() + 1, dtype=torch.float64)
    return {
        "count": values.numel(),
        "largest": values.abs().max().item(),
        "sum": values.sum().item(),
        "turned": (values * torch.cos(weights)).sum().item(),
        "norm": values.norm().item(),
    }


def gradients(model, compute, batch):
    """The gradient of a loss at every parameter that has one."""
    model.zero_grad()
    output = compute(model, batch)
    (output * torch.sin(torch.arange(output.numel())).view_as(output)).sum().backward()
    return {
        name: described(parameter.grad)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def search_arguments(name, effective_bits, formats):
    """The arguments of auto_quantize behind the model, for either side."""
    _, data, compute = NETWORKS[name]
    return {
        "constraints": {"effective_bits": effective_bits},
        "quantization_formats": formats,
        "data_loader": data(),
        "forward_step": compute,
        "loss_func": loss,
        "num_calib_steps": 2,
        "num_score_steps": 2,
        "verbose": False,
    }


def loss(logits, batch):
    """Cross entropy of the next token, summed, so that scores are not tiny."""
    flat = logits[:, :-1].reshape(-1, VOCABULARY)
    return torch.nn.functional.cross_entropy(flat, batch[:, 1:].flatten(), reduction="sum")
