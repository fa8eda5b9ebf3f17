"""Real stores for tests: HDFS, S3 and GCS servers on loopback, and ways to break them."""
