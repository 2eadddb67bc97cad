"""The networks of LossAtlas as plain PyTorch modules; what `export_torch` copies into `model.py`.

Nothing here may use LossAtlas: each class stands alone with `torch`, `nn` and the classes of this file that it names.
"""

import torch
from torch import nn


class Erf(nn.Module):
    """The error function."""

    def forward(self, x):
        return torch.erf(x)


class Sin(nn.Module):
    """The sine."""

    def forward(self, x):
        return torch.sin(x)


class Square(nn.Module):
    """The square."""

    def forward(self, x):
        return x * x


class XTanh(nn.Module):
    """x tanh(x)."""

    def forward(self, x):
        return x * torch.tanh(x)


class X2Tanh(nn.Module):
    """x^2 tanh(x)."""

    def forward(self, x):
        return x * x * torch.tanh(x)


class Exp(nn.Module):
    """The exponential function."""

    def forward(self, x):
        return torch.exp(x)


class DenseLayer(nn.Module):
    """Neurons, `activation(weight @ x + bias)`, and beside them linear units, `linear @ x`."""

    def __init__(self, num_inputs, num_neurons, num_linear, activation, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_neurons, num_inputs))
        self.bias = nn.Parameter(torch.zeros(num_neurons)) if bias else None
        self.linear = nn.Parameter(torch.zeros(num_linear, num_inputs)) if num_linear else None
        self.activation = activation

    def forward(self, x):
        neurons = self.activation(nn.functional.linear(x, self.weight, self.bias))
        return neurons if self.linear is None else torch.cat([neurons, x @ self.linear.T], dim=-1)


class ResidualBlock(nn.Module):
    """Adds `outer(activation(inner(norm(stream))))` to the stream."""

    def __init__(self, norm, inner, activation, outer):
        super().__init__()
        self.norm, self.inner, self.activation, self.outer = norm, inner, activation, outer

    def forward(self, stream):
        return stream + self.outer(self.activation(self.inner(self.norm(stream))))


class Attention(nn.Module):
    """Attention of a sequence to itself; the size of the heads does not depend on that of the stream."""

    def __init__(self, query, key, value, out, num_heads, scale, is_causal):
        super().__init__()
        self.query, self.key, self.value, self.out = query, key, value, out
        self.num_heads, self.scale, self.is_causal = num_heads, scale, is_causal

    def forward(self, x):
        query, key, value = (
            part(x).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3) for part in (self.query, self.key, self.value)
        )
        logits = self.scale * query @ key.transpose(-1, -2)
        if self.is_causal:
            size = x.shape[-2]
            seen = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
            logits = logits.masked_fill(~seen, float("-inf"))
        mixed = logits.softmax(dim=-1) @ value
        return self.out(mixed.transpose(-2, -3).flatten(-2))


class FeedForward(nn.Module):
    """`down(activation(up(x)))`, or gated: `down(activation(gate(x)) * up(x))`."""

    def __init__(self, up, activation, down, gate=None):
        super().__init__()
        self.up, self.gate, self.activation, self.down = up, gate, activation, down

    def forward(self, x):
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network; both read the stream through a norm and add to it."""

    def __init__(self, attention_norm, attention, feed_forward_norm, feed_forward):
        super().__init__()
        self.attention_norm, self.attention = attention_norm, attention
        self.feed_forward_norm, self.feed_forward = feed_forward_norm, feed_forward

    def forward(self, stream):
        stream = stream + self.attention(self.attention_norm(stream))
        return stream + self.feed_forward(self.feed_forward_norm(stream))


class Transformer(nn.Module):
    """A pre-norm transformer; the output reads the mean of the normalised stream over the tokens.

    Reads a batch of sequences: numbers of shape (n, tokens, inputs), or integers of shape (n, tokens).
    """

    def __init__(self, inputs, num_tokens, blocks, norm, output):
        super().__init__()
        self.inputs = inputs
        self.positions = nn.Parameter(torch.zeros(num_tokens, inputs.out_features))
        self.blocks, self.norm, self.output = blocks, norm, output

    def forward(self, x):
        if not x.is_floating_point():
            x = nn.functional.one_hot(x, self.inputs.in_features).to(self.positions.dtype)
        stream = self.inputs(x) + self.positions[: x.shape[-2]]
        return self.output(self.norm(self.blocks(stream)).mean(dim=-2))


class Recurrent(nn.Module):
    """A recurrent network from a state of zero; the output reads the last state. Reads (n, steps, inputs)."""

    def __init__(self, inputs, recurrent, activation, output):
        super().__init__()
        self.inputs, self.recurrent, self.activation, self.output = inputs, recurrent, activation, output

    def forward(self, x):
        fed = self.inputs(x)
        state = torch.zeros_like(fed[..., 0, :])
        for step in fed.unbind(dim=-2):
            state = self.activation(step + self.recurrent(state))
        return self.output(state)
