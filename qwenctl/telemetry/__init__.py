"""What happened, in units: recordings of a run. Knows nothing of how they are made or shown."""
