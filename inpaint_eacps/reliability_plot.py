"""The reliability plot of a calibration, as PNG."""

import io

from inpaint_eacps.calibrate import Calibration
from shared.errors import MissingDependency


def reliability_png(calibration: Calibration) -> bytes:
    """Share of results that people found without issues, by the judges' potential, with 95 % intervals.

    Raises MissingDependency without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "The reliability plot needs matplotlib: pip install 'inpaint-eacps[calibrate]'."
        ) from error
    figure = Figure(figsize=(6, 4.5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bins = calibration.reliability
    centres, shares = [b.mean for b in bins], [b.share for b in bins]
    errors = [[max(0.0, b.share - b.low) for b in bins], [max(0.0, b.high - b.share) for b in bins]]
    axes.errorbar(centres, shares, yerr=errors, fmt="o-", color="#1f5fa8", capsize=3, linewidth=1.2)
    for one in bins:
        axes.annotate(f"n={one.count}", (one.mean, one.share), textcoords="offset points", xytext=(5, 6), fontsize=7)
    if calibration.confusion is not None:
        axes.axvline(calibration.confusion.threshold, color="#b04a2f", linestyle="--", linewidth=1, label="threshold")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    found = calibration.agreement["potential"].auc
    axes.set(
        ylim=(-0.03, 1.08),
        xlabel="potential given by the judge",
        ylabel="share that people found without issues",
        title=f"{', '.join(calibration.judges)}: {calibration.judged} results"
        + (f", AUC {found:.2f}" if found is not None else ""),
    )
    axes.grid(alpha=0.25)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()
