"""From class names to meanings to prompts, and how much the prompts differ."""
