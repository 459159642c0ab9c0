"""Plots as SVG text, without any library: bars in groups, and lines. The same figures give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 48, 48
_COLOURS: Final = ("#2f6f9f", "#d9822b", "#4f9d69", "#8a4f9d")


@dataclass(frozen=True, slots=True)
class Bars:
    """Groups side by side (`groups` names them), one bar of each series in each group."""

    title: str
    unit: str
    groups: Sequence[str]
    series: Mapping[str, Sequence[float]]
    x_title: str = "validators"


@dataclass(frozen=True, slots=True)
class Lines:
    """Points (x, y) by series; the x axis is logarithmic when `log_x`."""

    title: str
    unit: str
    x_title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False


def ticks(highest: float) -> list[float]:
    """Round values from 0 to at least `highest`, four to six of them."""
    if highest <= 0:
        return [0.0, 1.0]
    raw = highest / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw)
    return [step * n for n in range(math.ceil(highest / step) + 1)]


def draw(plot: Bars | Lines) -> str:
    """The SVG document."""
    parts = _frame(plot.title)
    highest = max((y for ys in _values(plot) for y in ys), default=0.0)
    scale = ticks(highest)
    parts += _y_axis(scale, plot.unit)
    parts += _bars(plot, scale[-1]) if isinstance(plot, Bars) else _lines(plot, scale[-1])
    parts += _legend(list(plot.series))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 8, plot.x_title, anchor="middle"))
    return "\n".join([*parts, "</svg>", ""])


def _values(plot: Bars | Lines) -> list[list[float]]:
    if isinstance(plot, Bars):
        return [list(ys) for ys in plot.series.values()]
    return [[y for _, y in points] for points in plot.series.values()]


def _frame(title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 20, title, size=14),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} fill="#333333">{escape(text)}</text>'


def _y(value: float, highest: float) -> float:
    return HEIGHT - _BOTTOM - value / highest * (HEIGHT - _TOP - _BOTTOM)


def _y_axis(scale: list[float], unit: str) -> list[str]:
    parts = []
    for value in scale:
        y = _y(value, scale[-1])
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:,.10g}", anchor="end"))
    parts.append(_text(_LEFT - 6, _TOP - 14, unit, anchor="end"))
    return parts


def _bars(plot: Bars, highest: float) -> list[str]:
    parts = []
    room = (WIDTH - _LEFT - _RIGHT) / max(1, len(plot.groups))
    width = room * 0.7 / max(1, len(plot.series))
    for g, group in enumerate(plot.groups):
        left = _LEFT + room * g + room * 0.15
        for s, values in enumerate(plot.series.values()):
            y = _y(values[g], highest)
            x = left + width * s
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.94:.1f}" '
                f'height="{HEIGHT - _BOTTOM - y:.1f}" fill="{_COLOURS[s % len(_COLOURS)]}"/>'
            )
            parts.append(_text(x + width / 2, y - 3, _short(values[g]), anchor="middle", size=10))
        parts.append(_text(left + room * 0.35, HEIGHT - _BOTTOM + 16, group, anchor="middle"))
    return parts


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _lines(plot: Lines, highest: float) -> list[str]:
    xs = sorted({x for points in plot.series.values() for x, _ in points})
    low, high = (_at(xs[0], plot.log_x), _at(xs[-1], plot.log_x)) if xs else (0.0, 1.0)
    span = (high - low) or 1.0

    def place(x: float) -> float:
        return _LEFT + 12 + (_at(x, plot.log_x) - low) / span * (WIDTH - _LEFT - _RIGHT - 24)

    parts = [_text(place(x), HEIGHT - _BOTTOM + 16, f"{x:,.10g}", anchor="middle") for x in xs]
    for s, points in enumerate(plot.series.values()):
        colour = _COLOURS[s % len(_COLOURS)]
        way = " ".join(f"{place(x):.1f},{_y(y, highest):.1f}" for x, y in points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{place(x):.1f}" cy="{_y(y, highest):.1f}" r="3" fill="{colour}"/>'
            for x, y in points
        ]
    return parts


def _at(x: float, log_x: bool) -> float:
    return math.log10(x) if log_x else x


def _legend(names: list[str]) -> list[str]:
    parts, x = [], float(_LEFT)
    for s, name in enumerate(names):
        parts.append(
            f'<rect x="{x:.1f}" y="28" width="10" height="10" fill="{_COLOURS[s % len(_COLOURS)]}"/>'
        )
        parts.append(_text(x + 14, 37, name))
        x += 32 + 7 * len(name)
    return parts
