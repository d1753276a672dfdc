"""Layer 2: the container and its services."""
