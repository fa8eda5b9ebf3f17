"""Annotation files of the benchmarks as they are published: one module for each file format."""
