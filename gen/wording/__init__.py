"""The words of a prompt: templates, contexts, styles, captions, and the lexicon they are drawn from."""
