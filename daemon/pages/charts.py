"""Charts of what moved lately, as SVG that needs neither a script nor a font of its own (pygal)."""

import sys
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple, Protocol
from xml.etree.ElementTree import Element

import pygal
from pygal.style import Style

# For plugins, of which none is used here, pygal adds a finder of modules in a form that Python 3.12 no longer knows.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

WIDTH, HEIGHT = 960, 320
FONTS = "system-ui, sans-serif"


class Figures(Protocol):
    """What moved in a period."""

    begin: date
    payments: Decimal
    refunds: Decimal
    disputes: Decimal


class Scheme(NamedTuple):
    """The colours of a chart: of its text and lines, and of payments, refunds and disputes. Each of the three differs
    from its neighbours in lightness too."""

    ink: str
    lines: str
    figures: tuple[str, str, str]


LIGHT = Scheme("#17211b", "#d3dcd6", ("#0b6b4b", "#d98a1f", "#a3212b"))
DARK = Scheme("#e7efea", "#33413a", ("#6fd6a8", "#f3bd74", "#ff6b72"))


def income_chart(periods: Sequence[Figures], form: str, scheme: Scheme) -> bytes:
    """The chart of some consecutive periods.

    Args:
        form: how a period is named by its first day, in the format of strftime.
    """
    chart = pygal.Bar(
        width=WIDTH,
        height=HEIGHT,
        style=_style(scheme),
        js=[],
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
        show_minor_x_labels=False,
        x_labels_major_every=max(1, len(periods) // 8),
        truncate_label=-1,
        value_formatter=lambda value: f"{value:,.0f}",
        margin=12,
        spacing=8,
    )
    chart.add_xml_filter(_without_scripts)
    chart.x_labels = [period.begin.strftime(form) for period in periods]
    chart.add("Payments", [float(period.payments) for period in periods])
    chart.add("Refunds", [float(period.refunds) for period in periods])
    chart.add("Disputes", [float(period.disputes) for period in periods])
    svg: bytes = chart.render()
    return svg


def _without_scripts(svg: Element) -> Element:
    """pygal adds its settings as a script, for tooltips that a picture does not have."""
    for parent in list(svg.iter()):
        for script in parent.findall("{*}script"):
            parent.remove(script)
    return svg


def _style(scheme: Scheme) -> Style:
    return Style(
        background="transparent",
        plot_background="transparent",
        foreground=scheme.ink,
        foreground_strong=scheme.ink,
        foreground_subtle=scheme.lines,
        guide_stroke_color=scheme.lines,
        major_guide_stroke_color=scheme.lines,
        colors=scheme.figures,
        opacity="1",
        font_family=FONTS,
        label_font_size=13,
        major_label_font_size=13,
        legend_font_size=14,
    )
