"""Many requests at once on one engine: the thread that steps it, and what may be asked of it meanwhile."""
