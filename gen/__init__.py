"""From class names to synthetic images: names, meanings, prompts, plan, sampler, screen, unit."""

from pathlib import Path

HOME = Path(__file__).resolve().parent.parent  # the checkout: relative folders of a recipe are also looked for here
