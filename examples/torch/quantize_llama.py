"""Quantizes a Llama of Hugging Face to 4-bit weights, and searches better formats for 6 bits.

    python examples/torch/quantize_llama.py [folder or name of a model]

Without an argument it is a small one with random weights.
"""

import copy
import sys

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import mq.torch as mtq  # instead of: import modelopt.torch.quantization as mtq


def load(name):
    if name is not None:
        return AutoModelForCausalLM.from_pretrained(name).eval()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def divergence(model, reference, batches):
    """How far the next token's probabilities are from those of the reference, in nats."""
    total = 0.0
    for ids in batches:
        mine = model(input_ids=ids).logits.log_softmax(-1)
        theirs = reference(input_ids=ids).logits.log_softmax(-1)
        total += (theirs.exp() * (theirs - mine)).sum(-1).mean().item()
    return total / len(batches)


def main():
    original = load(sys.argv[1] if len(sys.argv) > 1 else None)
    # Take text of the kind that the model will see.
    batches = [torch.randint(original.config.vocab_size, (2, 32)) for _ in range(8)]

    def forward_loop(model):
        for ids in batches:
            model(input_ids=ids)

    model = copy.deepcopy(original)
    mtq.quantize(model, mtq.INT4_AWQ_CFG, forward_loop)
    print(f"INT4 AWQ: {divergence(model, original, batches):.6f} nats")
    mtq.fold_weight(model)  # the quantized weights are now in the parameters

    model = copy.deepcopy(original)
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": 6.0},
        quantization_formats=["INT4_AWQ_CFG", "INT8_DEFAULT_CFG"],
        data_loader=batches,
        forward_step=lambda model, ids: model(input_ids=ids, labels=ids),
        loss_func=lambda output, ids: output.loss,
    )
    bits = state["best"]["constraints"]["effective_bits"]
    print(f"searched, {bits:.2f} bits: {divergence(model, original, batches):.6f} nats")


if __name__ == "__main__":
    main()
