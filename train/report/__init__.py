"""What results say together, as tables and as a page."""
