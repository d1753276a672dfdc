"""What the operator's commands do, as async functions with typed results over the services."""
