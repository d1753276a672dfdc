"""The three families behind the contracts: files, dummy and dual store."""
