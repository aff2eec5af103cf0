"""The judge of edited images: questions, answers, verdicts."""
