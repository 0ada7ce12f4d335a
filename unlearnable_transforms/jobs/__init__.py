"""One resumable run over the units of a data set: journal, ledger, workers."""
