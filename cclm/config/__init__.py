"""Settings: typed models of every config, the files that hold them, and the published files' translation."""
