"""The demo world: drawn scenes with captions in ten languages, in the original file formats and folder tree."""
