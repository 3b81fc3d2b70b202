"""The real share alpha_g of generation g, by schedule. No library is imported here.

A new schedule is a function and a line in `SCHEDULES`.
"""

from __future__ import annotations

import math

from collapselab.config.generations import MixingConfig
from collapselab.config.plugins import Records


def _harmonic(config: MixingConfig, g: int, last: int) -> float:
    return 1 / (g + 1)


def _power(config: MixingConfig, g: int, last: int) -> float:
    return float((g + 1) ** -config.power)


def _constant(config: MixingConfig, g: int, last: int) -> float:
    return config.start


def _geometric(config: MixingConfig, g: int, last: int) -> float:
    return float(config.start * config.ratio ** (g - 1))


def _linear(config: MixingConfig, g: int, last: int) -> float:
    return config.start + (config.end - config.start) * _progress(g, last)


def _cosine(config: MixingConfig, g: int, last: int) -> float:
    return config.end + (config.start - config.end) * (1 + math.cos(math.pi * _progress(g, last))) / 2


def _list(config: MixingConfig, g: int, last: int) -> float:
    return config.values[g - 1]


def _progress(g: int, last: int) -> float:
    """0 at g = 1, 1 at g = last."""
    return min((g - 1) / (last - 1), 1.0) if last > 1 else 0.0


SCHEDULES = Records("schedule", {
    "constant": _constant,
    "geometric": _geometric,
    "linear": _linear,
    "cosine": _cosine,
    "harmonic": _harmonic,
    "power": _power,
    "list": _list,
})  # fmt: skip
SCHEDULES.offer((MixingConfig, "schedule"))


def real_share(config: MixingConfig, generation: int, last: int) -> float | None:
    """alpha_g that is asked for: 1 for generation 0; None where the regime, not a schedule, decides."""
    if generation == 0:
        return 1.0
    if not config.has_schedule:
        return None
    return max(config.floor, SCHEDULES[config.schedule or "geometric"](config, generation, last))
