"""The library inside other libraries' pipelines."""
