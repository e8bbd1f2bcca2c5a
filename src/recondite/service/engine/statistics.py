"""What an event keeps of the statistics of an image."""

import math

from recondite.statistics.scores import Verdicts


def statistics_of(verdicts: Verdicts) -> list[dict[str, float]]:
    """Return the finite statistics of each image."""
    columns = {name: column.tolist() for name, column in (verdicts.statistics or {}).items()}
    return [
        {name: values[index] for name, values in columns.items() if math.isfinite(values[index])}
        for index in range(len(verdicts))
    ]
