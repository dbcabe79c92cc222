"""Pure: samples of a run -> the table of deploy/docs/figures.md, with what is required and what is aimed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.conditions import Conditions

Samples = Mapping[str, Sequence[float]]
Meanwhile = Mapping[str, Sequence[Conditions]]  # of each sample, by the same name


@dataclass(frozen=True)
class Figure:
    """One row: a quantity, or the ratio of two that were measured in the same round.

    Args:
        over: the name of the samples.
        under: the name of the samples it is divided by, or None.
        rising: whether more is better.
        unit: of `over` and `under`.
    """

    name: str
    over: str
    under: str | None
    required: float
    aimed: float
    rising: bool = True
    unit: str = ""

    def values(self, samples: Samples) -> list[float]:
        """The figure of each round."""
        if self.under is None:
            return list(samples[self.over])
        return [a / b for a, b in zip(samples[self.over], samples[self.under], strict=True)]

    def verdict(self, value: float) -> str:
        """How the value stands to what is asked: "aim", "ok" or "MISSED"."""
        sign = 1 if self.rising else -1
        if sign * value >= sign * self.aimed:
            return "aim"
        return "ok" if sign * value >= sign * self.required else "MISSED"


FIGURES = (
    Figure("one process: durable ÷ empty handler", "one", "empty", 0.40, 0.60, unit="/s"),
    Figure("two processes ÷ empty handlers, 64 connections", "two", "two empty", 0.30, 0.50, unit="/s"),
    Figure("two processes ÷ empty handlers, 256 connections", "two, 256", "two empty, 256", 0.33, 0.50, unit="/s"),
    Figure("two processes ÷ one, 64 connections", "two", "one", 1.2, 1.6, unit="/s"),
    Figure("two processes ÷ one, 256 connections", "two, 256", "one, 256", 1.5, 1.6, unit="/s"),
    Figure("idle share of the cores under load, one process", "one, idle", None, 0.20, 0.10, rising=False),
    Figure("analysed while empty ÷ not analysed", "analysed while empty", "not analysed", 0.90, 1.0, unit="/s"),
    Figure("durable ÷ one statement per event", "one", "one by one", 2.5, 4.0, unit="/s"),
    Figure("one connection: latency ÷ one statement per event", "alone", "one by one, alone", 1.0, 0.80, False, "µs"),
    Figure("p99 ÷ p50", "p99", "p50", 3.0, 2.0, False, "µs"),
    Figure("one hot ticket ÷ 1,000 tickets", "hot", "one", 0.90, 1.0, unit="/s"),
    Figure("5 million events stored ÷ empty database", "full", "one", 0.90, 1.0, unit="/s"),
    Figure("total of 1 million donations ÷ of ten, time", "total of a million", "total of ten", 1.1, 1.0, False, "µs"),
    Figure("page of 100 deep inside 1 million ÷ first, time", "deep page", "first page", 1.2, 1.0, False, "µs"),
    Figure("total ÷ empty GET", "total", "empty GET", 0.35, 0.5, unit="/s"),
    Figure("total with `If-None-Match` ÷ empty GET", "known total", "empty GET", 0.60, 0.8, unit="/s"),
    Figure("ledger page of 100 ÷ empty GET", "page", "empty GET", 0.08, 0.12, unit="/s"),
    Figure("ledger page of 100 with `If-None-Match` ÷ empty GET", "known page", "empty GET", 0.40, 0.6, unit="/s"),
    Figure("readiness look per request, µs", "look", None, 1.0, 0.3, False, "µs"),
    Figure("resident memory, after many webhooks ÷ after 10,000", "memory", "memory early", 1.05, 1.0, False, "MB"),
    Figure("bytes on disk per event ÷ the seed's schema", "disk", "seed's disk", 0.60, 0.50, False, "B"),
    Figure("bytes of WAL per event ÷ the seed's schema", "wal", "seed's wal", 0.50, 0.40, False, "B"),
    Figure("one process: with the journal ÷ without", "one", "without journal", 0.95, 1.0, unit="/s"),
    Figure(
        "WAL with the journal ÷ without",
        "wal of donations",
        "wal of donations without journal",
        1.10,
        1.05,
        rising=False,
        unit="B",
    ),
)


# Only where the peers were asked for and can run.
PEER_FIGURES = (
    Figure("÷ Express + pg, three statements", "one", "express", 6.0, 10.0, unit="/s"),
    Figure("÷ stripe-sync-engine", "one", "sync_engine", 4.0, 5.0, unit="/s"),
)


def table(figures: Sequence[Figure], samples: Samples, meanwhile: Meanwhile) -> str:
    """The figures as a Markdown table: each the median of its rounds, with the lowest and the highest.

    Beside each stand the medians of the conditions: the share of the cores that was idle, and the share that processes
    used which are not the benchmark's; where a ratio was formed, of both measurements.
    """
    lines = [
        "| figure | median | lowest – highest | required | aim | | measured, medians | idle | foreign |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_row(figure, samples, meanwhile) for figure in figures)])


def _row(figure: Figure, samples: Samples, meanwhile: Meanwhile) -> str:
    values = figure.values(samples)
    middle = median(values)
    sign = "≥" if figure.rising else "≤"
    names = [name for name in (figure.over, figure.under) if name]
    cells = [
        figure.name,
        _short(middle),
        f"{_short(min(values))} – {_short(max(values))}",
        f"{sign} {figure.required:.2f}",
        f"{figure.aimed:.2f}",
        figure.verdict(middle),
        " ÷ ".join(_short(median(samples[name])) for name in names) + f" {figure.unit}",
        _shares([median(at.idle for at in meanwhile[name]) for name in names]),
        _shares([median(at.foreign for at in meanwhile[name]) for name in names]),
    ]
    return f"| {' | '.join(cells)} |"


def _shares(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0%}" for value in values)


def foreign(meanwhile: Meanwhile) -> tuple[float, float]:
    """The share of the cores that other processes used during the measurements: the median, and the most."""
    shares = [at.foreign for conditions in meanwhile.values() for at in conditions]
    return median(shares), max(shares)


def _short(value: float) -> str:
    """The number with as many decimals as say something."""
    return f"{value:,.{0 if value >= 10 else 2 if value >= 0.1 else 4}f}"


def as_json(figures: Sequence[Figure], samples: Samples, meanwhile: Meanwhile) -> list[dict[str, object]]:
    """The figures, all that they were made from, and the conditions of each measurement."""
    return [
        {
            "figure": figure.name,
            "median": median(figure.values(samples)),
            "rounds": figure.values(samples),
            "required": figure.required,
            "aim": figure.aimed,
            "better": "more" if figure.rising else "less",
            "verdict": figure.verdict(median(figure.values(samples))),
            "unit": figure.unit,
            "measured": {name: list(samples[name]) for name in (figure.over, figure.under) if name},
            "meanwhile": {
                name: [{"idle": at.idle, "foreign": at.foreign} for at in meanwhile[name]]
                for name in (figure.over, figure.under)
                if name
            },
        }
        for figure in figures
    ]
