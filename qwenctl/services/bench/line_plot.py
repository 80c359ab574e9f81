"""Curves as an SVG picture, without a library: panels below each other, a logarithmic axis of powers of two. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _PANEL_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 260, 72, 24, 40, 44
_COLORS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_N_TICKS = 4


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over the same places.

    Raises:
        ValueError: a curve has more or fewer values than there are places, or a place is not above 0.
    """

    title: str
    x_label: str
    places: tuple[float, ...]
    curves: tuple[tuple[str, tuple[float | None, ...]], ...]  # name and values; None leaves a hole

    def __post_init__(self) -> None:
        if not self.places or min(self.places) <= 0:
            raise ValueError("a panel needs places above 0")
        if any(len(values) != len(self.places) for _, values in self.curves):
            raise ValueError("each curve needs a value a place")


def svg(panels: Sequence[Panel], caption: str) -> str:
    """Return the picture; `caption` stands below."""
    height = _PANEL_HEIGHT * len(panels) + 24
    body = [line for number, panel in enumerate(panels) for line in _panel(panel, number * _PANEL_HEIGHT)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            *body,
            _text(_WIDTH / 2, height - 8, caption, "middle", "#6b7280"),
            "</svg>\n",
        ]
    )


def nice_step(highest: float) -> float:
    """Return a round distance, 1, 2 or 5 times a power of ten, that divides 0 … highest into some four parts."""
    raw = max(highest, 1e-12) / _N_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def _panel(panel: Panel, top: float) -> list[str]:
    values = [value for _, curve in panel.curves for value in curve if value is not None]
    step = nice_step(max(values, default=1.0))
    most = step * max(1, math.ceil(max(values, default=1.0) / step - 1e-9))
    low, high = math.log2(min(panel.places)), math.log2(max(panel.places))
    plot_height = _PANEL_HEIGHT - _TOP - _BOTTOM

    def x_of(place: float) -> float:
        share = (math.log2(place) - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return top + _TOP + plot_height * (1 - value / most)

    lines = [_text(_LEFT, top + 20, panel.title, "start", "#111827", weight="bold")]
    for tick in range(round(most / step) + 1):
        y = y_of(tick * step)
        lines.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        lines.append(_text(_LEFT - 8, y + 4, f"{tick * step:g}", "end", "#6b7280"))
    lines += [
        _text(x_of(place), top + _TOP + plot_height + 18, f"{place:g}", "middle", "#6b7280") for place in panel.places
    ]
    lines.append(_text(_WIDTH / 2, top + _TOP + plot_height + 36, panel.x_label, "middle", "#6b7280"))
    for number, (name, curve) in enumerate(panel.curves):
        color = _COLORS[number % len(_COLORS)]
        points = [(x_of(place), y_of(v)) for place, v in zip(panel.places, curve, strict=True) if v is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        lines.append(_text(_WIDTH - _RIGHT - 110 * (len(panel.curves) - 1 - number), top + 20, name, "end", color))
    return lines


def _text(x: float, y: float, text: str, anchor: str, color: str, *, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" fill="{color}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
