"""The model: encoders, fusion and heads. No losses, no loading, no processes."""
