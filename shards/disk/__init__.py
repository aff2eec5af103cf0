"""Files of a data set: names, tars, pictures, records, stores, locks, files replaced whole."""
