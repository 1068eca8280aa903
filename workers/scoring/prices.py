"""What Gemini's models cost, for accounts and budgets.

List prices in US dollars per million tokens (https://ai.google.dev/gemini-api/docs/pricing, read in November 2026).
`scoring.gemini.price_input` and `price_output` replace them.
"""

from dataclasses import dataclass
from datetime import date

from shared.settings.judges import GeminiSettings

_FOREVER = date.max


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars of one call."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


#: Model by prefix (the longer first), last day of the price, price.
_LIST: tuple[tuple[str, date, Price], ...] = (
    ("gemini-3.8-flash", date(2026, 12, 31), Price(0.75, 3.75)),
    ("gemini-3.8-flash", _FOREVER, Price(1.50, 7.50)),
    ("gemini-3.5-flash", _FOREVER, Price(1.50, 9.00)),
    ("gemini-3.1-pro", _FOREVER, Price(2.00, 12.00)),
    ("gemini-4-argon", date(2026, 11, 30), Price(2.00, 10.00)),
    ("gemini-4-argon", _FOREVER, Price(4.00, 20.00)),
    ("gemini-4-carbon", date(2026, 11, 30), Price(2.00, 10.00)),
    ("gemini-4-carbon", _FOREVER, Price(4.00, 20.00)),
    ("gemini-4-hydrogen", _FOREVER, Price(1.50, 7.50)),
)


def price_of(settings: GeminiSettings, today: date) -> Price | None:
    """The price of the configured model; `None` when neither the settings nor the list know it."""
    if settings.price_input is not None and settings.price_output is not None:
        return Price(settings.price_input, settings.price_output)
    listed = next(
        (
            price
            for prefix, last_day, price in _LIST
            if settings.model.startswith(prefix) and "lite" not in settings.model and today <= last_day
        ),
        None,
    )
    if listed is None:
        return None
    return Price(
        listed.input if settings.price_input is None else settings.price_input,
        listed.output if settings.price_output is None else settings.price_output,
    )
