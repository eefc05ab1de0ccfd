"""What a pre-training will take before it is begun: arithmetic (:mod:`lcl_core.costs`) at rates that were measured.

Knows neither torch nor the database: who asks brings the runs that were.
"""

from lcl_core.forecast.forecast import Certainty, Counts, Forecast, Range, forecast
from lcl_core.forecast.past import Past, past_of

__all__ = ["Certainty", "Counts", "Forecast", "Past", "Range", "forecast", "past_of"]
