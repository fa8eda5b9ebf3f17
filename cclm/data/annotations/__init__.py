"""Annotation files of the benchmarks, as they are published: one module a file format."""
