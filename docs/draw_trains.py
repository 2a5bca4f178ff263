"""Draws images/trains.svg, the same levels in the three codes: python docs/draw_trains.py"""

from __future__ import annotations

from pathlib import Path

import torch

from sj_parallel_conversion.functional import CODES

T, LEVELS = 4, {"sorted": (1, 3, 4), "binary": (3, 7, 13), "signed_digit": (3, 7, 13)}
TITLES = {
    "sorted": 'sorted, mode="parallel"',
    "binary": 'binary, mode="spikepack"',
    "signed_digit": 'signed digits, mode="css"',
}
STEP, ROW, LEFT, WIDTH = 28, 44, 70, 210
FILE = Path(__file__).parent / "images" / "trains.svg"


def train(name: str, level: int, x: float, y: float) -> str:
    """One spike train: a line, and a bar for each spike; negative spikes point down."""
    spikes = CODES[name].digits(torch.tensor([level], dtype=torch.int32), T).flatten().tolist()
    line = f'<line x1="{x}" y1="{y}" x2="{x + T * STEP}" y2="{y}" stroke="#888"/>'
    bars = (
        f'<line x1="{x + (t + 0.5) * STEP}" y1="{y}" x2="{x + (t + 0.5) * STEP}" y2="{y - 16 * s}" '
        f'stroke="{"#2a6fbb" if s > 0 else "#c0392b"}" stroke-width="5"/>'
        for t, s in enumerate(spikes)
        if s
    )
    return f'<text x="{x - 8}" y="{y}" text-anchor="end">level {level}</text>{line}{"".join(bars)}'


def panel(name: str, x: float) -> str:
    """The trains of one code below its name and the weights of its steps."""
    weights = "".join(
        f'<text x="{x + LEFT + (t + 0.5) * STEP}" y="42" text-anchor="middle" fill="#777">{w}</text>'
        for t, w in enumerate(CODES[name].weights(T))
    )
    rows = "".join(train(name, level, x + LEFT, 78 + i * ROW) for i, level in enumerate(LEVELS[name]))
    title = f'<text x="{x + 10}" y="20" font-weight="bold">{TITLES[name]}</text>'
    return f'{title}<text x="{x + LEFT - 8}" y="42" text-anchor="end" fill="#777">weight</text>{weights}{rows}'


def svg() -> str:
    """The whole picture."""
    width, height = 3 * WIDTH, 78 + 3 * ROW - 14
    panels = "".join(panel(name, i * WIDTH) for i, name in enumerate(LEVELS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{panels}</svg>\n'
    )


if __name__ == "__main__":
    FILE.write_text(svg())
