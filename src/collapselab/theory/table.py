"""Values of a law by generation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Table:
    """Named columns with one row per generation (or number of agents), and single facts."""

    columns: dict[str, np.ndarray]
    facts: dict[str, float | None] = field(default_factory=dict)
    index: str = "generation"
