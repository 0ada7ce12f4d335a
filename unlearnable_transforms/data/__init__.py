"""Data sets: how pictures, labels and files are read and written, in one place for every verb."""
