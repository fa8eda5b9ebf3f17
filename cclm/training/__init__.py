"""The training loop and what decides its course: plan of batches, learning rate, process environment."""
