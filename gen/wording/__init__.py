"""The words of a prompt: templates, contexts, styles and captions, and the lexicon they come from."""
