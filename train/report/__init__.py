"""Results compared with each other: statistics, tables, and report.html."""
