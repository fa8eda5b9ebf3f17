"""A stored record or an annotation becomes an example: text cleaned and tokenized, image transformed, words masked."""
