"""Classes that stand in for labels: clusters, albums, tables."""
