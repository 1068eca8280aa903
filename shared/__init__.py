"""What every room of the house shares: types, settings, queue names, the ledger, artifacts and image I/O."""
