"""Small models with random weights that are the same everywhere, and data for them."""

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

VOCABULARY = 96
TOKENS = 12


def filled(model, seed=0):
    """The model with weights of its own, not those of torch's generator."""
    random = np.random.RandomState(seed)  # its stream never changes
    with torch.no_grad():
        for parameter in model.parameters():
            values = random.standard_normal(tuple(parameter.shape)).astype(np.float32)
            if parameter.dim() > 1:
                values *= 1.5 / np.sqrt(parameter[0].numel())
                values *= np.exp(0.4 * random.standard_normal((1, parameter.shape[1])))[
                    (...,) + (None,) * (parameter.dim() - 2)
                ]
            else:
                values = 1 + 0.2 * values
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


def llama(**changes):
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    return filled(LlamaForCausalLM(LlamaConfig(**{**config, **changes})))


def bert(**changes):
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    return filled(BertForMaskedLM(BertConfig(**{**config, **changes})))


class Vision(nn.Module):
    """One layer of most of the classes that are quantized."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.act = nn.LeakyReLU(0.1)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4, padding="same")
        self.instance = nn.InstanceNorm2d(16, affine=True)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, output_padding=1)
        self.mean = nn.AvgPool2d(2)
        self.line = nn.Conv1d(8, 8, 3)
        self.uplines = nn.ConvTranspose1d(8, 4, 3)
        self.last = nn.AdaptiveAvgPool1d(4)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        x = self.pool(self.instance(self.grouped(x)))
        x = self.mean(self.up(x)).flatten(2)
        return self.head(self.last(self.uplines(self.line(x))).flatten(1))


def vision():
    return filled(Vision())


def tokens(batches=2, seed=1):
    random = np.random.RandomState(seed)
    drawn = random.randint(0, VOCABULARY, (batches, 2, TOKENS))
    return [torch.from_numpy(batch) for batch in drawn]


def images(batches=2, seed=2):
    random = np.random.RandomState(seed)
    drawn = random.standard_normal((batches, 2, 3, 16, 16)).astype(np.float32)
    return [torch.from_numpy(batch) for batch in drawn]


#: name -> (model, batches, model and batch -> what it computes).
NETWORKS = {
    "llama": (llama, tokens, lambda model, x: model(x, use_cache=False).logits),
    "bert": (bert, tokens, lambda model, x: model(x).logits),
    "vision": (vision, images, lambda model, x: model(x)),
}


def loop(compute, batches):
    """A forward loop over all batches."""

    def run(model):
        for batch in batches:
            compute(model, batch)

    return run
