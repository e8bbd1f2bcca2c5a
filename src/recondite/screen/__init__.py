"""A detector with a calibration and a false-alarm rate: fit, predict, save, monitor, guard, export."""
