"""What is true of a model at a host, as dated rows, and what that asks of a request."""
