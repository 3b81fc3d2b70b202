"""Colour, marker and dash of each arm, on the page and in the PNGs.

Controls are grey and have negative places, so a control that is added later takes no arm's colour.
"""

from __future__ import annotations

# Contrast of at least 3:1 to #ffffff and #0d1117. The least distance in Oklab between two of the first eight, under normal
# sight and simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009, severity 1), is .107; a random search
# over all colours with these contrasts reached .110. With all twelve it is .061, so arms also differ in marker and dash.
# tests/test_report.py computes both.
PALETTE = (
    *("#1464f0", "#f06478", "#c81e6e", "#3296fa", "#3c6e00", "#be64b4"),
    *("#a032aa", "#788c00", "#28a064", "#82648c", "#645ac8", "#e65adc"),
)
NEUTRAL = "#7d8590"  # controls, and lines of no arm: real text, zero
SYMBOLS = (  # of plotly
    *("circle", "square", "diamond", "triangle-up", "x", "triangle-down"),
    *("star", "cross", "pentagon", "hourglass", "hexagram", "bowtie"),
)
MARKERS = ("o", "s", "D", "^", "X", "v", "*", "P", "p", "d", "H", ">")  # of matplotlib, in the same order
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")  # of plotly
LINES = ("-", "--", ":", "-.", (0, (8, 3)), (0, (8, 3, 1, 3)))  # of matplotlib
INK, PROMPT = "#1b1f24", "#7d8590"  # in the ledger: real text (in the page's own text colour), hatches of prompts

# Blue below, orange above, distinct under every form of colour blindness; the middle is the page's background.
DIVERGING = {
    "light": ("#0b4aa8", "#7fb0ee", "#f6f8fa", "#f2a65e", "#a84300"),
    "dark": ("#6fb1ff", "#2a5ea8", "#161b22", "#a85a1c", "#ffb065"),
}


CONTROL = -1  # the place of the first control in a report


def colour(place: int) -> str:
    """Colour of the arm at `place` in the report, from 0; colours repeat after twelve."""
    return NEUTRAL if place < 0 else PALETTE[place % len(PALETTE)]


def signs(place: int) -> tuple[int, int]:
    """(marker, dash) of an arm as indices of the lists above, distinct for the first 72. Controls are never dashed, as real
    text is."""
    if place < 0:
        return (-1 - place) % len(SYMBOLS), (0, 2, 3, 4, 5)[(-1 - place) % 5]
    return place % len(SYMBOLS), (place + place // len(SYMBOLS)) % len(DASHES)


def mark(place: int) -> tuple[str, str]:
    """(marker, dash) of an arm for plotly."""
    symbol, dash = signs(place)
    return SYMBOLS[symbol], DASHES[dash]


def faint(place: int, alpha: float) -> str:
    """Translucent colour of an arm for plotly."""
    red, green, blue = (int(colour(place)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
