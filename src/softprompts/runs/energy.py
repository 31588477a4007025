"""The energy that training takes, as codecarbon estimates it: offline, from the load of processor, memory and GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Meter:
    """What has been used, in kWh, once its context has ended; None where nothing was measured."""

    kwh: float | None = None


@contextmanager
def energy_meter(wanted: bool) -> Iterator[Meter]:
    """Within this context the energy of this process is estimated.

    Where the machine shows no counter of its own, codecarbon multiplies the processor's load by what it takes its
    model to draw, and adds a constant for the memory: good for comparing runs on one machine, rough otherwise.
    """
    meter = Meter()
    if not wanted:
        yield meter
        return
    from codecarbon import OfflineEmissionsTracker  # not above: it comes with an extra, and takes seconds to import

    tracker = OfflineEmissionsTracker(
        country_iso_code="USA",  # of the emissions, which are not read
        tracking_mode="process",
        save_to_file=False,
        log_level="error",
        allow_multiple_runs=True,  # a benchmark has several at once
    )
    tracker.start()
    try:
        yield meter
    finally:
        tracker.stop()
        meter.kwh = tracker.final_emissions_data.energy_consumed
