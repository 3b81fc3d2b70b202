"""The real share alpha_g of generation g, by schedule. No library is imported here.

A new schedule is a function and a line in `SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from collapselab.config.generations import MixingConfig
from collapselab.config.plugins import Records


def _progress(g: int, last: int) -> float:
    """0 at g = 1, 1 at g = last."""
    return min((g - 1) / (last - 1), 1.0) if last > 1 else 0.0


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
"""The share by the settings, the generation and the last generation."""
SCHEDULES.offer((MixingConfig, "schedule"))


def real_share(config: MixingConfig, generation: int, last: int) -> float | None:
    """alpha_g that is asked for: 1 for generation 0; None where the regime, not a schedule, decides."""
    if generation == 0:
        return 1.0
    if not config.has_schedule:
        return None
    return max(config.floor, SCHEDULES[config.schedule or "geometric"](config, generation, last))
