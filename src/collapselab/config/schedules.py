"""Schedules of the real share alpha_g of generation g, functions in `SCHEDULES`. No library is imported here."""

from __future__ import annotations

import math
from collections.abc import Callable

from collapselab.config.generations import MixingConfig
from collapselab.config.plugins import Records


def _progress(g: int, last: int) -> float:
    return min((g - 1) / (last - 1), 1.0) if last > 1 else 0.0  # 0 at g = 1, 1 at g = last


SCHEDULES = Records[Callable[[MixingConfig, int, int], float]](
    "schedule",
    {
        "constant": lambda c, g, last: c.start,
        "geometric": lambda c, g, last: float(c.start * c.ratio ** (g - 1)),
        "linear": lambda c, g, last: c.start + (c.end - c.start) * _progress(g, last),
        "cosine": lambda c, g, last: c.end + (c.start - c.end) * (1 + math.cos(math.pi * _progress(g, last))) / 2,
        "harmonic": lambda c, g, last: 1 / (g + 1),
        "power": lambda c, g, last: float((g + 1) ** -c.power),
        "list": lambda c, g, last: c.values[g - 1],
    },
)
"""Functions from the settings, the generation and the last generation to the share."""
SCHEDULES.offer((MixingConfig, "schedule"))


def real_share(config: MixingConfig, generation: int, last: int) -> float | None:
    """Real share alpha_g to aim at: 1 for generation 0; None if the regime, not a schedule, decides."""
    if generation == 0:
        return 1.0
    if not config.has_schedule:
        return None
    return max(config.floor, SCHEDULES[config.schedule or "geometric"](config, generation, last))
