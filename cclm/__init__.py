"""Cross-View Language Modeling: pre-training, fine-tuning and cross-lingual evaluation."""

__version__ = "0.1.0"
