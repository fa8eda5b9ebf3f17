"""What `cclm data ...` does beyond reading: checks, re-sharding, and the look through an IGLUE tree."""
