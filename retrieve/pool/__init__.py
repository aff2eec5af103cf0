"""What there is to search in: captioned images, their embeddings, their tars."""
