"""The demo world: drawn scenes with captions in many languages, in the original formats and folders."""
