"""Estimate the energy of training with codecarbon, offline, from the load of processor, memory and GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Meter:
    """The energy in kWh, after its context has ended; None if nothing was measured."""

    kwh: float | None = None


@contextmanager
def energy_meter(wanted: bool) -> Iterator[Meter]:
    """Within this context, the energy of this process is estimated.

    If the machine has no counter of its own, codecarbon multiplies the processor's load by an assumed power for its
    model, and adds a constant for the memory. This suits comparisons of runs on one machine, and is rough otherwise.
    """
    meter = Meter()
    if not wanted:
        yield meter
        return
    from codecarbon import OfflineEmissionsTracker  # imported here, because it is an extra and takes seconds

    tracker = OfflineEmissionsTracker(
        country_iso_code="USA",  # for the emissions, which are not used
        tracking_mode="process",
        save_to_file=False,
        log_level="error",
        allow_multiple_runs=True,  # a benchmark has several processes at once
    )
    tracker.start()
    try:
        yield meter
    finally:
        tracker.stop()
        meter.kwh = tracker.final_emissions_data.energy_consumed
