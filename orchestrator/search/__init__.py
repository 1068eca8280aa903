"""Pure search strategies: no I/O, no Celery, no Redis."""

from orchestrator.search.base import Search, Step
from orchestrator.search.best_of_n import BestOfN
from orchestrator.search.eacps import Eacps
from orchestrator.search.zero_order import ZeroOrder
from shared.settings.search import SearchSettings

__all__ = ["Search", "Step", "make_search"]


def make_search(settings: SearchSettings) -> Search:
    """The strategy that `settings.name` names."""
    match settings.name:
        case "eacps":
            return Eacps(settings)
        case "best-of-n":
            return BestOfN(settings)
        case "zero-order":
            return ZeroOrder(settings)
