"""Units of work spread over workers: the schedule, its drivers, events, progress."""
