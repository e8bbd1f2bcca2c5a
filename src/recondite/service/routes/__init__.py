"""Routes of the service and what requests pass on their way."""
