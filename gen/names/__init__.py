"""What is known about a class name: its kind, how it is displayed, its senses in WordNet."""
