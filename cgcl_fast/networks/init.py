"""Initialisation of weights."""

from __future__ import annotations

from torch import nn

KINDS = ("xavier", "normal", "kaiming", "kaiming_uniform", "orthogonal")


def init_weights(module: nn.Module, kind: str = "xavier", gain: float = 0.02) -> None:
    """Reinitialise the weights of all convolutions and linear layers, and set their biases to zero. The scales of 2D
    batch norms are drawn around 1 with standard deviation ``gain``, as in the published code.

    Args:
        module: changed in place.
        kind: "xavier" (normal; CUT's, with gain 0.02), "normal" (standard deviation ``gain``), "kaiming" (normal,
            fan in; ``gain`` is not used), "kaiming_uniform" (the same deviation) or "orthogonal".
        gain: scale of the weights.

    Raises:
        ValueError: another ``kind``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, gain)
            nn.init.zeros_(layer.bias)
        if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            continue
        if kind == "xavier":
            nn.init.xavier_normal_(layer.weight, gain=gain)
        elif kind == "normal":
            nn.init.normal_(layer.weight, 0.0, gain)
        elif kind == "kaiming":
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
        elif kind == "kaiming_uniform":
            nn.init.kaiming_uniform_(layer.weight, a=0, mode="fan_in")
        else:
            nn.init.orthogonal_(layer.weight, gain=gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
