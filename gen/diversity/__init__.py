"""How different prompts are before any image is made: figures, their measurement, one page."""
