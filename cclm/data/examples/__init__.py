"""A stored record or an annotation becomes an example:
texts cleaned and tokenized, images transformed, words masked.
"""
