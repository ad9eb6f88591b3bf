"""A decoder-only transformer language model, normalised before each block.

Radford et al., Language models are unsupervised multitask learners, 2019 (GPT-2), with its initialisation.
"""

import warnings
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from hpc_fl.errors import ModelError
from hpc_fl.models.checks import check_outputs, check_widths

_DEVIATION: Final = 0.02

# Under vmap on CPUs the fused attention runs the parties one by one, with a warning; a plain one, batched
# over them, takes 20% to 40% longer (10 parties, T = 128 and 32).
warnings.filterwarnings("ignore", message=".*batching rule for aten::_scaled_dot_product")


def transformer(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    vocabulary: int | None = None,
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    context: int | None = None,
    tied: bool = True,
) -> nn.Module:
    """x int64 tokens (b, T) -> logits (b, T, vocabulary); position t sees the tokens up to t.

    vocabulary: None takes `classes`. context: the longest T; None takes input_shape[0]. tied: the output
    layer is the transposed embedding. Runs under torch.func.vmap. Raises ModelError where the sizes do not
    fit.
    """
    vocabulary = classes if vocabulary is None else vocabulary
    if len(input_shape) != 1:
        raise ModelError(f"transformer takes tokens of shape (length,), not samples of shape {input_shape}")
    context = input_shape[0] if context is None else context
    check_outputs(vocabulary)
    check_widths("width, depth, heads", (width, depth, heads))
    if width % heads:
        raise ModelError(
            f"width={width} is no multiple of heads={heads}: use width={heads * -(-width // heads)}"
        )
    if vocabulary < classes or context < input_shape[0]:
        raise ModelError(
            f"vocabulary={vocabulary} and context={context} are too small for the data: use "
            f"vocabulary={classes} and context={input_shape[0]} or more"
        )
    return _Transformer(vocabulary, width, depth, heads, context, tied=tied)


class _Transformer(nn.Module):
    def __init__(
        self, vocabulary: int, width: int, depth: int, heads: int, context: int, *, tied: bool
    ) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
        self._initialise(depth)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        if length > self.context:
            raise ModelError(f"{length} tokens, but the model has context={self.context}: build it with more")
        hidden = self.tokens(x) + self.positions.weight[:length]
        hidden = self.norm(self.blocks(hidden))
        return functional.linear(hidden, self.tokens.weight if self.head is None else self.head.weight)

    def _initialise(self, depth: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_DEVIATION)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, _Block)
            for layer in (block.attention.output, block.contract):
                nn.init.normal_(layer.weight, std=_DEVIATION * (2 * depth) ** -0.5)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        change: Tensor = self.contract(functional.gelu(self.expand(self.norm_mlp(x))))
        return x + change


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (b, T, 3 * width) -> three of (b, heads, T, width / heads)
        parts = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        query, key, value = parts.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.output(mixed.transpose(-3, -2).flatten(-2))
        return output
