"""Make one model folder out of another: quantised, repacked, or in another type. No HTTP, no printing."""
