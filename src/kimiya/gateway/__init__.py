"""The address clients point at: a bare ASGI application over the pipeline."""
