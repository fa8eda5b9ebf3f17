"""What lies in storage:
files and their formats, indexes of records, the order in which they are read, and the records themselves.
"""
