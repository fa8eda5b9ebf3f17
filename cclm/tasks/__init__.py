"""What is trained: from a typed batch to named losses."""
