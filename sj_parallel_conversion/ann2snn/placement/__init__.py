"""Where neurons go, with which thresholds."""
