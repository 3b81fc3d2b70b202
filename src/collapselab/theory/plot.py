"""Figure of a law: one panel per column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

COLOUR = "#0072B2"  # Okabe & Ito (2008)


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the columns of `show.document` to a .png or .svg file without a date."""
    columns = {key: values for key, values in document["columns"].items() if key != document["index"]}
    figure = Figure(figsize=(4.2 * len(columns), 3.4), layout="constrained")
    index = document["columns"][document["index"]]
    for axis, (key, values) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        axis.plot(index, [float("nan") if v is None else v for v in values], color=COLOUR)
        axis.set_title(key.replace("_", " "), fontsize=10)
        axis.set_xlabel(document["index"])
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{document['law']}: {document['says']}", fontsize=9, wrap=True)
    figure.savefig(path, dpi=130, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
