"""From a trained ANN to a spiking network: options, graph passes, thresholds, calibration, the converted network."""
