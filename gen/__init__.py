"""From class names to synthetic images: classes, prompts, plan, sampler, screen."""
