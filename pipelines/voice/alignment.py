"""Which text unit each frame speaks, from a model's attention."""

from __future__ import annotations

import torch
from torch import Tensor


def clearest_map(maps: Tensor, sound: Tensor | None = None) -> Tensor:
    """Return the attention map that follows the text most clearly: [heads, T, L] -> [T, L].

    Among all heads, the choice has the highest sum of two figures: the correlation of its place in the text with time,
    and the mean of each frame's largest weight. ``sound`` bool [T]: only these frames count for the choice.
    """
    seen = maps if sound is None or int(sound.sum()) < 4 else maps[:, sound]
    return maps[_clearest(seen)]


def _clearest(maps: Tensor) -> int:
    place = (maps * torch.arange(maps.shape[2])).sum(-1) / maps.sum(-1).clamp(min=1e-9)  # [heads, T]
    clock = torch.arange(maps.shape[1], dtype=torch.float32)
    clock = (clock - clock.mean()) / clock.std().clamp(min=1e-6) if len(clock) > 1 else clock
    centred = place - place.mean(1, keepdim=True)
    forward = (centred * clock).mean(1) / centred.std(1).clamp(min=1e-6)
    return int((forward.nan_to_num() + maps.amax(-1).mean(1)).argmax())
