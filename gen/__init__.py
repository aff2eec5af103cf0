"""Class names into synthetic images: names, meanings, prompts, plan, sampler, screen, shards."""
