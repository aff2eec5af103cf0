"""From class names to synthetic images: names, meanings, prompts, plan, sampler, screen, unit."""
