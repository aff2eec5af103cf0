"""Files, tars and tables of a data set; knows nothing of prompts, models or clusters."""
