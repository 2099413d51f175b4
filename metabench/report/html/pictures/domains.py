"""Where each learner is right: accuracies of regions, or of other domains, by row of the board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metabench.core import metrics
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Picture
from metabench.report.html.reading import Results

MOST_DOMAINS, MOST_ROWS = 30, 12
"""Domains, the hardest, and rows, the best, that are drawn."""

STRONGEST = 0.75
"""How much of its colour the best cell has, so that its figure can be read."""

Accuracies = Mapping[str, float]
"""Domains to what is right in each."""


def of_rows(results: Results) -> dict[str, Accuracies]:
    """Return the accuracies by domain of each row that has them, best row first."""
    return {
        results.name(row): {name: float(figure) for name, figure, _ in row["by_domain"]}
        for row in results.board["rows"]
        if row.get("by_domain")
    }


def hardest_first(rows: Mapping[str, Accuracies]) -> list[str]:
    """List the domains, those that are hardest for all rows together first."""
    names = dict.fromkeys(name for one in rows.values() for name in one)
    means = {name: [one[name] for one in rows.values() if name in one] for name in names}
    return sorted(names, key=lambda name: sum(means[name]) / len(means[name]))


def draw_domains(results: Results) -> Drawn:
    """Draw a cell for each row in each domain, where test tasks are of several."""
    rows = dict(list(of_rows(results).items())[:MOST_ROWS])
    domains = hardest_first(rows)[:MOST_DOMAINS]
    if len(domains) < 2:
        return []
    caption = (
        "The stronger the colour, the more of a domain's queries are right, all seeds together; the hardest "
        "domain is above. Domains are few, so that a row that is ahead in one may owe it to chance: the "
        "interval over domains says how much others would change."
    )
    said = "; ".join(
        f"{name}: worst in {(low := min(one, key=lambda key: one[key]))} with "
        f"{metrics.show(results.metric, one[low])}, best in {(top := max(one, key=lambda key: one[key]))} "
        f"with {metrics.show(results.metric, one[top])}"
        for name, one in rows.items()
    )
    alt = f"A table of colours, {len(domains)} domains by {len(rows)} rows. {said}."
    title = "Accuracy by domain"
    return [Picture("domains", title, caption, alt, partial(_cells, rows, domains))]


def _cells(rows: Mapping[str, Accuracies], domains: Sequence[str], width: float) -> Figure:
    figure = style.new(0.3 * len(domains) + 1.5, min(width, 1.1 * len(rows) + 3))
    axis = figure.subplots()
    shown = [figure for one in rows.values() for name, figure in one.items() if name in domains]
    low, span = min(shown), (max(shown) - min(shown)) or 1
    for x, accuracies in enumerate(rows.values()):
        for y, name in enumerate(domains):
            if name not in accuracies:
                continue
            alpha = 0.05 + (STRONGEST - 0.05) * (accuracies[name] - low) / span
            look: dict[str, Any] = {"facecolor": style.RIGHT, "alpha": alpha, "linewidth": 0}
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **look))
            axis.text(x, y, f"{100 * accuracies[name]:.0f}", ha="center", va="center", fontsize=8.5)
    axis.set_xlim(-0.5, len(rows) - 0.5)
    axis.set_ylim(len(domains) - 0.5, -0.5)
    names = [style.short(style.wrapped(name), 26) for name in rows]
    axis.set_xticks(range(len(rows)), names, rotation=0 if width == style.WIDE and len(rows) < 7 else 90)
    axis.set_yticks(range(len(domains)), [style.short(name, 18) for name in domains])
    axis.grid(visible=False)
    axis.tick_params(length=0)
    return figure
