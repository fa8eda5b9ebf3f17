"""Data as it is stored: files and their formats, the index of records, the order of reading, and the records."""
