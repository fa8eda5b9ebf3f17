"""The model: encoders, fusion and heads. Losses, loading of weights and distributed training are elsewhere."""
