"""Calibration data: batches, a cache on disk, outliers."""
