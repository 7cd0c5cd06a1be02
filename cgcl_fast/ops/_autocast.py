"""What the ops do under autocast: they cast nothing, but losses stay in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def enabled(x: Tensor) -> bool:
    """Whether autocast is on for x's device; off for devices that have none, such as meta."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
