"""Units of work spread over workers: schedule, drivers, events, progress."""
