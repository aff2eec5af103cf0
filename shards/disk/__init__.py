"""Files of a data set: names, tars, JPEGs, records, stores, locks, and text made safe to show."""
