"""What is measured: sums and counts, reports, and the metrics of the tasks."""
